"""What is known of every sample beside its activations, column by column, computed for the samples asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from saestore.activations import ActivationSet

Array = np.ndarray[Any, Any]

# Not numpy's own type of text: it has no place for the missing values that xarray fills in when it aligns labels.
TEXT = np.dtype(object)
# Of so many concepts the mask over all items or samples is kept once it was read: of slice after slice, as dask asks
# for them, each would read it anew.
_HELD = 16
_OF_ITEMS = {"key": "path or id of the item", "split": "split of the item"}


@dataclass(frozen=True)
class Column:
    """One value for every sample: its dtype, what it says, and how it is had for some samples.

    Attributes
    ----------
    values
        From int64 sample numbers (n,), in any order, to values (n,).
    """

    dtype: np.dtype[Any]
    says: str
    values: Callable[[Array], Array]

    def at(self, samples: Array) -> Array:
        """The values of samples, of any shape."""
        flat = samples.reshape(-1)
        values = np.asarray(self.values(flat), self.dtype) if len(flat) else np.empty(0, self.dtype)
        return values.reshape(samples.shape)


class Columns:
    """The columns of one activation set, without the concepts' names that others have: see `of`.

    Pickles as the set does. Memory: a byte an item or sample for each of at most 16 concepts.
    """

    def __init__(self, acts: ActivationSet) -> None:
        self.acts = acts
        self._mask = functools.lru_cache(_HELD)(acts.concept)

    def __reduce__(self) -> tuple[Any, ...]:
        return Columns, (self.acts,)

    @functools.cached_property
    def by_name(self) -> dict[str, Column]:
        """All columns, but for the concepts."""
        found = {
            "item": Column(np.dtype(np.int64), "image or text that the sample is of", self._item),
            "position": Column(np.dtype(np.int64), "which patch or token of its item the sample is", self._position),
        }
        side = grid_side(self.acts)
        if side is not None:
            found["row"] = Column(
                np.dtype(np.int64), "row of the patch in its image", lambda s: self._position(s) // side
            )
            found["col"] = Column(
                np.dtype(np.int64), "column of the patch in its image", lambda s: self._position(s) % side
            )
        names = self.acts.items.names()
        if "text" in names and self.acts.spans([]) is not None:
            found["token"] = Column(TEXT, "text of the token", self._token)
        for name, says in _OF_ITEMS.items():
            if name in names:
                found[name] = Column(TEXT, says, functools.partial(self._of_item, name))
        return found

    @functools.cached_property
    def concepts(self) -> dict[str, Column]:
        """A boolean column for every concept. One that items and samples both have is that of the items.

        That of the samples is then called ``<name>@sample``.
        """
        of_items, of_samples = self.acts.concepts("item"), self.acts.concepts("sample")
        found = {
            name: Column(np.dtype(bool), "concept of the item", functools.partial(self._item_concept, name))
            for name in of_items
        }
        for name in of_samples:
            label = f"{name}@sample" if name in found else name
            values = functools.partial(self._sample_concept, name)
            found[label] = Column(np.dtype(bool), "concept of the sample", values)
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

    def _item_concept(self, name: str, samples: Array) -> Array:
        return np.asarray(self._mask(name, "item")[self._item(samples)])

    def _sample_concept(self, name: str, samples: Array) -> Array:
        return np.asarray(self._mask(name, "sample")[samples])


def grid_side(acts: ActivationSet) -> int | None:
    """Patches of a row of an image, where the samples are patches and every item has a square of them."""
    size = acts.attributes.item_size
    if acts.path.split("/")[-2] != "patch" or size is None or size == 1:
        return None
    side = math.isqrt(size)
    return side if side * side == size else None
