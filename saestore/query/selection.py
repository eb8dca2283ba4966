"""Features or samples as a caller gives them, turned into ids by numpy's rules; and masks over samples."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, OutOfRangeError
from saestore.tables.item_index import ItemIndex

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Selection:
    """Ids along one axis, in the order asked for; `scalar` where one int was given, which drops the axis."""

    ids: Array
    scalar: bool

    def __len__(self) -> int:
        return len(self.ids)


def select(spec: Any, size: int, what: str) -> Selection:
    """Resolve an int, slice, list or array of ints, boolean mask or None (all) against an axis of length `size`.

    Parameters
    ----------
    what
        Name of the axis in messages: ``feature`` or ``sample``.

    Raises
    ------
    OutOfRangeError
        An id is outside of the axis.
    InvalidInputError
        `spec` is not an index: floats, a mask of another length, more than one dimension.
    """
    if spec is None:
        return Selection(np.arange(size), scalar=False)
    if isinstance(spec, slice):
        try:
            return Selection(np.arange(*spec.indices(size)), scalar=False)
        except (TypeError, ValueError) as e:
            raise InvalidInputError(f"{what}s {spec!r}: {e}.", code="not-an-index") from e
    if not isinstance(spec, bool | np.bool_):
        try:
            return Selection(_checked(np.array([operator.index(spec)]), size, what), scalar=True)
        except TypeError:
            pass
        except OverflowError:
            raise OutOfRangeError(f"{what} {spec} is out of range: there are {size:,}.") from None
    try:
        ids = np.asarray(spec)
    except ValueError as e:
        raise InvalidInputError(f"{what}s {spec!r} is not an index: {e}.", code="not-an-index") from e
    if ids.ndim != 1:
        raise InvalidInputError(
            f"{what}s has {ids.ndim} dimensions; give an int, a slice, a list of ints or a boolean mask of {size:,}.",
            code="not-an-index",
        )
    if ids.dtype == bool:
        if len(ids) != size:
            message = f"the mask over {what}s has {len(ids):,} values; there are {size:,} {what}s."
            raise InvalidInputError(message, code="mask-length")
        return Selection(np.flatnonzero(ids), scalar=False)
    if not len(ids):
        return Selection(np.empty(0, np.int64), scalar=False)
    if ids.dtype.kind not in "iu":
        message = f"{what}s of dtype {ids.dtype} are not an index; give ints or a boolean mask."
        raise InvalidInputError(message, code="not-an-index")
    return Selection(_checked(ids, size, what), scalar=False)


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


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a number that is too small."""
    if value < least:
        raise InvalidInputError(f"{name}={value!r}: use {least} or more.", code="too-small")


@dataclass(frozen=True)
class Condition:
    """The samples that a query may return: a mask over items or over samples."""

    mask: Array
    index: ItemIndex | None

    def keeps(self, samples: Array) -> Array:
        """Whether each of these samples fulfils it, bool (n,)."""
        return np.asarray(self.mask[samples if self.index is None else self.index.locate(samples)[0]])

    def samples(self, n_samples: int) -> Array:
        """All samples that fulfil it, ascending int64. Memory: 8 bytes each, and a byte per sample."""
        if self.index is None:
            return np.flatnonzero(self.mask)
        sizes = np.diff(np.minimum(self.index.pointers(), n_samples))
        return np.flatnonzero(np.repeat(self.mask, sizes))
