"""Which rows of an input become samples: a mask, and conditions on tokens, positions and norms."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, raise_unreachable, require, shown
from saestore.files import as_numpy, existing_file, load_tensors, read_parquet, split_member
from saestore.format import SOURCE_ROW
from saestore.formats.base import Opened
from saestore.npz import load_array
from saestore.query.where import bind
from saestore.query.where_names import NamedValues, Names, NameSource
from saestore.query.where_parser import parse
from saestore.sparse_rows import Array, SparseRows, pointers
from saestore.tables.column import Column, as_column
from saestore.tables.item_index import ItemIndex
from saestore.writing.plan import ItemTable

if TYPE_CHECKING:
    from saestore.embeddings.base import EmbeddingSource
    from saestore.ingest.options import RowOptions

Computed = Mapping[str, Callable[[], Array]]

_SINK = 10  # times the median norm
_NORM_BYTES = 64 << 20
_NUMBERS = ("item", "position", "sample")
_OF_EMBEDDINGS = ("norm", "sink")


@dataclass(frozen=True)
class RowChoice:
    """The rows that become samples."""

    table: ItemTable  # the items of these rows, with their columns
    keep: Array | None = None  # bool, for each row of the input; None where all become samples
    record: Mapping[str, Any] = field(default_factory=dict)  # what the set records of the choice


def chosen_rows(options: RowOptions, table: ItemTable, mask: Array | None, computed: Computed) -> RowChoice:
    """The rows that a mask (bool, one per row in any shape), ``include`` and ``exclude`` leave.

    Conditions may name what is `computed`, the columns of the table, item, position and sample.
    """
    given = {"include": _texts(options.include), "exclude": _texts(options.exclude)}
    if mask is None and not any(given.values()):
        return RowChoice(table)
    n_rows = int(table.index.pointers()[-1])
    keep = np.ones(n_rows, bool) if mask is None else mask.reshape(-1)
    names = _RowNames(table, n_rows, computed)
    for option, conditions in given.items():
        for condition in conditions:
            fulfilled = np.zeros(n_rows, bool)
            fulfilled[_fulfilling(condition, names, option)] = True
            keep = keep & (fulfilled if option == "include" else ~fulfilled)
    if not keep.any():
        raise InvalidInputError(
            "include, exclude and mask leave none of the rows; nothing was written.", code="nothing-selected"
        )
    record: dict[str, Any] = {name: list(texts) for name, texts in given.items() if texts}
    record |= {"n_masked": int((~keep).sum()), "mask_fingerprint": _sha256(np.packbits(keep))}
    return RowChoice(_kept(table, keep), keep, record)


def of_rows(opened: Opened, keep: Array | None) -> Opened:
    """Only these rows of a file; reading them reads what is between them."""
    if keep is None:
        return opened
    ids = np.flatnonzero(keep)

    def read(start: int, stop: int) -> SparseRows:
        rows, parts = ids[start:stop], []
        for first in range(int(rows[0]), int(rows[-1]) + 1, opened.step):
            last = min(first + opened.step, int(rows[-1]) + 1)
            parts.append(opened.read(first, last).select(rows[(rows >= first) & (rows < last)] - first))
        return SparseRows.concat(parts)

    return replace(opened, n_rows=len(ids), read=read)


def open_mask(spec: Any, beside: Any, n_rows: int, per_item: Any = None) -> Array:
    """Which rows count: bool, (n_rows,) or (n_items, rows of an item).

    `spec` is an array or tensor of bool or of 0 and 1, a file of one (``.npy``, ``.npz``, ``.pt``, ``file:key``), or
    the name of one in the input `beside` or of a file next to it. (n_items, rows) must have `per_item` rows, where it
    is known.
    """
    where, values = _per_row(spec, beside, "mask", per_item)
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise InvalidInputError(f"{where} is {values.dtype}; a mask is bool, or 0 and 1", code="bad-mask")
    if values.size != n_rows or values.ndim not in (1, 2):
        raise InvalidInputError(
            f"{where} has the shape {values.shape}, but there are {n_rows:,} rows; give one value for each",
            code="bad-mask",
        )
    if not values.any():
        raise InvalidInputError(f"{where} leaves no row", code="bad-mask")
    return values.astype(bool)


def mask_and_tokens(options: RowOptions, beside: Any, n_rows: int, per_item: Any) -> tuple[Array | None, Array | None]:
    """The mask and the token ids of an input's rows, None where they are not given; arguments as in `open_mask`."""
    mask = None if options.mask is None else open_mask(options.mask, beside, n_rows, per_item)
    per_item = rows_per_item(mask) if per_item is None else per_item
    return mask, None if options.tokens is None else token_ids(options.tokens, beside, n_rows, per_item)


