"""The data sets that are known by name, seven of the pipeline and the user's own in ``saestore.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError, NotFoundError, did_you_mean, shown
from saestore.storage.places import expanded

CONFIG = "saestore.toml"
SAES = {"image": "clip-scope-22", "text": "gemma-scope-9b-34-16k"}
MODEL_TYPES = {"clip": "image", "gemma": "text"}  # the pipeline's names of models, and what each takes
SAMPLE_TYPES = {"image": ("patch", "cls"), "text": ("token", "cls")}
_PATHS = ("items", "item_ptr", "ground_truth")
_KEYS = ("modality", "sae", "patches", "embeddings", *_PATHS)


@dataclass(frozen=True)
class Dataset:
    """A collection of images or texts. What is None is found by name, see `saestore.superactivators.file_names`."""

    name: str  # its name in a store and in the folders of its files
    modality: str  # what its items are
    # The SAE that its embeddings are made for: a registered name, or anything that `saestore.sae.load_sae` takes.
    sae: str = ""
    patches: int = 256  # patches of an image, a square grid
    embeddings: Mapping[str, str] = field(default_factory=dict)  # where the embeddings of a sample type are
    # Its ``metadata.csv``, which samples belong to which item, and the folder of its ground truth.
    items: str | None = None
    item_ptr: str | None = None
    ground_truth: str | None = None
    own: bool = False  # whether it is in the user's file

    def __post_init__(self) -> None:
        object.__setattr__(self, "sae", self.sae or SAES[self.modality])

    @property
    def sample_types(self) -> tuple[str, ...]:
        """The types of its samples, the many-per-item type first."""
        return SAMPLE_TYPES[self.modality]

    def sample_type(self, name: str) -> str:
        """The sample type that the pipeline calls `name`: it states patch where a text's tokens are meant."""
        return "token" if (name, self.modality) == ("patch", "text") else name

    def check_sample_type(self, sample_type: str) -> None:
        """Refuse samples that it does not have."""
        if sample_type not in self.sample_types:
            raise InvalidInputError(
                f"{self.name} has {' and '.join(self.sample_types)} samples, not {sample_type!r}.",
                code="unknown-sample-type",
            )


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
    """The seven data sets, then the entries of ``saestore.toml`` in the current folder.

    A table of that file with the name of a known data set changes it.
    """
    datasets = {dataset.name.casefold(): dataset for dataset in DATASETS}
    for name, fields in read_config().items():
        known = datasets.get(name.casefold())
        modality = fields.pop("modality", known.modality if known else None)
        if modality not in SAMPLE_TYPES:
            given = "has no modality" if modality is None else f"has modality = {modality!r}"
            raise _wrong(f'{CONFIG}: [datasets.{name}] {given}; allowed are "image" and "text".')
        if known is not None and modality != known.modality:
            raise _wrong(f"{CONFIG}: {known.name} is of {known.modality}s; give yours another name.")
        changed = replace(known or Dataset(name, modality), **fields, own=True)
        for sample_type in changed.embeddings:
            if sample_type not in changed.sample_types:
                raise _wrong(
                    f"{CONFIG}: [datasets.{name}] has embeddings of {sample_type!r}; allowed for {modality}s are "
                    f"{', '.join(changed.sample_types)}."
                )
        datasets[name.casefold()] = changed
    return list(datasets.values())


def find_dataset(name: str, instead: str = f"--embeddings and --sae, or name them in {CONFIG}") -> Dataset:
    """Return the known data set of that name, in upper or lower case; `instead` is what another one needs."""
    if not isinstance(name, str):
        raise InvalidInputError(f"dataset={shown(name)}: give the name of a data set.", code="invalid-name")
    datasets = {dataset.name.casefold(): dataset for dataset in known_datasets()}
    dataset = datasets.get(name.casefold())
    if dataset is not None:
        return dataset
    near = did_you_mean(name, [each.name for each in datasets.values()])
    known = near or f"Known are {', '.join(each.name for each in datasets.values())}. "
    raise NotFoundError(
        f"no known dataset {name!r}. {known}For a dataset of your own give {instead}", code="unknown-dataset"
    )


def read_config(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Read the tables ``[datasets.<name>]``; none where there is no such file."""
    file = Path(CONFIG) if path is None else path
    if not file.is_file():
        return {}
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise _wrong(f"{file} cannot be read as TOML: {error}") from error
    _check_keys(document, ("datasets",), f"{file}: the file")
    tables = document.get("datasets", {})
    if not isinstance(tables, dict):
        raise _wrong(f"{file}: datasets is not a table; write [datasets.NAME], one for each data set.")
    return {name: _fields(file, name, table) for name, table in tables.items()}


def _fields(file: Path, name: str, table: Any) -> dict[str, Any]:
    where = f"{file}: [datasets.{name}]"
    if not isinstance(table, dict):
        raise _wrong(f"{file}: datasets.{name} is not a table; write [datasets.{name}] above its keys.")
    if not name.strip() or "/" in name:
        raise _wrong(f"{file}: {name!r} cannot name a data set; a name is not empty and has no /.")
    _check_keys(table, _KEYS, where)
    fields = dict(table)
    for key, value in table.items():
        if key == "patches":
            if type(value) is not int or value < 1:
                raise _wrong(f"{where} patches = {value!r}; allowed is an integer from 1 up.")
        elif key == "embeddings":
            if not isinstance(value, dict) or not all(isinstance(each, str) and each for each in value.values()):
                raise _wrong(f'{where} embeddings = {value!r}; allowed is a table, as {{ patch = "…", cls = "…" }}.')
            fields[key] = {sample_type: _resolved(file, each) for sample_type, each in value.items()}
        elif not isinstance(value, str) or not value:
            raise _wrong(f"{where} {key} = {value!r}; allowed is a text.")
        elif key in _PATHS or (key == "sae" and (file.parent / value).exists()):
            fields[key] = _resolved(file, value)
    return fields


def _resolved(file: Path, path: str) -> str:
    return path if "://" in path else str(file.parent / expanded(path))


def _check_keys(table: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in allowed:
            raise _wrong(f"{where} has {key!r}. {did_you_mean(key, allowed)}Allowed are {', '.join(allowed)}.")


def _wrong(message: str) -> InvalidInputError:
    return InvalidInputError(message, code="bad-config")
