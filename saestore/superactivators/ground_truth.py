"""Ground truth of the research pipeline: which items and samples have a concept, checked before it is used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, check_path
from saestore.files import existing_folder, load_pt, nearby
from saestore.labels.as_labels import check_names
from saestore.query.open_set import changing
from saestore.sparse_rows import Array
from saestore.superactivators.file_names import SUFFIXES, TOKEN_COUNTS
from saestore.superactivators.token_counts import token_totals
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import LabelMatrix, ids
from saestore.writing.columns import add_labels

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


_FILE = re.compile(r"gt_(?P<what>patch|patches|samples)_per_concept(_(?P<split>train|cal|test))?")
_LISTED = 5
_SPLITS = ("train", "cal", "test")  # of the pipeline: a file for each, or one for all
# The pipeline resized masks to a square, and cut the middle out of the images that it embedded.
_SQUASHED = (
    "these labels of patches are of images squashed to squares; where the embeddings are of the middle of images that "
    "are not square, they are beside the patches that they mean (`saestore label --masks` does better)"
)


@dataclass(frozen=True, eq=False)
class Expected:
    """What is known of the set that the ground truth is of."""

    sample_type: str  # ``patch``, ``token`` or ``cls``
    index: ItemIndex  # which samples belong to which item
    # bool (n_items,), labels of items that the metadata gives.
    concepts: Mapping[str, Array] = field(default_factory=dict)
    split: Array | None = None  # split of each item, (n_items,), None where unknown

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.index.pointers()[-1])

    def size(self, level: str) -> int:
        """Number of items or samples."""
        return self.index.n_items if level == "item" else self.n_samples


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Labels of the files, every number in range."""

    folder: Path  # where they are
    labels: dict[str, dict[str, Array]]  # level (``item``, ``sample``) -> concept -> ascending rows
    disagreements: list[str]  # contradictions to the metadata or among the files: a sentence each
    caveat: str = ""  # a warning to users of the labels that no check can replace; empty where there is none

    def check(self, advice: str) -> None:
        """Refuse disagreements."""
        if self.disagreements:
            more = len(self.disagreements) - _LISTED
            listed = "; ".join(self.disagreements[:_LISTED]) + (f"; and {more} more" if more > 0 else "")
            raise InvalidInputError(
                f"the ground truth in {self.folder} and the metadata disagree: {listed}. {advice}",
                code="ground-truth-disagrees",
            )


@dataclass(frozen=True, eq=False)
class _File:
    """One dictionary: concept -> rows, of all splits or of one."""

    path: Path
    level: str
    split: str | None
    rows: dict[str, Array]


def read_ground_truth(folder: str | os.PathLike[str], expected: Expected) -> GroundTruth:
    """Read ``gt_samples_per_concept…pt`` (items) and ``gt_patch_per_concept…pt`` (samples) and check them.

    `folder` is ``GT_Samples/<dataset>``. Patches use its files of images, tokens its files of texts, and ``cls`` its
    files of items, of either kind. Memory: the dictionaries, which are lists of Python integers, and 8 bytes per label.
    """
    where = check_path("folder", folder)
    suffix = _suffix(where, expected.sample_type)
    if expected.sample_type == "token":
        _check_counts(where / TOKEN_COUNTS, expected.index)
    files = list(_read(where, suffix, expected))
    labels: dict[str, dict[str, Array]] = {}
    disagreements: list[str] = []
    for level in ("item", "sample"):
        of_level = [file for file in files if file.level == level]
        if of_level:
            labels[level] = _joined(of_level, expected, disagreements)
    disagreements += _against_items(labels, expected)
    squashed = expected.sample_type == "patch" and bool(labels.get("sample"))
    return GroundTruth(where, labels, disagreements, _SQUASHED if squashed else "")


def _suffix(folder: Path, sample_type: str) -> str:
    """The end of the files' names."""
    existing_folder(folder, "of ground truth ")
    kinds = {"patch": ("image",), "token": ("text",)}.get(sample_type, ("image", "text"))
    suffixes = [SUFFIXES[kind] for kind in kinds if any(_names(folder, SUFFIXES[kind], sample_type))]
    if len(suffixes) == 1:
        return suffixes[0]
    if suffixes:
        raise InvalidInputError(
            f"{folder} has ground truth of images and of texts; keep one of them there", code="ambiguous-ground-truth"
        )
    names = " or ".join(f"gt_samples_per_concept*{SUFFIXES[kind]}" for kind in kinds)
    raise NotFoundError(
        f"no ground truth in {folder}: it has no {names}; {nearby(folder / names)}", code="no-ground-truth"
    )


