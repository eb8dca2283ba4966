"""A store: the activation sets in one Zarr hierarchy, and writing ready matrices into it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from saestore.activation_set import ActivationSet
from saestore.errors import InvalidInputError, NotFoundError, SaestoreError, StoreConflictError
from saestore.format import DEFAULT_SEGMENT_ROWS, MAX_ROWS_PER_SEGMENT, SetAttributes, feature_dtype, split_set_path
from saestore.query import html
from saestore.sparse_rows import SparseRows
from saestore.storage import find_sets, missing_as_error, open_root, stored_bytes
from saestore.tables import Items, as_items, item_pointers
from saestore.tables.item_index import ItemIndex
from saestore.tables.table_writer import write_tables
from saestore.verify import Report, verify_set, verify_store
from saestore.vocabulary import CODECS, DATA_DTYPES
from saestore.writing import SetWriter
from saestore.writing.writer import DEFAULT_MEMORY, Progress, read_attributes

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

_SHOWN = 20  # sets in a notebook


def open(location: Any, mode: str = "r") -> Store:
    """Open a store.

    Parameters
    ----------
    location
        A folder, a URL that zarr can open, or a zarr store such as ``zarr.storage.MemoryStore()`` or the ``.store`` of
        an icechunk session.
    mode
        ``"r"`` to read; ``"a"`` to read and write, created if it does not exist.

    Raises
    ------
    NotFoundError, StoreFormatError, StoreWriteError
        Nothing is there; it is no store, or a newer one; it cannot be written.
    """
    return Store(open_root(location, mode), mode)


class Store:
    """The activation sets of one Zarr hierarchy, a mapping from path to `ActivationSet`.

    ``store["CLEVR/patch"]`` takes any part of a path that fits one set only.
    """

    def __init__(self, root: zarr.Group, mode: str = "r") -> None:
        self.root = root
        self.mode = mode

    def __repr__(self) -> str:
        return (
            f"<saestore.Store {self.root.store} with {len(self)} activation sets: {', '.join(self.sets()) or 'none'}>"
        )

    def _repr_html_(self) -> str:
        """A table of the sets; damage is shown, never raised: this is how one looks for it."""
        found, damaged = find_sets(self.root)
        rows = [_html_row(self.root, path) for path in found[:_SHOWN]]
        head = ["set", "samples", "features", "non-zeros", "L0", "items", "size", "SAE", "state"]
        more = f"<p>… {len(found) - _SHOWN:,} more sets</p>" if len(found) > _SHOWN else ""
        broken = "".join(f"<p>Damaged: {escape(str(error))}</p>" for error in damaged.values())
        body = html.table(head, rows, left=(0, 7, 8)) if found else "<p>No activation set yet.</p>"
        return f"<strong>saestore.Store</strong> {escape(str(self.root.store))}{body}{more}{broken}"

    def sets(self) -> list[str]:
        """Paths of all activation sets, ``dataset/sample_type/sae``, sorted."""
        found, damaged = find_sets(self.root)
        if damaged:
            raise next(iter(damaged.values()))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets())

    def __len__(self) -> int:
        return len(self.sets())

    def __contains__(self, path: object) -> bool:
        try:
            self.resolve(str(path))
        except NotFoundError:
            return False
        return True

    def resolve(self, path: str) -> str:
        """The full path of the one set that `path`, a part of a path, fits.

        Raises
        ------
        NotFoundError
            It fits none, or several; the message names them.
        """
        wanted = path.strip("/").split("/")
        if len(wanted) == 3:
            with missing_as_error(path):
                group = self.root.get("/".join(wanted))
                if isinstance(group, zarr.Group) and "format" in group.attrs:
                    return "/".join(wanted)
        sets = self.sets()
        fits = [s for s in sets if _contains(s.split("/"), wanted)] if path.strip("/") else sets
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise NotFoundError(f"{path!r} fits several activation sets; name one of {', '.join(fits)}.")
        import difflib

        near = difflib.get_close_matches(path, [*sets, *{p for s in sets for p in s.split("/")}], 3, 0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise NotFoundError(f"There is no activation set {path!r}. {hint}The store has {', '.join(sets) or 'none'}.")

    def __getitem__(self, path: str) -> ActivationSet:
        return ActivationSet(self.root, self.resolve(path))

    def write(
        self,
        path: str,
        matrix: scipy.sparse.sparray | scipy.sparse.spmatrix,
        item_ptr: Any = None,
        items: Any = None,
        *,
        dtype: str | None = None,
        codec: str = "pcodec",
        segment_rows: int = DEFAULT_SEGMENT_ROWS,
        overwrite: bool = False,
        memory: int = DEFAULT_MEMORY,
        progress: Progress | None = None,
    ) -> ActivationSet:
        """Store ready activations exactly: every non-zero, negative ones too; duplicates are summed first.

        Parameters
        ----------
        path
            ``dataset/sample_type/sae``.
        matrix
            Any scipy sparse matrix or array, samples x features.
        item_ptr
            int (n_items + 1,): item i has the rows ``item_ptr[i]:item_ptr[i + 1]``; or the rows of every item.
            By default the rows divide evenly among `items`, and without items each row is one.
        items
            A ``metadata.csv``, a DataFrame or a mapping of columns.
        dtype
            float16, float32 or float64; by default what holds the values exactly. A value that `dtype` cannot hold
            exactly is an error: only `saestore.build` narrows, and records it.
        segment_rows
            Rows of a segment while writing; at the end segments are merged into one.
        memory
            Bound in bytes on the merge at the end.

        Returns
        -------
        ActivationSet

        Raises
        ------
        InvalidInputError
            A value is not finite, the dtype cannot hold the values, the items do not fit the rows.
        StoreConflictError
            The set exists and `overwrite` is False.
        """
        split_set_path(path)
        csr = _as_csr(matrix)
        data, stored = _exact_values(csr.data, dtype)
        _check_finite(csr, data)
        _check_options(codec, segment_rows)
        items = None if items is None else as_items(items)
        index = item_index(item_ptr, items, csr.shape[0])
        attributes = SetAttributes(
            n_features=csr.shape[1],
            dtype=stored,
            codec=codec,
            n_items=index.n_items,
            item_size=index.item_size,
            segment_rows=segment_rows,
            planned_samples=csr.shape[0],
            source={"kind": "matrix"},
        )
        rows = SparseRows(csr.indptr.astype(np.int64), csr.indices.astype(feature_dtype(csr.shape[1])), data)
        with SetWriter(self.root, path) as writer:
            existing = writer.attributes
            if existing is not None:
                # What an interrupted write of a matrix left is written anew; what a build left may be days of work.
                if not overwrite and (existing.complete or existing.source != attributes.source):
                    raise StoreConflictError(f"{path} is in the store already; pass overwrite=True to replace it.")
                writer.clear()
            start_set(writer, attributes, items, index)
            for start in range(0, csr.shape[0], segment_rows):
                stop = min(start + segment_rows, csr.shape[0])
                writer.append(rows[start:stop])
            writer.finish(memory=memory, progress=progress)
        return self[path]

    def compact(self, path: str, *, memory: int = DEFAULT_MEMORY, progress: Progress | None = None) -> ActivationSet:
        """Merge the segments of a set into one, in at most `memory` bytes; queries answer the same all the while."""
        path = self.resolve(path)
        with SetWriter(self.root, path) as writer:
            writer.compact(memory=memory, progress=progress)
        return self[path]

    def verify(self, path: str | None = None, progress: Progress | None = None) -> Report:
        """Re-read everything and check it; see `saestore.verify`."""
        return (
            verify_store(self.root, progress) if path is None else verify_set(self.root, self.resolve(path), progress)
        )

    def delete(self, path: str) -> None:
        """Remove an activation set."""
        path = self.resolve(path)
        with SetWriter(self.root, path) as writer:
            writer.clear()
        del self.root[path]


def _html_row(root: zarr.Group, path: str) -> list[str]:
    try:
        a = read_attributes(root, path)
        if a is None:
            raise NotFoundError("deleted meanwhile")
        numbers = [f"{a.n_samples:,}", f"{a.n_features:,}", f"{a.nnz:,}", html.l0(a), f"{a.n_items:,}"]
        group: Any = root[path]
        return [path, *numbers, html.size(stored_bytes(group)), html.sae_name(a), html.state(a)]
    except (SaestoreError, KeyError) as error:
        return [path, *[""] * 7, str(error)]


def start_set(
    writer: SetWriter, attributes: SetAttributes, items: Items | None, index: ItemIndex, spans: Array | None = None
) -> None:
    """Create a set with its items; `spans` are the characters of every token, int32 (n_samples, 2)."""
    writer.start(attributes, lambda batch, a: write_tables(batch, a, items, index, spans))


def extend_set(
    writer: SetWriter, attributes: SetAttributes, items: Items | None, index: ItemIndex, spans: Array | None = None
) -> None:
    """Give a complete set more items, of which no samples are there yet.

    Parameters
    ----------
    attributes
        Of the set from then on.
    items, index, spans
        Of the items before and the new ones.
    """
    writer.extend(attributes, lambda batch, a: write_tables(batch, a, items, index, spans))


def item_index(item_ptr: Any, items: Items | None, n_rows: int) -> ItemIndex:
    """How rows belong to items: given, or divided evenly, or each row an item."""
    if item_ptr is None and items is None:
        return ItemIndex(n_rows, 1)
    return ItemIndex.of(item_pointers(item_ptr, None if items is None else len(items), n_rows))


def _as_csr(matrix: Any) -> Any:
    import scipy.sparse as sp

    if not sp.issparse(matrix):
        raise InvalidInputError(
            f"matrix is a {type(matrix).__name__}; give a scipy sparse matrix, such as scipy.sparse.csr_array(dense)."
        )
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InvalidInputError(f"matrix has shape {matrix.shape}; it needs at least one sample and one feature.")
    if matrix.dtype == np.float16 or not matrix.dtype.isnative:  # scipy holds these, but can do nothing with them
        matrix = matrix.astype(np.float32 if matrix.dtype == np.float16 else matrix.dtype.newbyteorder("="))
    csr = sp.csr_array(matrix)
    if csr is matrix or np.shares_memory(csr.data, matrix.data if hasattr(matrix, "data") else csr.data):
        csr = csr.copy()
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def _exact_values(data: Array, dtype: str | None) -> tuple[Array, str]:
    """The values in the narrowest stored dtype that holds them exactly, at least float32, or in the one asked for."""
    if data.dtype.kind not in "fiub":
        raise InvalidInputError(
            f"activations are {data.dtype}; they must be real numbers (float16 to float64, or int)."
        )
    if dtype is not None and dtype not in DATA_DTYPES:
        raise InvalidInputError(f"dtype {dtype!r}: use one of {', '.join(DATA_DTYPES)}.")
    if dtype is None and data.dtype.kind == "f" and data.dtype.itemsize <= 8:
        return data, data.dtype.name
    for name in ("float32", "float64") if dtype is None else (dtype,):
        with np.errstate(over="ignore"):
            cast = data.astype(name)
        with np.errstate(invalid="ignore"):
            same = (cast.astype(data.dtype) == data) | ~np.isfinite(data)  # what is not finite is told of later
        if bool(same.all()):
            return cast, name
    worst = data[~same][0]
    raise InvalidInputError(f"activation {worst!r} of dtype {data.dtype} cannot be stored exactly as {name}.")


def _check_finite(csr: Any, data: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        row = int(np.searchsorted(csr.indptr, bad[0], "right")) - 1
        raise InvalidInputError(
            f"the activation of sample {row}, feature {int(csr.indices[bad[0]])} is {data[bad[0]]}; "
            "activations must be finite. Nothing was written."
        )


def _check_options(codec: str, segment_rows: int) -> None:
    if codec not in CODECS:
        raise InvalidInputError(f"codec {codec!r}: use one of {', '.join(CODECS)}.")
    if not 1 <= segment_rows <= MAX_ROWS_PER_SEGMENT:
        raise InvalidInputError(f"segment_rows {segment_rows}: use 1 to {MAX_ROWS_PER_SEGMENT}.")


def _contains(parts: list[str], wanted: list[str]) -> bool:
    return any(parts[i : i + len(wanted)] == wanted for i in range(len(parts)))
