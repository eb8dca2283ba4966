"""What a format of another program is, an opened file of it, and how its rows become rows of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import damage, existing_file
from saestore.format import feature_dtype
from saestore.formats.issues import Issue, IssueCollector
from saestore.sparse_rows import Array, SparseRows, pointers
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import Items
from saestore.vocabulary import FORMATS

# Entries, stored zeros included, that are read and checked at once: about 100 MiB while they are sorted.
BLOCK = 1 << 21


@dataclass(frozen=True)
class Source:
    """What is to be opened."""

    path: Path  # the file or folder
    resources: ExitStack  # closes the files in the end
    # Of the set that the rows are for: ``patch``, ``token`` or ``cls``, and the SAE's name if it is given.
    sample_type: str = "patch"
    sae: str | None = None
    # As in `saestore.import_activations`.
    n_features: int | None = None
    sparse: Any = None
    pad_token: int | None = None
    progress: Callable[[str], None] | None = None  # called with a line of text
    others: tuple[str, ...] = ()  # names of arrays in the file that are read besides, such as a mask


@dataclass(frozen=True)
class Opened:
    """Activations in a file of another program, opened but not read."""

    format: str  # its name, as ``--format`` has it
    path: str  # for messages and records
    files: tuple[Path, ...]  # all files that it is made of
    # Shape; `n_features` is None where the file does not state it.
    n_rows: int
    n_features: int | None
    dtype: str  # dtype that holds every activation exactly: float16, float32 or float64
    # ``read(start, stop)`` gives these rows as they are in the file, faults included; cheapest in ascending order.
    read: Callable[[int, int], SparseRows]
    step: int  # rows to read at once, so that a read stays within about 100 MiB
    row_capacity: int | None = None  # entries that every row has room for, where zeros fill the rest
    sum_duplicates: bool = False  # whether a feature that comes twice in a row means the sum
    # Which rows belong to which item and what the items are, where the file states it.
    item_ptr: Any = None
    items: Items | None = None
    default_item_size: int = 1  # rows per item where neither the caller nor the file states it
    issues: tuple[Issue, ...] = ()  # issues that opening it showed
    # Issues between the rows and the items that they belong to.
    check_items: Callable[[Items | None, ItemIndex], Sequence[Issue]] | None = None
    # Further columns of samples by name, (n_rows,) each, such as token ids.
    columns: Mapping[str, Array] = field(default_factory=dict)
    when_full: str = ""  # what it means, for this SAE, that rows fill their capacity
    digest: str | None = None  # of activations in memory, which have no files
    # What is known of the SAE and of where the activations come from.
    sae: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)


class Written(NamedTuple):
    """Names of the files that a format wrote, the one last that makes the output look complete; and what it changed."""

    files: tuple[str, ...]  # where there are others than the path that was asked for
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format of another program."""

    name: str  # a key of `saestore.vocabulary.FORMATS`
    # Whether a path is of this format, by its name and a look into it.
    recognise: Callable[[Path], bool] = lambda _: False
    open: Callable[[Source], Opened] | None = None  # opens a `Source`; None where the format is only written
    # ``write(selected, path, **options)`` writes to a new path, or several files beside it.
    write: Callable[..., Written | None] | None = None
    options: tuple[str, ...] = ()  # the arguments of import and export that belong to this format
    # Of a target, the files there that an export would replace or that would be taken for a part of it.
    existing: Callable[[Path], list[Path]] = lambda target: [target]

    def check_options(self, given: Iterable[str], path: Path) -> None:
        """Refuse options of other formats among those that are `given`."""
        for name in given:
            if name not in self.options:
                raise InvalidInputError(
                    f"{name} does not apply to {path}, which is of the format {self.name}; leave it out.",
                    code="option-of-another-format",
                )


def bad_shape(message: str) -> InvalidInputError:
    """The error for activations whose parts do not make a matrix."""
    return InvalidInputError(message, code="bad-shape")


def load_format(name: str) -> Format:
    """A format by its name, a key of `saestore.vocabulary.FORMATS`; imports its module."""
    declared: tuple[Format, ...] = import_module(FORMATS[name]).FORMATS
    return next(each for each in declared if each.name == name)


def clean(rows: SparseRows, first_row: int, issues: IssueCollector, dtype: str) -> SparseRows:
    """Rows as a store holds them: ids strictly ascending in a row, no zeros; everything else counts as an issue.

    Entries with an error are left out, so that the rest can still be checked. Memory: about 50 bytes per entry.
    """
    n, width = len(rows), issues.n_features
    check_ids(rows.indices, "the file")
    row = np.repeat(np.arange(n), np.diff(rows.indptr))
    ids, values = rows.indices, rows.data
    keep = _usable(row, ids, values, first_row, issues)
    if not keep.all():
        row, ids, values = row[keep], ids[keep], values[keep]
    key = row * width + ids.astype(np.int64, copy=False)

    def at(entry: int) -> tuple[int, int]:
        return first_row + int(key[entry]) // width, int(key[entry]) % width

    falls = key[1:] < key[:-1]
    if falls.any():
        unsorted = np.unique(row[1:][falls])
        issues.add("unsorted", unsorted, lambda each: (first_row + each,))
        order = np.argsort(key, kind="stable")
        key, values = key[order], values[order]
    values = values.astype(dtype, copy=False)
    repeated = np.flatnonzero(key[1:] == key[:-1])
    if len(repeated):
        issues.add("summed_duplicates" if issues.sum_duplicates else "duplicates", repeated, at)
        key, values = _merged(key, values, sum_duplicates=issues.sum_duplicates)
        over = np.flatnonzero(~np.isfinite(values))  # a sum may overflow where its parts did not
        issues.add("not_finite", over, lambda entry: (*at(entry), float(values[entry]), ""))
    issues.add("negative", np.flatnonzero(values < 0), at)
    row, ids = np.divmod(key, width)
    lengths = np.bincount(row, minlength=n)
    issues.count_rows(lengths)
    return SparseRows(pointers(lengths), ids.astype(feature_dtype(width)), values)