def _names(folder: Path, suffix: str, sample_type: str) -> Iterator[tuple[Path, str, str | None]]:
    """Files with level and split; for ``cls`` only files of items, since its rows are not patches."""
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.name.removesuffix(suffix)) if path.name.endswith(suffix) else None
        if match is not None:
            level = "item" if match["what"] == "samples" else "sample"
            if level == "item" or sample_type != "cls":
                yield path, level, match["split"]


def _read(folder: Path, suffix: str, expected: Expected) -> Iterator[_File]:
    for path, level, split in _names(folder, suffix, expected.sample_type):
        loaded = load_pt(path)
        if not isinstance(loaded, dict):
            raise _wrong(f"{path} holds a {type(loaded).__name__}; ground truth is concept -> row numbers")
        check_names(list(loaded))
        size = expected.size(level)
        yield _File(path, level, split, {name: _rows(path, name, v, level, size) for name, v in loaded.items()})


def _wrong(message: str) -> InvalidInputError:
    return InvalidInputError(message, code="bad-ground-truth")


def _rows(path: Path, concept: str, values: Any, level: str, size: int) -> Array:
    """Row numbers of one concept, ascending."""
    where = f"{path}, concept {concept!r}"
    if hasattr(values, "numpy"):
        values = values.numpy()
    if not isinstance(values, list | tuple | np.ndarray):
        raise _wrong(f"{where} is a {type(values).__name__}; allowed is a list of {level} numbers")
    if isinstance(values, np.ndarray):
        whole = values.ndim == 1 and values.dtype.kind in "iu"
        other: Any = f"{values.dtype} of shape {values.shape}"
    else:
        other = next((value for value in values if type(value) is not int), None)
        whole = other is None
    if not whole:
        raise _wrong(f"{where} has {other!r}; allowed are {level} numbers, integers from 0 to {size - 1}")
    outside = [value for value in (min(values), max(values)) if not 0 <= value < size] if len(values) else []
    if outside:
        raise _wrong(
            f"{where} has {level} {outside[0]}; the set has {size:,}, numbered 0 to {size - 1}. It is of other data, "
            "or of rows counted differently"
        )
    rows, count = np.unique(np.asarray(values, np.int64), return_counts=True)
    if len(rows) < len(values):
        raise _wrong(f"{where} has {level} {rows[count > 1][0]} {count.max()} times; each may be there once")
    return rows


def _check_counts(path: Path, index: ItemIndex) -> None:
    """Refuse token counts that differ from the rows of the set: its ground truth is shifted."""
    if not path.is_file():
        return
    counted, stored = token_totals(path), np.diff(index.pointers())
    if len(counted) != len(stored):
        raise InvalidInputError(
            f"{path} counts tokens of {len(counted):,} texts, but the set has {len(stored):,}",
            code="wrong-token-counts",
        )
    differ = np.flatnonzero(counted != stored)
    if differ.size:
        text = int(differ[0])
        raise InvalidInputError(
            f"{path} and the set part at text {text}, which counts {counted[text]:,} tokens and has {stored[text]:,} "
            f"rows; {differ.size:,} of {len(stored):,} texts differ. Ground truth numbers rows as the counts do, "
            "so it is off by that much from there on: correct both for these texts",
            code="wrong-token-counts",
        )


