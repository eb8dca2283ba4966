"""Which activation set a Dataset is of: carried in the `encoding` of its variables, where it outlives a selection.

xarray keeps the encoding of a variable through `isel`, `sel`, `load`, `chunk`, copies and pickles, and drops it where
values become others: through `where`, arithmetic, a coordinate assigned anew. That is just when the labels of a Dataset
no longer name samples and features of the set, or its activations no longer are those of the set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

KEY = "saestore"


@dataclass(frozen=True)
class Origin:
    """The activation set that a variable was made of.

    Two are equal if they name the same set at the same place, one that was pickled meanwhile too.
    """

    address: str
    acts: SetReader = field(compare=False, repr=False)

    @classmethod
    def of(cls, acts: SetReader) -> Origin:
        """Of an opened set."""
        return cls(f"{acts.location}/{acts.path}", acts)

    def __deepcopy__(self, memo: Any) -> Origin:
        return self  # a deep copy of a Dataset is of the same set, which need not be opened again
