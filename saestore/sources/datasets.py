"""The data sets that are known by name: what they hold, which SAE they go with, where their files lie."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saestore.errors import InvalidInputError, NotFoundError
from saestore.sources.opening import locate

__all__ = ["DATASETS", "Dataset", "find_dataset", "find_embeddings", "find_items"]

Modality = Literal["image", "text"]

_SCRATCH = "SAESTORE_SCRATCH"
_SAES = {"image": "clip-scope-22", "text": "gemma-scope-9b-34-16k"}
_SAMPLE_TYPES = {"image": ("patch", "cls"), "text": ("token", "cls")}
# The files of texts say "patch" where tokens are meant.
_BASES = {
    ("image", "patch"): "CLIP_SAE_patch_embeddings_percentthrumodel_92",
    ("image", "cls"): "CLIP_SAE_cls_embeddings_percentthrumodel_92",
    ("text", "token"): "Gemma_SAE_patch_embeddings_percentthrumodel_81",
    ("text", "cls"): "Gemma_SAE_cls_embeddings_percentthrumodel_81",
}


@dataclass(frozen=True)
class Dataset:
    """A collection of images or texts.

    Attributes
    ----------
    name : str
        Its name in a store and in the folders of its files.
    modality : "image" or "text"
        What its items are.
    """

    name: str
    modality: Modality

    @property
    def sample_types(self) -> tuple[str, ...]:
        """What its samples can be, the many-per-item kind first."""
        return _SAMPLE_TYPES[self.modality]

    @property
    def sae(self) -> str:
        """Registered name of the SAE that its embeddings are made for."""
        return _SAES[self.modality]

    def embeddings_base(self, sample_type: str) -> str:
        """Return the name of its embeddings, without suffix.

        Raises
        ------
        InvalidInputError
            If it has no such samples.
        """
        if sample_type not in self.sample_types:
            raise InvalidInputError(
                f"{self.name} has no samples of type {sample_type!r}; allowed are {', '.join(self.sample_types)}"
            )
        return _BASES[self.modality, sample_type]


DATASETS = (
    Dataset("CLEVR", "image"),
    Dataset("Coco", "image"),
    Dataset("Broden-Pascal", "image"),
    Dataset("Broden-OpenSurfaces", "image"),
    Dataset("Sarcasm", "text"),
    Dataset("GoEmotions", "text"),
    Dataset("iSarcasm", "text"),
)


def find_dataset(name: str) -> Dataset:
    """Return the known data set of that name, in whatever case.

    Raises
    ------
    NotFoundError
        If there is none; names the nearest.
    """
    folded = {dataset.name.casefold(): dataset for dataset in DATASETS}
    found = folded.get(name.casefold())
    if found is not None:
        return found
    near = [folded[each].name for each in difflib.get_close_matches(name.casefold(), folded, cutoff=0.5)]
    nearest = f"nearest: {', '.join(near)}" if near else f"known are {', '.join(each.name for each in DATASETS)}"
    raise NotFoundError(f"no known dataset {name!r}; {nearest}. For one of your own give its --embeddings and --sae")


def find_embeddings(dataset: Dataset, sample_type: str, scratch: str | os.PathLike[str] | None = None) -> Path:
    """Find the embeddings of a known data set, for `open_embeddings`.

    Parameters
    ----------
    dataset, sample_type
        What to look for.
    scratch
        The folder with ``Embeddings/<dataset>/``; by default the environment variable ``SAESTORE_SCRATCH``.

    Raises
    ------
    NotFoundError
        If they are not there, or are there twice; says where it looked.
    InvalidInputError
        If the data set has no such samples.
    """
    base = dataset.embeddings_base(sample_type)
    root = scratch if scratch is not None else os.environ.get(_SCRATCH)
    if not root:
        raise NotFoundError(
            f"no embeddings given for {dataset.name}: give --embeddings, or set {_SCRATCH} to the folder that holds "
            f"Embeddings/{dataset.name}/{base}*"
        )
    try:
        return locate(Path(root) / "Embeddings" / dataset.name / base)
    except NotFoundError as error:
        raise NotFoundError(f"{error}. Put them there, or give --embeddings") from error


def find_items(dataset: Dataset, data_dir: str | os.PathLike[str]) -> Path:
    """Find the ``metadata.csv`` of a known data set, for `saestore.items.as_items`.

    Parameters
    ----------
    dataset
        What to look for.
    data_dir
        The folder with ``<dataset>/metadata.csv`` or ``Augmented_<dataset>/metadata.csv``.

    Raises
    ------
    NotFoundError
        If it is not there; says where it looked.
    """
    places = [Path(data_dir) / f"{prefix}{dataset.name}" / "metadata.csv" for prefix in ("", "Augmented_")]
    for place in places:
        if place.is_file():
            return place
    raise NotFoundError(f"no metadata for {dataset.name}: neither {places[0]} nor {places[1]} is there; give --items")
