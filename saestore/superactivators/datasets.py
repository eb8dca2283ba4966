"""The data sets that are known by name: what they hold, and which SAE they go with. Users add theirs in a file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from saestore.errors import InvalidInputError, NotFoundError
from saestore.superactivators.config import CONFIG, read_config

__all__ = ["DATASETS", "Dataset", "find_dataset", "known_datasets"]

Modality = Literal["image", "text"]

MODALITIES: tuple[Modality, ...] = ("image", "text")
SAES: dict[str, str] = {"image": "clip-scope-22", "text": "gemma-scope-9b-34-16k"}
SAMPLE_TYPES = {"image": ("patch", "cls"), "text": ("token", "cls")}
# The files of texts say "patch" where tokens are meant.
_BASES = {
    ("image", "patch"): "CLIP_SAE_patch_embeddings_percentthrumodel_92",
    ("image", "cls"): "CLIP_SAE_cls_embeddings_percentthrumodel_92",
    ("text", "token"): "Gemma_SAE_patch_embeddings_percentthrumodel_81",
    ("text", "cls"): "Gemma_SAE_cls_embeddings_percentthrumodel_81",
}


@dataclass(frozen=True)
class Dataset:
    """A collection of images or texts. What is None is found by name, see `saestore.superactivators.search`.

    Attributes
    ----------
    name : str
        Its name in a store and in the folders of its files.
    modality : "image" or "text"
        What its items are.
    sae : str
        The SAE that its embeddings are made for: a registered name, or whatever `saestore.sae.load_sae` takes.
    patches : int
        Patches of an image, a square grid.
    embeddings : mapping of str to str
        Where the embeddings of a sample type lie.
    items, item_ptr, ground_truth : str or None
        Its ``metadata.csv``, what says which samples belong to which item, and the folder of its ground truth.
    own : bool
        Whether the user's file says something of it.
    """

    name: str
    modality: Modality
    sae: str = ""
    patches: int = 256
    embeddings: Mapping[str, str] = field(default_factory=dict)
    items: str | None = None
    item_ptr: str | None = None
    ground_truth: str | None = None
    own: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sae", self.sae or SAES[self.modality])

    @property
    def sample_types(self) -> tuple[str, ...]:
        """What its samples can be, the many-per-item kind first."""
        return SAMPLE_TYPES[self.modality]

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


def known_datasets() -> list[Dataset]:
    """The data sets that saestore knows, then those of ``saestore.toml`` in the current folder.

    A table of that file that is named as a known one changes what it says of it.

    Raises
    ------
    InvalidInputError
        The file cannot be read, or says what no data set has; names the key and what is allowed.
    """
    found = {dataset.name.casefold(): dataset for dataset in DATASETS}
    for name, fields in read_config().items():
        known = found.get(name.casefold())
        modality = fields.pop("modality", known.modality if known else None)
        if modality not in MODALITIES:
            said = "has no modality" if modality is None else f"has modality = {modality!r}"
            raise InvalidInputError(f'{CONFIG}: [datasets.{name}] {said}; allowed are "image" and "text".')
        if known is not None and modality != known.modality:
            raise InvalidInputError(f"{CONFIG}: {known.name} is of {known.modality}s; give yours another name.")
        changed = replace(known or Dataset(name, modality), **fields, own=True)
        for sample_type in changed.embeddings:
            if sample_type not in changed.sample_types:
                raise InvalidInputError(
                    f"{CONFIG}: [datasets.{name}] has embeddings of {sample_type!r}; allowed for {modality}s are "
                    f"{', '.join(changed.sample_types)}."
                )
        found[name.casefold()] = changed
    return list(found.values())


def find_dataset(name: str) -> Dataset:
    """Return the known data set of that name, in whatever case.

    Raises
    ------
    NotFoundError
        If there is none; names the nearest.
    """
    folded = {dataset.name.casefold(): dataset for dataset in known_datasets()}
    found = folded.get(name.casefold())
    if found is not None:
        return found
    near = [folded[each].name for each in difflib.get_close_matches(name.casefold(), folded, cutoff=0.5)]
    known = ", ".join(dataset.name for dataset in folded.values())
    nearest = f"nearest: {', '.join(near)}" if near else f"known are {known}"
    raise NotFoundError(
        f"no known dataset {name!r}; {nearest}. For one of your own give its --embeddings and --sae, or say of it in "
        f"{CONFIG} where they are"
    )