def _joined(files: list[_File], expected: Expected, disagreements: list[str]) -> dict[str, Array]:
    """Labels of one level from the files of its splits, or from the file of all."""
    wholes = [file for file in files if file.split is None]
    parts = [file for file in files if file.split is not None]
    if len(wholes) > 1:
        raise _wrong(f"{wholes[0].path} and {wholes[1].path.name} have the same labels; keep one of them")
    for file in parts:
        disagreements += _of_other_splits(file, expected)
    joined: dict[str, Array] = {}
    for file in parts:
        for name, rows in file.rows.items():
            before = joined.get(name, np.empty(0, np.int64))
            both = np.intersect1d(before, rows)
            if both.size:
                disagreements.append(
                    f"{file.path.name}: {name!r} has {file.level} {both[0]}, which is in another split too"
                )
            joined[name] = np.union1d(before, rows)
    if not wholes:
        required = set(_SPLITS) if expected.split is None else {str(each) for each in np.unique(expected.split)}
        missing = sorted(required - {str(file.split) for file in files})
        if missing:  # in those splits the concepts would be taken for absent
            raise _wrong(
                f"{files[0].path.parent} has {files[0].path.name} and none for {' and '.join(missing)}: nothing is "
                "known of those items. Put it there too"
            )
        return joined
    for name, rows in joined.items():
        apart = np.setxor1d(rows, wholes[0].rows.get(name, np.empty(0, np.int64)))
        if apart.size and len(parts) == len(_SPLITS):
            disagreements.append(
                f"{wholes[0].path.name} and the files of the splits have other {file.level}s for {name!r}: "
                f"{apart.size:,}, first {apart[0]}"
            )
    return wholes[0].rows


def _of_other_splits(file: _File, expected: Expected) -> Iterator[str]:
    if expected.split is None:
        return
    for name, rows in file.rows.items():
        items = rows if file.level == "item" else expected.index.locate(rows)[0]
        others = items[expected.split[items] != file.split]
        if others.size:
            yield (
                f"{file.path.name}: {others.size:,} of {len(rows):,} {file.level}s of {name!r} are of another split, "
                f"first item {others[0]}, which is {str(expected.split[others[0]])!r}"
            )


def _against_items(labels: Mapping[str, Mapping[str, Array]], expected: Expected) -> Iterator[str]:
    """Contradictions to the labels of items in the metadata."""
    for name, rows in labels.get("item", {}).items():
        if name in expected.concepts:
            mask = np.zeros(expected.index.n_items, bool)
            mask[rows] = True
            differ = np.flatnonzero(mask != expected.concepts[name])
            if differ.size:
                first = int(differ[0])
                how = ("has it here and not there", "has it there and not here")[int(expected.concepts[name][first])]
                yield f"{differ.size:,} items differ in {name!r}, first item {first}, which {how}"
    for name, rows in labels.get("sample", {}).items():
        if name in expected.concepts and rows.size:
            items = expected.index.locate(rows)[0]
            without = items[~expected.concepts[name][items]]
            if without.size:
                yield (
                    f"{without.size:,} of {len(rows):,} {expected.sample_type} rows of {name!r} are in items without "
                    f"it, first in item {without[0]}"
                )


def expected_of(acts: SetReader) -> Expected:
    """What a set knows of its items. Memory: 1 byte for each item and concept."""
    names = acts.items.names()
    return Expected(
        acts.path.split("/")[1],
        acts.item_index,
        {name: acts.concept_mask(name, "item") for name in acts.concept_names("item")},
        acts.items.column("split") if "split" in names else None,
    )


def add_ground_truth(acts: SetReader, truth: GroundTruth, *, overwrite: bool = False, keep: bool = False) -> list[str]:
    """Add the concepts of the ground truth that a set does not have yet; returns their names.

    `overwrite` replaces concepts of the set that differ, and `keep` leaves them; without either they are refused.
    """
    added: dict[str, None] = {}
    for level, size in (("item", acts.n_items), ("sample", acts.shape[0])):
        labels = acts.labels(level)
        given = truth.labels.get(level, {})
        differ = {name for name, rows in given.items() if name in labels.names and not _agrees(labels, name, rows)}
        missing = {
            name: rows
            for name, rows in given.items()
            if (not keep if name in differ else name not in labels.names or labels.unknown_mask(name) is not None)
        }
        if missing:
            # What is only unknown is replaced; a concept that differs is refused unless the caller says otherwise.
            replaces = overwrite or not differ & set(missing)
            with changing(acts) as writer:
                add_labels(writer, LabelMatrix.of_rows(missing, size, level), overwrite=replaces)
            added |= dict.fromkeys(missing)
    return list(added)


def _agrees(labels: LabelMatrix, name: str, rows: Array) -> bool:
    """Whether a stored concept is true of these rows, where it is known."""
    unknown = labels.unknown_mask(name)
    known = rows if unknown is None else rows[~unknown[rows]]
    return np.array_equal(ids(labels.matrix, labels.names.index(name)), known)
