"""Where the files of known data sets lie: under ``--data``, then under ``$SAESTORE_SCRATCH``."""

from __future__ import annotations

import os
from pathlib import Path

from saestore.embeddings.opening import locate
from saestore.errors import NotFoundError
from saestore.files import split_member
from saestore.superactivators.datasets import Dataset

__all__ = ["data_roots", "find_embeddings", "find_ground_truth", "find_items", "find_token_counts"]

SCRATCH = "SAESTORE_SCRATCH"
# Of the inputs that the pipeline made its files for: the size of an image, or that there are texts.
SUFFIXES = {"image": "_inputsize_(224, 224).pt", "text": "_inputsize_('text', 'text2').pt"}
TOKEN_COUNTS = "token_counts" + SUFFIXES["text"]

Folder = str | os.PathLike[str] | None


def data_roots(data: Folder = None) -> list[Path]:
    """Folders with ``Embeddings/``, ``Data/`` and ``GT_Samples/``, in the order in which they are searched.

    Raises
    ------
    NotFoundError
        `data` is given and no folder.
    """
    if data is not None and not Path(data).is_dir():
        raise NotFoundError(
            f"no folder {data}; --data (data=) takes the one that holds Data/, GT_Samples/ or Embeddings/"
        )
    return [Path(each) for each in (data, os.environ.get(SCRATCH)) if each]


def find_embeddings(dataset: Dataset, sample_type: str, data: Folder = None) -> Path | str:
    """Find the embeddings of a known data set, for `open_embeddings`.

    Parameters
    ----------
    dataset, sample_type
        What to look for.
    data
        The folder with ``Embeddings/<dataset>/``; where it does not have them, ``$SAESTORE_SCRATCH``.

    Raises
    ------
    NotFoundError
        If they are not there, or are there twice; says where it looked.
    InvalidInputError
        If the data set has no such samples.
    """
    base = dataset.embeddings_base(sample_type)
    own = dataset.embeddings.get(sample_type)
    if own is not None:
        if "://" not in own:
            locate(split_member(own)[0])
        return own
    roots = data_roots(data)
    if not roots:
        raise NotFoundError(
            f"no embeddings given for {dataset.name}: give --embeddings, or set {SCRATCH} or --data to the folder "
            f"that holds Embeddings/{dataset.name}/{base}*"
        )
    missing = []
    for root in roots:
        path = root / "Embeddings" / dataset.name / base
        try:
            return locate(path)
        except NotFoundError as error:
            missing.append(str(error))
            if any(path.parent.glob(f"{base}*")):
                break  # several there: nobody said which, and others elsewhere may be of another build
    raise NotFoundError(f"{'; '.join(missing)}. Put them there, or give --embeddings")


def find_items(dataset: Dataset, data: Folder = None) -> Path:
    """Find the ``metadata.csv`` of a known data set, for `saestore.tables.as_items`.

    Parameters
    ----------
    dataset
        What to look for.
    data
        The folder with ``Data/<dataset>/metadata.csv`` or ``Data/Augmented_<dataset>/metadata.csv``; where it does not
        have one, ``$SAESTORE_SCRATCH``, then the current folder.

    Raises
    ------
    NotFoundError
        If it is not there; says where it looked.
    """
    if dataset.items is not None:
        return Path(dataset.items)
    places = [
        root / "Data" / f"{prefix}{dataset.name}" / "metadata.csv"
        for root in (*data_roots(data), Path())
        for prefix in ("", "Augmented_")
    ]
    for place in places:
        if place.is_file():
            return place
    looked = " nor ".join(map(str, places))
    raise NotFoundError(f"no metadata for {dataset.name}: neither {looked} is there; give --items")


def find_token_counts(dataset: Dataset, data: Folder = None) -> Path | None:
    """Find the file that says how many tokens each text has; None where there is none."""
    for root in (*data_roots(data), Path()):
        path = root / "GT_Samples" / dataset.name / TOKEN_COUNTS
        if path.is_file():
            return path
    return None


def find_ground_truth(dataset: Dataset, data: Folder = None) -> Path | None:
    """Find the folder that says which items and samples have a concept; None where there is none."""
    if dataset.ground_truth is not None:
        return Path(dataset.ground_truth)
    for root in (*data_roots(data), Path()):
        folder = root / "GT_Samples" / dataset.name
        if any(folder.glob("gt_*_per_concept*.pt")):
            return folder
    return None
