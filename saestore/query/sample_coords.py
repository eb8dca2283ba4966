"""Facts about samples other than activations, such as item, split and concepts, computed for requested samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.sparse_rows import Array
from saestore.stats import STATISTICS

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


# Not numpy's own type of text: it has no place for the missing values that xarray fills in when it aligns labels.
TEXT = np.dtype(object)
# Masks of this many concepts are cached, since dask asks for slice after slice of each.
_CACHED = 16
_RESERVED = {"sample", "feature", "activation", "activation_set", *(s.name for s in STATISTICS)}
OF_ITEMS = {"key": "path or id of the item", "split": "split of the item"}


@dataclass(frozen=True)
class SampleCoordinate:
    """One value per sample: its dtype, its description, and a function that computes it."""

    dtype: np.dtype[Any]
    description: str
    values: Callable[[Array], Array]  # from int64 sample numbers (n,), in any order, to values (n,)
    # Of texts of items: the distinct ones, objects, and which of them each item has. None for other coordinates.
    coded: Callable[[], tuple[Array, Array]] | None = None

    def at(self, samples: Array) -> Array:
        """The values of samples, of any shape."""
        flat = samples.reshape(-1)
        values = np.asarray(self.values(flat), self.dtype) if len(flat) else np.empty(0, self.dtype)
        return values.reshape(samples.shape)


class SampleCoordinates:
    """The coordinates of one activation set along its samples.

    Pickles as the set does. Memory: a byte per item or sample for each of at most 16 concepts, and the distinct texts.
    """

    def __init__(self, acts: SetReader) -> None:
        self.acts = acts
        self._mask = functools.lru_cache(_CACHED)(acts.concept_mask)
        self._coded = functools.cache(self._kinds)

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleCoordinates, (self.acts,)

    @functools.cached_property
    def by_name(self) -> dict[str, SampleCoordinate]:
        """All coordinates: item and position, columns of the items, then a boolean one for every concept.

        Where items and samples both have a concept, the concept of samples is called ``sample.<name>``, as in
        ``where=``; a concept with the name of another coordinate is called ``concept::<name>``.
        """
        coordinates = {**self._positions(), **self._of_items()}
        of_items, of_samples = self.acts.concept_names("item"), self.acts.concept_names("sample")
        concepts = {_label(name, coordinates): self._concept(name, "item") for name in of_items}
        for name in of_samples:
            label = _label(f"sample.{name}" if name in of_items else name, coordinates)
            concepts[label] = self._concept(name, "sample")
        return coordinates | concepts

    def _positions(self) -> dict[str, SampleCoordinate]:
        ints, side = np.dtype(np.int64), grid_width(self.acts)
        coordinates = {
            "item": SampleCoordinate(ints, "image or text that the sample belongs to", self.item),
            "position": SampleCoordinate(ints, "index of the patch or token in its item", self._position),
        }
        if side is not None:
            coordinates["row"] = SampleCoordinate(
                ints, "row of the patch in its image", lambda s: self._position(s) // side
            )
            coordinates["col"] = SampleCoordinate(
                ints, "column of the patch in its image", lambda s: self._position(s) % side
            )
        return coordinates

    def _of_items(self) -> dict[str, SampleCoordinate]:
        names = self.acts.items.names()
        coordinates = {}
        if "text" in names and self.acts.spans([]) is not None:
            coordinates["token"] = SampleCoordinate(TEXT, "text of the token", self._token)
        for name, description in OF_ITEMS.items():
            if name in names:
                functions = functools.partial(self._of_item, name), functools.partial(self._coded, name)
                coordinates[name] = SampleCoordinate(TEXT, description, *functions)
        return coordinates

    def item(self, samples: Array) -> Array:
        """The item of each sample."""
        return self.acts.item_index.locate(samples)[0]

    def _position(self, samples: Array) -> Array:
        return self.acts.item_index.locate(samples)[1]

    def _of_item(self, name: str, samples: Array) -> Array:
        """A column of the items; reads only the chunks that the items of the samples are in."""
        items, back = np.unique(self.item(samples), return_inverse=True)
        return self.acts.items.column(name, items).astype(TEXT)[back]  # one string for all samples of an item

    def _kinds(self, name: str) -> tuple[Array, Array]:
        """The distinct texts of a column of the items, objects, and which of them each item has."""
        kinds, codes = np.unique(np.ma.getdata(self.acts.items.column(name)), return_inverse=True)
        return kinds.astype(TEXT), codes.astype(np.min_scalar_type(len(kinds)))

    def _token(self, samples: Array) -> Array:
        spans = self.acts.spans(samples)
        if spans is None:
            raise RuntimeError("a column of tokens needs their spans")
        items, back = np.unique(self.item(samples), return_inverse=True)
        texts = self.acts.items.column("text", items).tolist()
        return np.array([texts[i][a:b] for i, (a, b) in zip(back.tolist(), spans.tolist(), strict=True)], TEXT)

    def _concept(self, name: str, level: Literal["item", "sample"]) -> SampleCoordinate:
        def values(samples: Array) -> Array:
            return np.asarray(self._mask(name, level)[self.item(samples) if level == "item" else samples])

        return SampleCoordinate(np.dtype(bool), f"concept of the {level}", values)


def _label(name: str, columns: Container[str]) -> str:
    """The name of a concept's coordinate."""
    return f"concept::{name}" if name in columns or name in _RESERVED else name


def grid_width(acts: SetReader) -> int | None:
    """Patches per row of an image, where all images have one grid: the recorded one, else a square."""
    size, transform = acts.attributes.item_size, acts.attributes.source.get("transform")
    if acts.path.split("/")[-2] != "patch" or size is None or size == 1:
        return None
    grid: Any = [math.isqrt(size)] * 2
    match transform.get("grid", grid) if isinstance(transform, Mapping) else grid:
        case [int(rows), int(columns)] if rows * columns == size:
            return columns
    return None
