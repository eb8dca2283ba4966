"""Arrays for xarray that read when they are indexed, and only the requested part."""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from saestore.interop.coded_texts import CodedTexts
from saestore.query.slices import check_size
from saestore.sparse_rows import Array
from saestore.stats import Moments, statistics_table
from saestore.tables.column import as_objects

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.sample_coords import SampleCoordinates


_BLOCK = 1 << 20  # samples of a coordinate at a time
_INSTEAD = (
    "Select samples or features first (isel, sel); ask the store itself, with .sae.stats() or .sae.top(feature), which "
    "need no dense array; go through it piece by piece with chunks={}; or pass a larger max_bytes."
)


class LazyVariable(indexing.LazilyIndexedArray):
    """What a variable reads when it is asked. The ids of a selection take 4 bytes each, once for all variables.

    xarray by itself keeps 8 bytes for each id in each of ten variables: a gigabyte for a tenth of 10^8 samples.
    """

    __slots__ = ()
    _last: ClassVar[Any] = staticmethod(lambda: None)  # a weak reference to the ids of the last selection

    def _updated_key(self, new_key: indexing.ExplicitIndexer) -> Any:
        is_whole = all(isinstance(k, slice) and k == slice(None) for k in self.key.tuple)
        if is_whole and isinstance(new_key, indexing.OuterIndexer) and len(new_key.tuple) == self.ndim:
            key: Any = copy.copy(new_key)
        else:
            key = super()._updated_key(new_key)
        ids = zip(key.tuple, self.array.shape, strict=True)
        key._key = tuple(self._shared(k, n) if isinstance(k, np.ndarray) else k for k, n in ids)  # noqa: SLF001
        return key

    @classmethod
    def _shared(cls, ids: Array, size: int) -> Array:
        """Ids of an axis, not below 0, as narrow as its size allows: the same array for the same ids as before."""
        last, narrow = cls._last(), np.dtype(np.uint32 if size < 1 << 32 else np.int64)
        if last is not None and last.dtype == narrow and len(last) == len(ids):
            blocks = (slice(first, first + _BLOCK) for first in range(0, len(ids), _BLOCK))
            if all(np.array_equal(last[block], ids[block]) for block in blocks):
                return last  # type: ignore[no-any-return]
        kept = (np.where(ids < 0, ids + size, ids) if ids.min(initial=0) < 0 else ids).astype(narrow)
        cls._last = weakref.ref(kept)
        return kept


