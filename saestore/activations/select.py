"""What a caller may give as features, samples or a condition, turned into ids and masks by numpy's rules."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError
from saestore.items.index import ItemIndex
from saestore.items.stored import StoredItems

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
        `spec` is no index: floats, a mask of another length, more than one dimension.
    """
    if spec is None:
        return Selection(np.arange(size), scalar=False)
    if isinstance(spec, slice):
        try:
            return Selection(np.arange(*spec.indices(size)), scalar=False)
        except (TypeError, ValueError) as e:
            raise InvalidInputError(f"{what}s {spec!r}: {e}.") from e
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
        raise InvalidInputError(f"{what}s {spec!r} is not an index: {e}.") from e
    if ids.ndim != 1:
        raise InvalidInputError(
            f"{what}s has {ids.ndim} dimensions; give an int, a slice, a list of ints or a boolean mask of {size:,}."
        )
    if ids.dtype == bool:
        if len(ids) != size:
            raise InvalidInputError(f"the mask over {what}s has {len(ids):,} values; there are {size:,} {what}s.")
        return Selection(np.flatnonzero(ids), scalar=False)
    if not len(ids):
        return Selection(np.empty(0, np.int64), scalar=False)
    if ids.dtype.kind not in "iu":
        raise InvalidInputError(f"{what}s of dtype {ids.dtype} are no index; give ints or a boolean mask.")
    return Selection(_checked(ids, size, what), scalar=False)


def _checked(ids: Array, size: int, what: str) -> Array:
    outside = (ids >= size) | (ids < -size if ids.dtype.kind == "i" else False)
    if outside.any():
        bad = int(ids[outside][0])
        raise OutOfRangeError(f"{what} {bad} is out of range: there are {size:,}, numbered 0 to {size - 1}.")
    ids = ids.astype(np.int64)
    return np.where(ids < 0, ids + size, ids)


@dataclass(frozen=True)
class Condition:
    """Which samples a query may return: a mask over items or over samples."""

    mask: Array
    index: ItemIndex | None

    def keeps(self, samples: Array) -> Array:
        """Which of these samples fulfil it, bool."""
        if self.index is None:
            return np.asarray(self.mask[samples])
        return np.asarray(self.mask[self.index.locate(samples)[0]])

    def samples(self, n_samples: int) -> Array:
        """All samples that fulfil it, ascending int64. Memory: 8 bytes each, and a byte a sample."""
        if self.index is None:
            return np.flatnonzero(self.mask)
        sizes = np.diff(np.minimum(self.index.pointers(), n_samples))
        return np.flatnonzero(np.repeat(self.mask, sizes))


def condition(where: Any, n_samples: int, index: ItemIndex, items: StoredItems) -> Condition | None:
    """Resolve ``where=``: None, a mapping of columns and concepts to values, or a mask per sample or per item.

    A list of values means any of them. A mask whose length fits both is taken per sample.

    Raises
    ------
    NotFoundError
        A name that is neither a column nor a concept.
    InvalidInputError
        A mask of neither length, or something else altogether.
    """
    if where is None:
        return None
    if isinstance(where, Mapping):
        mask = np.ones(index.n_items, bool)
        for name, wanted in where.items():
            mask &= _matches(str(name), wanted, items)
        return Condition(mask, index)
    mask = np.asarray(where)
    if mask.dtype != bool or mask.ndim != 1:
        raise InvalidInputError(
            "where= takes a mapping such as {'split': 'test'} or a boolean mask per sample or per item, "
            f"not {type(where).__name__} of dtype {mask.dtype}."
        )
    if len(mask) == n_samples:
        return Condition(mask, None)
    if len(mask) == index.n_items:
        return Condition(mask, index)
    raise InvalidInputError(
        f"the mask in where= has {len(mask):,} values; there are {n_samples:,} samples and {index.n_items:,} items."
    )


def _matches(name: str, wanted: Any, items: StoredItems) -> Array:
    if name in items.concept_names:
        values = items.concept(name)
    elif name in items.names():
        values = items.column(name)
    else:
        known = ", ".join([*items.names(), *items.concept_names]) or "none"
        raise NotFoundError(f"where= names {name!r}, which is neither a column nor a concept; there are {known}.")
    options = list(wanted) if isinstance(wanted, list | tuple | set | frozenset | np.ndarray) else [wanted]
    mask = np.zeros(len(values), bool)
    for option in options:
        text = values.dtype.kind == "T"
        if text != isinstance(option, str):
            raise InvalidInputError(
                f"where= asks {name!r} for {option!r}, but it holds {'text' if text else values.dtype.name}."
            )
        mask |= values == option
    return mask
