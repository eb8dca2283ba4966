"""What is known of every sample beside its activations, column by column, computed for the samples asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.stats import STATISTICS

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

# Not numpy's own type of text: it has no place for the missing values that xarray fills in when it aligns labels.
TEXT = np.dtype(object)
# Of so many concepts the mask over all items or samples is kept once it was read: of slice after slice, as dask asks
# for them, each would read it anew.
_HELD = 16
_TAKEN = {"sample", "feature", "activation", "activation_set", *(s.name for s in STATISTICS)}
OF_ITEMS = {"key": "path or id of the item", "split": "split of the item"}


@dataclass(frozen=True)
class Column:
    """One value for every sample: its dtype, what it says, and how it is had for some samples.

    Attributes
    ----------
    values
        From int64 sample numbers (n,), in any order, to values (n,).
    """

    dtype: np.dtype[Any]
    description: str
    values: Callable[[Array], Array]

    def at(self, samples: Array) -> Array:
        """The values of samples, of any shape."""
        flat = samples.reshape(-1)
        values = np.asarray(self.values(flat), self.dtype) if len(flat) else np.empty(0, self.dtype)
        return values.reshape(samples.shape)


class Columns:
    """The columns of one activation set.

    Pickles as the set does. Memory: a byte an item or sample for each of at most 16 concepts.
    """

    def __init__(self, acts: SetReader) -> None:
        self.acts = acts
        self._mask = functools.lru_cache(_HELD)(acts.concept_mask)

    def __reduce__(self) -> tuple[Any, ...]:
        return Columns, (self.acts,)

    @functools.cached_property
    def by_name(self) -> dict[str, Column]:
        """All columns: of places and items, then a boolean one for every concept.

        Of a concept that items and samples both have, that of the samples is ``sample.<name>``, as ``where=`` does;
        one that has the name of something else is ``concept::<name>``.
        """
        found = {**self._places(), **self._of_items()}
        of_items, of_samples = self.acts.concept_names("item"), self.acts.concept_names("sample")
        concepts = {_label(name, found): self._concept(name, "item") for name in of_items}
        for name in of_samples:
            label = _label(f"sample.{name}" if name in of_items else name, found)
            concepts[label] = self._concept(name, "sample")
        return found | concepts

    def _places(self) -> dict[str, Column]:
        ints, side = np.dtype(np.int64), grid_side(self.acts)
        found = {
            "item": Column(ints, "image or text that the sample is of", self._item),
            "position": Column(ints, "which patch or token of its item the sample is", self._position),
        }
        if side is not None:
            found["row"] = Column(ints, "row of the patch in its image", lambda s: self._position(s) // side)
            found["col"] = Column(ints, "column of the patch in its image", lambda s: self._position(s) % side)
        return found

    def _of_items(self) -> dict[str, Column]:
        names = self.acts.items.names()
        found = {}
        if "text" in names and self.acts.spans([]) is not None:
            found["token"] = Column(TEXT, "text of the token", self._token)
        for name, says in OF_ITEMS.items():
            if name in names:
                found[name] = Column(TEXT, says, functools.partial(self._of_item, name))
        return found

    def _item(self, samples: Array) -> Array:
        return self.acts.item_index.locate(samples)[0]

    def _position(self, samples: Array) -> Array:
        return self.acts.item_index.locate(samples)[1]

    def _of_item(self, name: str, samples: Array) -> Array:
        """A column of the items, of which only the chunks are read that the samples' items lie in."""
        items, back = np.unique(self._item(samples), return_inverse=True)
        return self.acts.items.column(name, items).astype(TEXT)[back]  # one string for all samples of an item

    def _token(self, samples: Array) -> Array:
        spans = self.acts.spans(samples)
        if spans is None:
            raise RuntimeError("a column of tokens needs their spans")
        items, back = np.unique(self._item(samples), return_inverse=True)
        texts = self.acts.items.column("text", items).tolist()
        return np.array([texts[i][a:b] for i, (a, b) in zip(back.tolist(), spans.tolist(), strict=True)], TEXT)

    def _concept(self, name: str, level: Literal["item", "sample"]) -> Column:
        def values(samples: Array) -> Array:
            return np.asarray(self._mask(name, level)[self._item(samples) if level == "item" else samples])

        return Column(np.dtype(bool), f"concept of the {level}", values)


def _label(name: str, columns: Container[str]) -> str:
    """What a concept is called that shares its name with something else."""
    return f"concept::{name}" if name in columns or name in _TAKEN else name


def grid_side(acts: SetReader) -> int | None:
    """Patches of a row of an image, where the samples are patches and every item has a square of them."""
    size = acts.attributes.item_size
    if acts.path.split("/")[-2] != "patch" or size is None or size == 1:
        return None
    side = math.isqrt(size)
    return side if side * side == size else None
