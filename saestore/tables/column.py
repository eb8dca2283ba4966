"""The values of one column: what a caller may give for them, checked and turned into an array and a mask."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.format import RESERVED
from saestore.sparse_rows import Array

TEXT = np.dtypes.StringDType()
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Column:
    """Values of a column."""

    values: Array  # bool, an integer dtype, a float dtype or ``StringDType`` (n,). An unknown float is NaN
    # bool (n,): where values of another dtype are unknown; None where all are known. The value there is 0 or "".
    unknown: Array | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def known(self) -> Array | None:
        """Where values are known, bool (n,); None where all are."""
        if self.values.dtype.kind == "f":
            known = ~np.isnan(self.values)
            return None if known.all() else known
        return None if self.unknown is None else ~self.unknown

    @cached_property
    def lowered(self) -> list[str]:
        """The texts in lower case."""
        texts: list[str] = np.strings.lower(self.values).tolist()
        return texts

    def array(self) -> Array:
        """As users see it: a masked array where some values are unknown that are not floats."""
        return self.values if self.unknown is None else np.ma.MaskedArray(self.values, self.unknown)

    def resized(self, n: int) -> Column:
        """With this many values, of which further ones are unknown."""
        if len(self) >= n:
            return self if len(self) == n else Column(self.values[:n], _some(self.unknown, slice(n)))
        if self.values.dtype.kind == "f":
            return Column(np.concatenate([self.values, np.full(n - len(self), np.nan, self.values.dtype)]))
        values = np.zeros(n, self.values.dtype)
        values[: len(self)] = self.values
        unknown = np.ones(n, bool)
        unknown[: len(self)] = False if self.unknown is None else self.unknown
        return Column(values, unknown)

    def at(self, rows: Any) -> Column:
        """The values of some rows."""
        return Column(self.values[rows], _some(self.unknown, rows))


def _some(unknown: Array | None, rows: Any) -> Array | None:
    if unknown is None:
        return None
    part = unknown[rows]
    return part if part.any() else None


def as_objects(values: Array) -> Array:
    """Values of a column as objects, None where they are masked."""
    objects = np.ma.getdata(values).astype(object)
    objects[np.ma.getmaskarray(values)] = None
    return objects


def as_column(given: Any, what: str, unknown: Any = None) -> Column:
    """Check the values of a column, which `what` names in messages.

    `given` is one-dimensional: numpy, masked or not, pandas, or a list, of true and false, ints, floats or texts. None,
    NaN, ``pandas.NA``, what is masked, and where `unknown` (n,) is True is unknown.
    """
    mask = np.ma.getmaskarray(given) if isinstance(given, np.ma.MaskedArray) else None
    values = _as_array(np.ma.getdata(given) if mask is not None else given, what)
    if values.ndim != 1:
        raise InvalidInputError(f"{what} has {values.ndim} dimensions; give one value per row.", code="invalid-shape")
    if mask is None:
        mask = np.zeros(len(values), bool)
    if unknown is not None:
        mask = mask | _as_mask(unknown, len(values), what)
    if values.dtype.kind == "O":
        mask = mask | _missing(values)
        values = _typed(values, mask, what)
    values = _stored(values, mask, what)
    if values.dtype.kind == "f":
        values = values.copy() if mask.any() else values
        values[mask] = np.nan
        return Column(values)
    return Column(values, mask if mask.any() else None)


def _as_array(given: Any, what: str) -> Array:
    if hasattr(given, "isna") and hasattr(given, "to_numpy"):  # pandas: its missing values stay what they are
        plain = getattr(given.dtype, "kind", "O") in "biuf" and not given.isna().any()
        return np.asarray(given if plain else given.to_numpy(dtype=object))
    if isinstance(given, np.ndarray) or hasattr(given, "is_meta"):
        from saestore.files import as_numpy

        return as_numpy(given, what)
    try:
        values = list(given)
        array = np.empty(len(values), object)
        array[:] = values
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{what} is {given!r}; give one value per row.", code="not-values") from error
    return array


def _as_mask(unknown: Any, n: int, what: str) -> Array:
    from saestore.files import as_numpy

    mask = as_numpy(unknown, f"unknown= of {what}")
    if mask.dtype != bool or mask.shape != (n,):
        raise InvalidInputError(
            f"unknown= of {what} is {mask.dtype} {mask.shape}; give a boolean array of {n:,}.", code="invalid-mask"
        )
    return mask


def _missing(values: Array) -> Array:
    """Where an array of objects holds None, NaN or ``pandas.NA``, of which none equals itself."""
    return np.array([v is None or (not isinstance(v, str) and (v != v) is not False) for v in values.tolist()], bool)  # noqa: PLR0124


def _typed(values: Array, mask: Array, what: str) -> Array:
    """Objects as an array of their one type; what is masked becomes 0 or an empty text."""
    known = values[~mask].tolist()
    n_booleans = sum(isinstance(v, bool | np.bool_) for v in known)
    dtype: Any
    if all(isinstance(v, str) for v in known):
        dtype = TEXT
    elif n_booleans == len(known):
        dtype = bool
    elif not n_booleans and all(isinstance(v, numbers.Real) for v in known):
        dtype = np.int64 if all(isinstance(v, numbers.Integral) for v in known) else np.float64
    else:
        kinds = ", ".join(sorted({type(v).__name__ for v in known}))
        raise InvalidInputError(
            f"{what} holds {kinds}; a column holds true and false, ints, floats or texts.", code="mixed-types"
        )
    out = np.zeros(len(values), dtype)
    try:
        out[~mask] = known
    except OverflowError as e:
        raise InvalidInputError(f"{what} holds an int beyond 64 bits ({e}).", code="out-of-int64") from e
    except UnicodeError as e:
        raise _not_unicode(what, e) from e
    return out


def _not_unicode(what: str, error: Exception) -> InvalidInputError:
    """For half characters (lone surrogates), which no file can hold."""
    return InvalidInputError(
        f"{what} holds a text that is not valid Unicode ({error}); correct it.", code="invalid-text"
    )


def _stored(values: Array, mask: Array, what: str) -> Array:
    kind = values.dtype.kind
    if kind == "b":
        return values
    if kind in "iu":
        if values.dtype == np.uint64 and (values[~mask] > np.iinfo(np.int64).max).any():
            raise InvalidInputError(f"{what} holds an int beyond 64 bits.", code="out-of-int64")
        return values.astype(np.int64)
    if kind == "f":
        return values.astype(values.dtype.newbyteorder("=") if values.dtype.name in _FLOATS else np.float64)
    if kind in "UT":
        try:
            if kind == "U":  # numpy misreads the other byte order
                values = values.astype(values.dtype.newbyteorder("="))
            return values.astype(TEXT)
        except (TypeError, UnicodeError) as e:
            raise _not_unicode(what, e) from e
    raise InvalidInputError(
        f"{what} has the dtype {values.dtype}; a column holds true and false, ints, floats or texts.",
        code="unsupported-dtype",
    )


def check_names(names: Any, what: str) -> None:
    """Refuse what cannot be the name of a column or a concept."""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InvalidInputError(
                f"{name!r} cannot be the name of a {what}; give a text such as 'color::red'.", code="invalid-name"
            )
        if name in RESERVED:
            raise InvalidInputError(
                f"a {what} cannot be called {name!r}, which has another meaning; choose another name.",
                code="reserved-name",
            )
