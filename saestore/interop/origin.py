"""The activation set of a Dataset, carried in the `encoding` of its variables, which selections keep.

xarray keeps the encoding of a variable through `isel`, `sel`, `load`, `chunk`, copies and pickles, and drops it where
values change: through `where`, arithmetic, a new coordinate. After that the labels no longer name samples and features
of the set, or the activations have changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

KEY = "saestore"


@dataclass(frozen=True)
class Origin:
    """The activation set that a variable comes from; two are equal if they name the same set at the same place."""

    address: str
    acts: SetReader = field(compare=False, repr=False)

    @classmethod
    def of(cls, acts: SetReader) -> Origin:
        """Of an opened set."""
        return cls(f"{acts.location}/{acts.path}", acts)

    def __deepcopy__(self, memo: Any) -> Origin:
        return self  # a deep copy of a Dataset has the same set, which need not be opened again
