"""Sources of embeddings: the protocol, and the one class behind every layout, with rows in one file or several."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from saestore.errors import InvalidInputError, OutOfRangeError
from saestore.files import refuse_unused
from saestore.tables.label_matrix import listed

Names = Sequence[str]
DTYPES = ("float16", "bfloat16", "float32", "float64")
# What activations may be besides, in the same layouts.
WHOLE = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))

# In a file with several tensors. Embeddings that were centred and scaled to length 1 are not what an SAE was trained
# on, so they come second.
_KEYS = ("embeddings", "normalized_embeddings")

_FINGERPRINT_ROWS = 256
_MOST_OPEN = 4
# Pages read through a mapping count as memory of the process until it is unmapped, so it is, after this many bytes.
REMAP_BYTES = 64 << 20


@runtime_checkable
class EmbeddingSource(Protocol):
    """Rows of embeddings, read by slice."""

    path: str  # where they are, for messages and records
    layout: str  # such as "pt", "pt chunks", "npy", "zarr" or "array"
    n_rows: int
    d_in: int  # width of a row
    dtype: str  # one of `DTYPES`
    item_size: int | None  # rows per item, of an array (n_items, rows, d_in); None for a plain matrix

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU in their own dtype, (stop - start, d_in)."""
        ...

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a SHA-256 (hex) that is the same for the same embeddings in any layout.

        With `n_rows`, the digest of a source with only the first `n_rows` rows.
        """
        ...


@dataclass(frozen=True)
class Matrix:
    """One opened file or array."""

    shape: tuple[int, ...]  # any shape; `checked` lets only (n_rows, d_in) with both above zero pass
    dtype: str  # its name in numpy or torch, without the "torch."
    # ``fill(out, start, stop)`` copies those rows into a tensor of their shape and dtype
    fill: Callable[[torch.Tensor, int, int], None]
    stated: Mapping[str, str] = field(default_factory=dict)  # ``model`` and ``hook``, where the file has them


def stated_in(facts: Mapping[Any, Any] | None) -> dict[str, str]:
    """The model and the hook that the attributes or metadata of a file state."""
    text = {_text(name): _text(value) for name, value in (facts or {}).items()}
    names = {"model": ("model_name", "model"), "hook": ("hook_name", "hook_point", "hook")}
    each = {name: next((text[key] for key in keys if text.get(key)), None) for name, keys in names.items()}
    return {name: value for name, value in each.items() if value}


def _text(value: Any) -> str:
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Part:
    """A run of rows in one file or array: which rows, and how to open it."""

    start: int
    stop: int
    open: Callable[[], Matrix]


class PartedSource:
    """An `EmbeddingSource` over parts in row order, from row 0, without gap or overlap.

    Parts are opened when needed and at most four at a time. A read takes the memory of its slice (for zarr also of the
    chunks it touches), and mapped file pages of 64 MiB per part, or of the slice where that is more, which the kernel
    can take back at any time.
    """

    def __init__(
        self, path: str, layout: str, d_in: int, dtype: str, parts: Sequence[Part], *,
        item_size: int | None = None, stated: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.path, self.layout, self.d_in, self.dtype = path, layout, d_in, dtype
        self.item_size, self.stated = item_size, stated or {}
        self.n_rows, self._parts = parts[-1].stop, tuple(parts)
        self._starts = [part.start for part in parts]
        self._open: dict[int, tuple[Matrix, int]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of_one(
        cls, path: str, layout: str, opener: Callable[[], Matrix], width: int | None = None, dtypes: Names = DTYPES
    ) -> PartedSource:
        """Make a source of a single file or array, once `checked`.

        An array of more than two dimensions is taken for rows of `width` values, or else of its last dimension:
        (n_items, rows, d_in), or (n, heads, d_head) of attention heads.
        """
        given = opener()
        shape = given.shape
        # How many of the last dimensions make a row.
        inner = next((n for n in range(1, len(shape)) if int(np.prod(shape[-n:])) == width), 1)

        def flat() -> Matrix:
            return opener() if len(shape) <= 2 else flattened(opener(), inner)

        matrix = checked(flat(), path, dtypes)
        item_size = int(np.prod(shape[1:-inner])) if len(shape) - inner >= 2 else None
        parts = [Part(0, matrix.shape[0], flat)]
        return cls(path, layout, matrix.shape[1], matrix.dtype, parts, item_size=item_size, stated=given.stated)

    def __repr__(self) -> str:
        return f"<embeddings {self.n_rows:,} x {self.d_in:,} {self.dtype}, {self.layout}: {self.path}>"

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU in their own dtype, (stop - start, d_in), as a copy."""
        if not 0 <= start <= stop <= self.n_rows:
            raise OutOfRangeError(
                f"rows {start} to {stop} are not within the {self.n_rows:,} rows of {self.path}",
                code="rows-out-of-range",
            )
        out = torch.empty((stop - start, self.d_in), dtype=getattr(torch, self.dtype))
        row = start
        while row < stop:
            index = bisect_right(self._starts, row) - 1
            part = self._parts[index]
            until = min(stop, part.stop)
            self._fill(out[row - start : until - start], index, row - part.start)
            row = until
        return out

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a SHA-256 (hex) over shape, dtype and 256 evenly spaced rows, the first and the last among them."""
        return rows_fingerprint(self, n_rows)

    def _fill(self, out: torch.Tensor, index: int, start: int) -> None:
        with self._lock:
            matrix, n_read = self._open.pop(index, (None, 0))
            n_read += out.nbytes
            if matrix is None or n_read > REMAP_BYTES:
                matrix, n_read = self._parts[index].open(), out.nbytes
            # The order of the dict is the order of use: the first is the one to close.
            self._open[index] = (matrix, n_read)
            while len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]
        matrix.fill(out, start, start + len(out))


def flattened(matrix: Matrix, inner: int) -> Matrix:
    """A matrix (n_rows, width) of an array whose last `inner` dimensions make a row; whole items are read."""
    outer, width = matrix.shape[:-inner], int(np.prod(matrix.shape[-inner:]))
    per_item = int(np.prod(outer[1:]))
    if 0 in matrix.shape:
        return matrix

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        first, last = start // per_item, -(-stop // per_item)
        items = torch.empty((last - first, *matrix.shape[1:]), dtype=out.dtype)
        matrix.fill(items, first, last)
        out.copy_(items.view(-1, width)[start - first * per_item : stop - first * per_item])

    return Matrix((int(np.prod(outer)), width), matrix.dtype, fill)


class MaskedSource:
    """The rows of another source that a mask keeps, bool (n_rows,).

    `ptr` is which rows of `source` belong to which item, int64 (n_items + 1,), where its rows are computed by a model:
    then the fingerprint is the source's and the mask's, and no row is computed for it.
    """

    def __init__(self, source: EmbeddingSource, keep: np.ndarray, ptr: np.ndarray | None = None) -> None:
        self._source, self._keep, self._ptr = source, keep, ptr
        self._rows = np.flatnonzero(keep)
        self.path, self.layout, self.d_in, self.dtype = source.path, source.layout, source.d_in, source.dtype
        self.n_rows, self.stated = len(self._rows), getattr(source, "stated", {})
        self.item_size: int | None = None

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop``; reads the rows between them too, 64 MiB at a time."""
        rows = self._rows[start:stop]
        if not len(rows):
            return self._source.read(0, 0)
        step, end, parts = max(1, REMAP_BYTES // (4 * self.d_in)), int(rows[-1]) + 1, []
        for first in range(int(rows[0]), end, step):
            block = self._source.read(first, min(first + step, end))
            parts.append(block[torch.from_numpy(rows[(rows >= first) & (rows < first + step)] - first)])
        return torch.cat(parts)

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a SHA-256 (hex), as of a file with only these rows."""
        if self._ptr is None:
            return rows_fingerprint(self, n_rows)
        n = len(self._keep)
        if n_rows is not None and n_rows < self.n_rows:
            n = int(self._ptr[np.searchsorted(self._ptr, self._rows[n_rows - 1], "right")])
        kept = np.packbits(self._keep[:n]).tobytes()
        return hashlib.sha256(self._source.fingerprint(n).encode() + kept).hexdigest()


def rows_fingerprint(source: EmbeddingSource, n_rows: int | None) -> str:
    """The fingerprint of rows that are read by slice."""
    n_rows = source.n_rows if n_rows is None else n_rows
    digest = hashlib.sha256(f"{n_rows} x {source.d_in} {source.dtype}\n".encode())
    for row in np.unique(np.linspace(0, n_rows - 1, _FINGERPRINT_ROWS).astype(np.int64)).tolist():
        digest.update(source.read(row, row + 1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def checked(matrix: Matrix, where: str, dtypes: Names = DTYPES) -> Matrix:
    """Return the matrix if it can be embeddings: rows and columns, of one of `dtypes`."""
    if matrix.dtype not in dtypes:
        raise InvalidInputError(
            f"{where} is {matrix.dtype}; it must be one of {', '.join(dtypes)}", code="unsupported-dtype"
        )
    shape = matrix.shape
    if len(shape) != 2 or 0 in shape:
        message = f"{where} has the shape {shape}; embeddings have rows and a width, neither of them 0"
        raise InvalidInputError(message, code="bad-shape")
    return matrix


def pick(shapes: dict[str, tuple[int, ...]], key: str | None, where: str, choose: str, others: Names = ()) -> str:
    """Choose the tensor that holds the embeddings, of `shapes` by name; `choose` is the advice how to name it.

    It is `key`, or else "embeddings", "normalized_embeddings" or the only 2-D one. Another tensor with a value per row,
    such as a mask of padding, is refused (``unused-tensor``) unless it is one of the `others`, which are read besides.
    """
    shapes = {name: shape for name, shape in shapes.items() if name not in others}
    matrices = [name for name, shape in shapes.items() if len(shape) >= 2]
    if key is not None and key not in shapes:
        raise InvalidInputError(f"{where} has no tensor {key!r}; it has {listed([*shapes], 8)}", code="no-such-tensor")
    named = [name for name in (key, *_KEYS) if name is not None and name in shapes]
    choices = named[:1] or [name for name in matrices if not _per_row(name, shapes)]
    if len(choices) == 1:
        n_rows = int(np.prod(shapes[choices[0]][:-1]))
        refuse_unused(shapes, (choices[0], *_KEYS), n_rows, where, masks_only=key is not None)
        return choices[0]
    raise InvalidInputError(
        f"{where} holds {listed([*shapes], 8)}; embeddings are called {' or '.join(_KEYS)}, or are the "
        f"only 2-D tensor; {choose}",
        code="no-embeddings",
    )


def _per_row(name: str, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a tensor has one value for each row of another, 2-D one."""
    size = int(np.prod(shapes[name]))
    others = (shape for other, shape in shapes.items() if other != name)
    return any(len(shape) >= 2 and int(np.prod(shape[:-1])) == size for shape in others)