class Numbers(pd.RangeIndex):  # type: ignore[misc]
    """The numbers of samples. pandas before 3.0 makes all of them before it takes some by an array, and keeps them."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, np.ndarray) and key.shape == self.shape and key.dtype == bool:
            key = np.flatnonzero(key)
        is_ids = isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu"
        return self.take(key) if is_ids else super().__getitem__(key)


class LazyActivation(BackendArray):
    """The activations as a dense array, samples x features; indexing makes one of at most `max_bytes`."""

    def __init__(self, acts: SetReader, max_bytes: int) -> None:
        self.acts, self.max_bytes = acts, max_bytes
        # As of now: a set that is being built may be longer where this is unpickled.
        self.shape, self.dtype = acts.shape, acts.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        """Read; refuses an answer that is too large before anything is read."""
        if isinstance(key.tuple[0], slice) and not isinstance(key, indexing.VectorizedIndexer):
            return self._rows(key)
        rows, columns = (_ids(k, n) for k, n in zip(key.tuple, self.shape, strict=True))
        if not isinstance(key, indexing.VectorizedIndexer):
            self._check(rows.shape + columns.shape)
            return self._dense(rows, columns).reshape(rows.shape + columns.shape)
        shape = np.broadcast_shapes(rows.shape, columns.shape)
        self._check(shape)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        rows, columns = np.broadcast_arrays(rows, columns)
        row_grid, column_grid = _narrow(rows), _narrow(columns)
        if all(1 in sizes for sizes in zip(row_grid.shape, column_grid.shape, strict=True)):
            grid = self._grid(row_grid, column_grid)
            return grid if grid.shape == shape else np.broadcast_to(grid, shape).copy()
        return self.acts.vindex(rows.reshape(-1), columns.reshape(-1)).reshape(shape)

    def _rows(self, key: indexing.ExplicitIndexer) -> Array:
        """A run of rows, of which no number is made for each."""
        rows, columns = range(*key.tuple[0].indices(self.shape[0])), _ids(key.tuple[1], self.shape[1])
        self._check((len(rows), *columns.shape))
        run = slice(rows.start, rows.stop) if rows.step == 1 else np.asarray(rows)
        dense = self.acts.dense(run, columns.reshape(-1), max_bytes=self.max_bytes)
        return dense.reshape(len(rows), *columns.shape)

    def _dense(self, rows: Array, columns: Array) -> Array:
        return self.acts.dense(rows.reshape(-1), columns.reshape(-1), max_bytes=self.max_bytes)

    def _grid(self, rows: Array, columns: Array) -> Array:
        """Points that are every row with every column: each axis belongs to the rows or to the columns.

        xarray asks so for a transposed array, and for samples in an array of several dimensions.
        """
        axes = [i for i, n in enumerate(rows.shape) if n != 1] + [i for i, n in enumerate(columns.shape) if n != 1]
        shape = np.broadcast_shapes(rows.shape, columns.shape)
        grid = self._dense(rows, columns).reshape([shape[i] for i in axes])
        return grid.transpose(np.argsort(axes)).reshape(shape)

    def _check(self, shape: tuple[int, ...]) -> None:
        check_size(shape or (1,), self.dtype.itemsize, self.max_bytes, _INSTEAD)

    def __dask_tokenize__(self) -> Any:
        return self.acts.__dask_tokenize__(), self.shape, self.max_bytes


def unread_ids(variable: xr.Variable) -> tuple[range | Array, Array] | None:
    """Samples and features that a variable of activations reads when it is asked; None where it holds values."""
    data: Any = variable._data  # noqa: SLF001 (the public `data` would read them)
    while isinstance(data, indexing.MemoryCachedArray | indexing.CopyOnWriteArray):
        data = data.array
    if not isinstance(data, indexing.LazilyIndexedArray) or not isinstance(data.array, LazyActivation):
        return None
    (rows, columns), (n_rows, n_columns) = data.key.tuple, data.array.shape
    run = range(*rows.indices(n_rows)) if isinstance(rows, slice) else np.atleast_1d(_ids(rows, n_rows))
    return run, np.atleast_1d(_ids(columns, n_columns))


class LazyCoordinate(BackendArray):
    """A coordinate along the samples. Memory: the values, and about a million samples more.

    From a million samples on, texts of items are read as `CodedTexts`.
    """

    def __init__(self, coordinates: SampleCoordinates, name: str, n_samples: int) -> None:
        self.coordinates, self.name = coordinates, name
        self.shape = (n_samples,)
        self._coordinate = coordinates.by_name[name]
        self.dtype = self._coordinate.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyCoordinate, (self.coordinates, self.name, self.shape[0])

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array | CodedTexts:
        which, coordinate, size = key.tuple[0], self._coordinate, self.shape[0]
        samples = range(*which.indices(size)) if isinstance(which, slice) else np.atleast_1d(which)
        if len(samples) <= _BLOCK or isinstance(key, indexing.VectorizedIndexer):
            return coordinate.at(_ids(which, size))
        kinds, codes = (None, None) if coordinate.coded is None else coordinate.coded()
        values = np.empty(len(samples), coordinate.dtype if codes is None else codes.dtype)
        for first in range(0, len(samples), _BLOCK):
            part = samples[first : first + _BLOCK]
            ids = np.arange(part.start, part.stop, part.step) if isinstance(part, range) else _ids(part, size)
            values[first : first + _BLOCK] = coordinate.at(ids) if codes is None else codes[self.coordinates.item(ids)]
        return values if kinds is None else CodedTexts(kinds, values)

    def __dask_tokenize__(self) -> Any:
        return self.coordinates.acts.__dask_tokenize__(), self.shape, self.name


class LazyStatistics:
    """The statistics of all features, computed when the first is requested. Memory: 72 bytes per feature."""

    def __init__(self, acts: SetReader) -> None:
        self.acts = acts
        self._values: dict[str, Array] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyStatistics, (self.acts,)

    def values(self, name: str) -> Array:
        """One statistic, (n_features,)."""
        if not self._values:
            self._values = {str(k): v.to_numpy() for k, v in self.acts.stats().data_vars.items()}
        return self._values[name]

    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """Dtype of every statistic, without reading anything."""
        table = statistics_table(Moments.zeros(1, 1, self.acts.dtype))
        return {str(name): variable.dtype for name, variable in table.data_vars.items()}


class LazyStatistic(BackendArray):
    """One statistic per feature."""

    def __init__(self, statistics: LazyStatistics, name: str, dtype: np.dtype[Any]) -> None:
        self.statistics, self.name, self.dtype = statistics, name, dtype
        self.shape = (statistics.acts.shape[1],)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        return self.statistics.values(self.name)[_ids(key.tuple[0], self.shape[0])]

    def __dask_tokenize__(self) -> Any:
        return self.statistics.acts.__dask_tokenize__(), self.name


class LazyFeatureColumn(BackendArray):
    """A column of the features: texts as objects, None where unknown; numbers with unknown ones as float64, NaN."""

    def __init__(self, acts: SetReader, name: str) -> None:
        self.acts, self.name, self.shape = acts, name, (acts.shape[1],)
        self.dtype = self._values([]).dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        ids = _ids(key.tuple[0], self.shape[0])
        return self._values(ids.reshape(-1)).reshape(ids.shape)

    def _values(self, ids: Any) -> Array:
        table = self.acts.table("features")
        values = self.acts.features.column(self.name, np.asarray(ids, np.int64))
        if table.dtype(self.name).kind in "iu" and len(table.info.columns[self.name]) > 1:
            return np.ma.filled(values.astype(np.float64), np.nan)
        return as_objects(values) if table.dtype(self.name).kind in "Tb" else values

    def __dask_tokenize__(self) -> Any:
        return self.acts.__dask_tokenize__(), self.name


def _narrow(ids: Array) -> Array:
    """The same ids; axes along which they do not change get length one."""
    for axis, size in enumerate(ids.shape):
        first = ids.take([0], axis)
        if size > 1 and (ids == first).all():
            ids = first
    return ids


def _ids(key: Any, size: int) -> Array:
    """The ids of an indexer, int64 of its own shape; an int has no dimension, which drops its axis."""
    if isinstance(key, slice):
        return np.arange(*key.indices(size))
    ids = np.asarray(key, np.int64)
    return np.where(ids < 0, ids + size, ids)
