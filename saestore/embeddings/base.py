"""What a source of embeddings is, and the one class behind every layout: rows in one file or in several."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from saestore.errors import InvalidInputError, OutOfRangeError

__all__ = ["DTYPES", "EmbeddingSource", "Part", "PartedSource", "Table", "checked", "pick"]

DTYPES = ("float16", "bfloat16", "float32", "float64")

# In a file with several tensors. Embeddings that were centred and scaled to length 1 are not what an SAE was trained
# on, so they come second.
_KEYS = ("embeddings", "normalized_embeddings")

_FINGERPRINT_ROWS = 256
_MOST_OPEN = 4
# Pages read through a mapping count as memory of the process until it is unmapped, so it is, after this many bytes.
_REMAP_BYTES = 64 << 20


@runtime_checkable
class EmbeddingSource(Protocol):
    """Rows of embeddings, read by slice.

    Attributes
    ----------
    path : str
        Where they lie, for messages and records.
    layout : str
        "pt", "pt chunks", "npy", "safetensors", "zarr" or "array".
    n_rows, d_in : int
        Shape.
    dtype : str
        One of `DTYPES`.
    """

    path: str
    layout: str
    n_rows: int
    d_in: int
    dtype: str

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU in their own dtype, (stop - start, d_in)."""
        ...

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a sha256 (hex) that is the same for the same embeddings in whatever layout.

        With `n_rows`, that of a source with just the first so many rows.
        """
        ...


@dataclass(frozen=True)
class Table:
    """One opened file or array.

    Attributes
    ----------
    shape : tuple of int
        As found; only (n_rows, d_in) with both above zero passes `checked`.
    dtype : str
        numpy's or torch's name of it, without the "torch.".
    fill : callable
        ``fill(out, start, stop)`` copies those rows into a tensor of their shape and dtype.
    """

    shape: tuple[int, ...]
    dtype: str
    fill: Callable[[torch.Tensor, int, int], None]


@dataclass(frozen=True)
class Part:
    """A run of rows that lies in one place: which rows, and how to open the place."""

    start: int
    stop: int
    open: Callable[[], Table]


class PartedSource:
    """An `EmbeddingSource` over parts that follow each other.

    Parts are opened when needed and at most four at a time. A read takes the memory of its slice (for zarr also that of
    the chunks it touches), and mapped file pages of 64 MiB a part, or of the slice where that is more, which the kernel
    can take back at any time.

    Parameters
    ----------
    path, layout
        As in `EmbeddingSource`.
    d_in, dtype
        Those of every part.
    parts
        In row order, from row 0, without gap or overlap.
    """

    def __init__(self, path: str, layout: str, d_in: int, dtype: str, parts: Sequence[Part]) -> None:
        self.path = path
        self.layout = layout
        self.n_rows = parts[-1].stop
        self.d_in = d_in
        self.dtype = dtype
        self._parts = tuple(parts)
        self._starts = [part.start for part in parts]
        self._open: dict[int, tuple[Table, int]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of_one(cls, path: str, layout: str, opener: Callable[[], Table]) -> PartedSource:
        """Make a source of a single file or array, once `checked`."""
        table = checked(opener(), path)
        n_rows, d_in = table.shape
        return cls(path, layout, d_in, table.dtype, [Part(0, n_rows, opener)])

    def __repr__(self) -> str:
        return f"<embeddings {self.n_rows:,} x {self.d_in:,} {self.dtype}, {self.layout}: {self.path}>"

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU in their own dtype, (stop - start, d_in), as a copy.

        Raises
        ------
        OutOfRangeError
            If the slice leaves the rows that there are.
        InvalidInputError
            If the rows cannot be decoded.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise OutOfRangeError(f"rows {start} to {stop} are not within the {self.n_rows:,} rows of {self.path}")
        out = torch.empty((stop - start, self.d_in), dtype=getattr(torch, self.dtype))
        row = start
        while row < stop:
            place = bisect_right(self._starts, row) - 1
            part = self._parts[place]
            until = min(stop, part.stop)
            self._fill(out[row - start : until - start], place, row - part.start)
            row = until
        return out

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a sha256 (hex) over shape, dtype and 256 evenly spaced rows, the first and the last among them.

        Parameters
        ----------
        n_rows
            Of the first so many rows only, as a source of just those would have it.
        """
        n_rows = self.n_rows if n_rows is None else n_rows
        digest = hashlib.sha256(f"{n_rows} x {self.d_in} {self.dtype}\n".encode())
        for row in np.unique(np.linspace(0, n_rows - 1, _FINGERPRINT_ROWS).astype(np.int64)).tolist():
            digest.update(self.read(row, row + 1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _fill(self, out: torch.Tensor, place: int, start: int) -> None:
        with self._lock:
            table, n_read = self._open.pop(place, (None, 0))
            n_read += out.nbytes
            if table is None or n_read > _REMAP_BYTES:
                table, n_read = self._parts[place].open(), out.nbytes
            # The order of the dict is the order of use: the first is the one to close.
            self._open[place] = (table, n_read)
            while len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]
        table.fill(out, start, start + len(out))


def checked(table: Table, where: str) -> Table:
    """Return the table if it can be embeddings.

    Raises
    ------
    InvalidInputError
        If it has not two dimensions, no rows or columns, or no floating dtype.
    """
    if table.dtype not in DTYPES:
        raise InvalidInputError(f"{where} is {table.dtype}; embeddings are one of {', '.join(DTYPES)}")
    if len(table.shape) != 2:
        message = f"{where} has the shape {table.shape}; embeddings have two dimensions, rows and width"
        if len(table.shape) > 2:
            rows = int(np.prod(table.shape[:-1]))
            message += f": reshape to ({rows}, {table.shape[-1]})"
        raise InvalidInputError(message)
    if 0 in table.shape:
        raise InvalidInputError(f"{where} has the shape {table.shape}: there is nothing in it; give at least one row")
    return table


def pick(ndims: dict[str, int], key: str | None, where: str, choose: str) -> str:
    """Choose the tensor that holds the embeddings.

    Parameters
    ----------
    ndims
        Number of dimensions of each tensor, by name.
    key
        The name that was asked for, or None for "embeddings", "normalized_embeddings" or the only 2-D one.
    where
        The file, for messages.
    choose
        How to say which one is meant, for messages.

    Raises
    ------
    InvalidInputError
        If there is none, or several and no name.
    """
    if key is not None:
        if key in ndims:
            return key
        raise InvalidInputError(f"{where} has no tensor {key!r}; it has {', '.join(ndims) or 'none'}")
    for name in _KEYS:
        if name in ndims:
            return name
    tables = [name for name, ndim in ndims.items() if ndim == 2]
    if len(tables) == 1:
        return tables[0]
    raise InvalidInputError(
        f"{where} holds {', '.join(ndims) or 'no tensor'}; embeddings are called {' or '.join(_KEYS)}, or are the only "
        f"2-D tensor; {choose}"
    )