def rows_per_item(*given: Array | None) -> int | None:
    """Rows of an item, as the shape (n_items, rows) of a mask or of token ids states it."""
    return next((each.shape[1] for each in given if each is not None and each.ndim == 2 and each.shape[1] > 1), None)


def token_ids(spec: Any, beside: Any, n_rows: int, per_item: Any = None) -> Array:
    """The token id of each row, int64, in the shape that is given; arguments as in `open_mask`."""
    where, values = _per_row(spec, beside, "tokens", per_item)
    if values.dtype.kind not in "iu" or values.size != n_rows:
        raise InvalidInputError(
            f"{where} is {values.dtype} {values.shape}; token ids are integers, one per row: ({n_rows},).",
            code="bad-tokens",
        )
    return values.astype(np.int64)


def norms(opened: Callable[[], EmbeddingSource]) -> Computed:
    """``norm``, the Euclidean length of each row, and ``sink``, whether it is above 10 times the median length.

    The embeddings are opened and read once, when a condition names one of the two.
    """

    @cache
    def norm() -> Array:
        import torch

        source = opened()
        step = max(1, _NORM_BYTES // (4 * source.d_in))
        blocks = (source.read(start, min(start + step, source.n_rows)) for start in range(0, source.n_rows, step))
        return np.concatenate([torch.linalg.vector_norm(block.double(), dim=1).numpy() for block in blocks])

    return {"norm": norm, "sink": lambda: norm() > _SINK * np.median(norm())}


def tokens_record(tokens: Array | None) -> dict[str, str]:
    """What a set records of its token ids, by which other ones are recognised."""
    return {} if tokens is None else {"tokens_fingerprint": _sha256(tokens)}


def _sha256(values: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


class _RowNames(NameSource):
    """What names in ``include`` and ``exclude`` stand for."""

    def __init__(self, table: ItemTable, n_rows: int, computed: Computed) -> None:
        super().__init__(table.index.n_items)
        self.n_samples, self.index, self._table = n_rows, table.index, table
        self._of_rows = {name: lambda values=values: values for name, values in table.columns.items()} | dict(computed)
        self.numbers = (*_NUMBERS, *self._of_rows)

    def known(self) -> list[str]:
        items = self._table.items
        return [] if items is None else ["key", *items.columns, *items.concepts]

    def find(self, name: str, level: str | None) -> NamedValues | None:
        items = self._table.items
        of_items = {} if items is None else {"key": items.key, **items.columns, **items.concepts}
        if name in of_items and level in (None, "item"):
            column = as_column(of_items[name], name)
            return NamedValues(name, column, column.values.dtype)
        if level not in (None, "sample"):
            return None
        if name in self._of_rows:
            values = self._of_rows[name]()
            return NamedValues(name, lambda block: Column(values[block.rows]), values.dtype)
        if name in _NUMBERS:
            return NamedValues(name, lambda block: Column(block.numbers(name)), np.dtype(np.int64))
        if name in _OF_EMBEDDINGS:
            raise NotFoundError(
                f"where={name}: it is of embeddings, which a file of activations does not hold; name them with "
                "--source embeddings=PATH (source=).",
                code="unknown-column",
            )
        return None


def _fulfilling(condition: str, names: _RowNames, option: str) -> Array:
    try:
        found = bind(parse(condition), cast("Names", names))  # it asks for what all sources of names have
    except (InvalidInputError, NotFoundError) as error:
        raise type(error)(str(error).replace("where=", f"{option}=", 1), code=error.code) from None
    return np.flatnonzero(found.over_samples(names.n_samples))


def _texts(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    texts = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    wrong = next((each for each in texts if not isinstance(each, str)), None)
    if wrong is not None:
        raise InvalidInputError(
            f"include= and exclude= take conditions such as 'position > 0', not {shown(wrong)}.", code="where-type"
        )
    return texts


def _kept(table: ItemTable, keep: Array) -> ItemTable:
    """The items with only these of their rows."""
    return replace(
        table,
        index=ItemIndex.of(pointers(keep)[table.index.pointers()]),
        spans=None if table.spans is None else table.spans[keep],
        columns={**{name: values[keep] for name, values in table.columns.items()}, SOURCE_ROW: np.flatnonzero(keep)},
    )


def _per_row(spec: Any, beside: Any, what: str, per_item: Any) -> tuple[str, Array]:
    """Where an array with values per row is, for messages, and the array."""
    where = what
    if isinstance(spec, str | os.PathLike):
        where, spec = _load(os.fspath(spec), beside, what)
    try:
        values = as_numpy(spec, where) if hasattr(spec, "detach") else np.asarray(spec)
    except ValueError as error:
        raise InvalidInputError(f"{where} is not an array ({error})", code=f"bad-{what}") from error
    if values.ndim > 1 and isinstance(per_item, int) and values.shape[1] not in (1, per_item):
        raise InvalidInputError(
            f"{where} has the shape {values.shape}, and an item has {per_item} rows; give (items, {per_item}).",
            code=f"bad-{what}",
        )
    return where, values


def _load(spec: str, beside: Any, what: str) -> tuple[str, Any]:
    path, key = split_member(spec)
    if isinstance(beside, Mapping) and spec in beside:
        return spec, beside[spec]
    if key is None and not path.exists() and hasattr(beside, "select_columns"):  # a Dataset in memory
        return spec, _column(beside, spec, "the Dataset")
    if key is None and not path.exists() and isinstance(beside, str | os.PathLike):
        path, key = _beside(split_member(beside)[0], spec)
    where = str(path) if key is None else f"{path}:{key}"
    loaded = load_array(where, 1) if path.suffix in (".npy", ".npz") else None
    if loaded is not None:
        return loaded
    if (path / "dataset_info.json").is_file() and key is not None:
        data = require("datasets", "sae", f"reading {path}").load_from_disk(str(path))
        return where, _column(data, key, str(path))
    if path.suffix in (".h5", ".hdf5", ".parquet") and key is not None:
        return where, _member(path, key)
    tensors = load_tensors(path, sparse=True) if path.suffix in (".pt", ".safetensors") else {}
    value = tensors.get(key or "")
    if key is not None and tensors and value is None:
        raise NotFoundError(f"{path} has no tensor {key!r}; it has {', '.join(tensors)}", code="no-such-array")
    if not hasattr(value, "numpy"):
        raise InvalidInputError(
            f"the {what} {spec} is neither a file (.npy, .npz:NAME, .pt, .safetensors:NAME, .h5:NAME, .parquet:NAME) "
            "nor an array in the input or beside it",
            code=f"bad-{what}",
        )
    return where, value


def _beside(path: Path, name: str) -> tuple[Path, str | None]:
    """The file of this name beside an input; where there is none, the input and the name of an array in it."""
    files = [path.parent / f"{name}{suffix}" for suffix in (".npy", ".npz", ".pt")]
    return next(((file, None) for file in files if file.is_file() and file != path), (path, name))


def _column(data: Any, name: str, where: str) -> Array:
    """A column of a Dataset, such as ``token_ids`` of SAELens's cached activations."""
    if name not in data.column_names:
        raise NotFoundError(
            f"{where} has no column {name!r}; it has {', '.join(data.column_names)}", code="no-such-array"
        )
    return np.asarray(data.select_columns([name]).with_format("numpy")[:][name])


def _member(path: Path, name: str) -> Array:
    """A dataset of an HDF5 file, or a column of a Parquet file."""
    existing_file(path)
    try:
        if path.suffix == ".parquet":
            return np.asarray(read_parquet(path, [name])[name].to_pylist())
        with require("h5py", "anndata", f"reading {path}").File(path, "r") as file:
            return np.asarray(file[name])
    except (KeyError, ValueError, OSError) as error:
        raise_unreachable(str(path), error)
        raise NotFoundError(
            f"{path} has no array {name!r} that can be read ({' '.join(str(error).split())[:100]})",
            code="no-such-array",
        ) from error
