"""What is to be shown of the strongest samples: their items, and the activations of all samples of those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.results import TopSamples

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One row of a table of top samples.

    Attributes
    ----------
    item, key, split
        The item: its number, its key, and its split, empty where it has none.
    start
        Its first sample.
    position
        Place of the strongest sample in it.
    activations
        Those of all its samples, (samples,).
    """

    item: int
    key: str
    split: str
    start: int
    position: int
    activations: Array

    @property
    def strongest(self) -> float:
        """The activation that the row is there for."""
        return float(self.activations[self.position])


@dataclass(frozen=True)
class Canvas:
    """What is known of where a page will be drawn.

    Attributes
    ----------
    dpi
        Resolution of the figure.
    size
        Inches that the Axes has, None where it will be made to fit.
    """

    dpi: float
    size: tuple[float, float] | None

    def zoom(self, size: tuple[float, float]) -> float:
        """By how much a page of `size` inches is enlarged to fill it; 1 where it is made to fit."""
        return 1.0 if self.size is None else min(self.size[0] / size[0], self.size[1] / size[1])


def rows_of(acts: SetReader, feature: int, top: TopSamples) -> list[Row]:
    """The rows of a table, with one read for all their activations. Memory: those."""
    starts = top.sample - top.position
    size = acts.item_index.item_size
    stops = starts + size if size is not None else acts.item_index.pointers()[top.item + 1]
    stops = np.minimum(stops, acts.shape[0])  # of a set that is being built, the last item may be there in part
    samples = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    values = np.split(acts.dense(samples, feature), np.cumsum(stops - starts)[:-1])
    names = acts.items.names()
    keys = acts.items.column("key", top.item) if "key" in names else top.item.astype(str)
    splits = acts.items.column("split", top.item) if "split" in names else np.full(len(top), "")
    columns = zip(
        top.item.tolist(), keys.tolist(), splits.tolist(), starts.tolist(), top.position.tolist(), values, strict=True
    )
    return [Row(*column) for column in columns]