def check_ids(ids: Array, where: str, within: np.iinfo[Any] | None = None) -> None:
    """Refuse numbers of rows or features that are not integers, or that a cast to a narrower dtype would change."""
    if ids.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{where} has numbers of dtype {ids.dtype}; numbers of rows and features are integers.",
            code="unsupported-dtype",
        )
    if within is not None and len(ids):
        for number in (int(ids.min()), int(ids.max())):
            if not within.min <= number <= within.max:
                raise InvalidInputError(
                    f"{where} has the feature {number}, which no set has. The file is damaged.", code="id-out-of-range"
                )


def _usable(row: Array, ids: Array, values: Array, first_row: int, issues: IssueCollector) -> Array:
    """Which entries are activations: not zero, finite, of a feature that exists."""
    finite, nonzero = np.isfinite(values), values != 0
    inside = (ids >= 0) & (ids < issues.n_features)
    half = "; float16 holds nothing above 65,504, so it may be an overflow" if values.dtype == np.float16 else ""

    def at(entry: int) -> tuple[int, int]:
        return first_row + int(row[entry]), int(ids[entry])

    issues.add("not_finite", np.flatnonzero(~finite), lambda entry: (*at(entry), float(values[entry]), half))
    issues.add("padding" if issues.row_capacity is not None else "explicit_zeros", np.flatnonzero(~nonzero), at)
    issues.add("id_out_of_range", np.flatnonzero(~inside & nonzero), lambda entry: (*at(entry), issues.n_features - 1))
    usable: Array = finite & nonzero & inside
    return usable


def _merged(key: Array, values: Array, *, sum_duplicates: bool) -> tuple[Array, Array]:
    """Add up entries of the same place, or keep the first; sums of zero are left out."""
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    if not sum_duplicates:
        return key[starts], values[starts]
    with np.errstate(over="ignore"):
        sums = np.add.reduceat(values, starts)
    kept = sums != 0
    return key[starts][kept], sums[kept]


def nonzeros(values: Array) -> SparseRows:
    """The entries of dense rows, (n_rows, n_features), that are not zero."""
    flat = np.ascontiguousarray(values).reshape(-1)
    # numpy finds the true ones of booleans several times faster than the non-zeros of floats.
    entries = np.flatnonzero(flat != 0)
    rows, ids = np.divmod(entries, values.shape[1])
    return SparseRows(pointers(np.bincount(rows, minlength=len(values))), ids, flat[entries])


def rows_per_block(n_rows: int, n_entries: int) -> int:
    """How many rows have about a block of entries."""
    return int(min(n_rows, max(1, BLOCK * n_rows // max(1, n_entries))))


def stored_dtype(dtype: np.dtype[Any], where: str) -> str:
    """Dtype in which a store holds the values of a file: the file's own, at least float32 for integers."""
    if dtype.kind in "biu":
        return "float32" if dtype.itemsize <= 2 else "float64"
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return f"float{8 * dtype.itemsize}"
    raise InvalidInputError(
        f"{where} holds {dtype}; activations are float16 to float64, or integers.", code="unsupported-dtype"
    )


def as_floats(values: Array, dtype: str, where: str) -> Array:
    """Values in the dtype that `stored_dtype` chose."""
    floats = values.astype(dtype, copy=False)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        inexact = np.flatnonzero(floats.astype(values.dtype) != values)
        if len(inexact):
            raise InvalidInputError(
                f"{where} holds {values.flat[inexact[0]]}, which no float64 equals; give floats.", code="inexact-value"
            )
    return floats


_SAMPLES = 256
_BYTES = 4096


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 (hex) over the sizes of files, in their order, and 256 evenly spaced pieces of 4 KiB of each.

    Files may move before an import is resumed. Of a folder every file in it counts, in the order of the names.
    """
    digest = hashlib.sha256()
    for path in files:
        parts = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [existing_file(path)]
        for part in parts:
            size = part.stat().st_size
            digest.update(f"{size}\n".encode())
            with damage(part, "cannot be read"), part.open("rb") as stream:
                for start in np.unique(np.linspace(0, max(0, size - _BYTES), _SAMPLES).astype(np.int64)).tolist():
                    stream.seek(start)
                    digest.update(stream.read(_BYTES))
    return digest.hexdigest()
