"""Features or samples as a caller gives them, turned into ids by numpy's rules; and masks over samples."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, OutOfRangeError, is_bool, shown
from saestore.sparse_rows import Array
from saestore.tables.item_index import ItemIndex


@dataclass(frozen=True)
class Selection:
    """Ids along one axis, in the order asked for; `scalar` where one int was given, which drops the axis."""

    given: Array | range
    scalar: bool

    @property
    def ids(self) -> Array:
        """The ids, int64; of a range 8 bytes for each whenever they are asked for."""
        given = self.given
        return np.arange(given.start, given.stop, given.step) if isinstance(given, range) else given

    def __len__(self) -> int:
        return len(self.given)

    @property
    def only(self) -> int | None:
        """The one id, None where there are several or none."""
        return int(self.ids[0]) if len(self) == 1 else None


def select(spec: Any, size: int, what: str) -> Selection:
    """Resolve an int, slice, list or array of ints, boolean mask or None (all) against an axis of length `size`.

    `what` names the axis in messages: ``feature`` or ``sample``. Floats, a mask of another length and more than one
    dimension are refused.
    """
    if spec is None:
        return Selection(range(size), scalar=False)
    if type(spec) is int and 0 <= spec < size:  # of a top 20, an eighth of the time
        return Selection(np.array([spec]), scalar=True)
    if isinstance(spec, slice):
        try:
            return Selection(range(*spec.indices(size)), scalar=False)
        except (TypeError, ValueError) as e:
            raise InvalidInputError(f"{what}s {spec!r}: {e}.", code="not-an-index") from e
    ids = _as_array(spec, size, what)
    if ids.ndim > 1:
        raise InvalidInputError(
            f"{what}s has {ids.ndim} dimensions; give an int, a slice, a list of ints or a boolean mask of {size:,}.",
            code="not-an-index",
        )
    scalar = ids.ndim == 0
    if ids.dtype == bool and not scalar:
        if len(ids) != size:
            message = f"the mask over {what}s has {len(ids):,} values; there are {size:,} {what}s."
            raise InvalidInputError(message, code="mask-length")
        return Selection(np.flatnonzero(ids), scalar=False)
    if not scalar and not len(ids):
        return Selection(np.empty(0, np.int64), scalar=False)
    if ids.dtype.kind not in "iu":
        raise _not_an_index(spec, what, f"a value of dtype {ids.dtype}")
    return Selection(_checked(np.atleast_1d(ids), size, what), scalar)


def _as_array(spec: Any, size: int, what: str) -> Array:
    """The ids as an array of the same number of dimensions; what numpy would guess at is refused."""
    if hasattr(spec, "mask") and isinstance(spec, np.ma.MaskedArray) and np.ma.getmaskarray(spec).any():
        raise _not_an_index(spec, what, "a masked value")
    if isinstance(spec, list | tuple) and 0 < sum(map(is_bool, spec)) < len(spec):
        raise _not_an_index(spec, what, "a boolean among numbers")
    try:
        ids = np.asarray(spec)
        if ids.dtype == object and ids.ndim == 0:
            ids = np.asarray(operator.index(ids.item()))
    except (TypeError, ValueError, RuntimeError) as e:
        raise _not_an_index(spec, what, str(e)) from e
    if ids.dtype == object and all(hasattr(value, "__index__") and not is_bool(value) for value in ids.flat):
        try:
            ids = ids.astype(np.int64)
        except OverflowError as e:
            raise OutOfRangeError(f"{what} {shown(max(ids.flat, key=abs))} is out of range: there are {size:,}.") from e
    return ids


def _not_an_index(spec: Any, what: str, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"{what}s {shown(spec)} is not an index ({reason}); give an int, a slice, a list of ints or a boolean mask.",
        code="not-an-index",
    )


def _checked(ids: Array, size: int, what: str) -> Array:
    outside = (ids >= size) | (ids < -size if ids.dtype.kind == "i" else False)
    if outside.any():
        bad = int(ids[outside][0])
        raise OutOfRangeError(f"{what} {bad} is out of range: there are {size:,}, numbered 0 to {size - 1}.")
    ids = ids.astype(np.int64)
    return np.where(ids < 0, ids + size, ids)


def select_one(spec: Any, size: int, what: str, method: str) -> int:
    """Resolve a single id, for a method that takes one."""
    chosen = select(spec, size, what)
    if not chosen.scalar:
        raise InvalidInputError(f"{method}() takes one {what}, an int, not {spec!r}.", code="not-one")
    return int(chosen.ids[0])


@dataclass(frozen=True)
class Condition:
    """The samples that a query may return: a mask over items or over samples."""

    mask: Array
    index: ItemIndex | None

    def keeps(self, samples: Array) -> Array:
        """Whether each of these samples fulfils it, bool (n,)."""
        return np.asarray(self.mask[samples if self.index is None else self.index.locate(samples)[0]])

    def over_samples(self, n_samples: int) -> Array:
        """Whether each sample fulfils it, bool (n_samples,)."""
        if self.index is None:
            return self.mask
        if self.index.item_size is not None:
            return np.repeat(self.mask, self.index.item_size)[:n_samples]
        return np.repeat(self.mask, np.diff(np.minimum(self.index.pointers(), n_samples)))
