"""What the name of a known data set supplies: its files, its layout of rows, and its ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.activation_set import ActivationSet
from saestore.errors import InvalidInputError, NotFoundError
from saestore.progress import Progress
from saestore.tables.items import Items
from saestore.writing.plan import ItemTable

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset
    from saestore.superactivators.ground_truth import GroundTruth

_ADVICE = (
    "Nothing was written. Correct one of them, or leave it out (--no-ground-truth, ground_truth=False); "
    "`saestore label SET --ground-truth DIR --overwrite` then takes it as it is"
)


def one_sample_type(dataset: Dataset, given: str | None, default: str | None = None) -> str:
    """The sample type of a known data set: as given, where ``patch`` means the tokens of texts, else its default."""
    chosen = dataset.sample_type(given or default or dataset.sample_types[0])
    dataset.check_sample_type(chosen)
    return chosen


def found_items(dataset: Dataset | None, data: str | None) -> Path | None:
    """The ``metadata.csv`` of a known data set, where there is one."""
    if dataset is None:
        return None
    from saestore.superactivators.file_names import find_items

    try:
        return find_items(dataset, data)
    except NotFoundError:
        return None


def known_item_ptr(
    dataset: Dataset, sample_type: str, data: str | None, items: Items | None, n_rows: int, *, by_name: bool
) -> Any:
    """How the rows of a known data set belong to its items, None where it is unknown; `by_name`: so were they found."""
    if sample_type == "cls":
        return None
    if dataset.item_ptr is not None:
        return dataset.item_ptr
    if sample_type == "token":
        from saestore.superactivators.file_names import find_token_counts

        return find_token_counts(dataset, data)
    if by_name or (items is None and n_rows % dataset.patches == 0):
        return dataset.patches
    return None


def find_truth(
    given: str | bool | None, dataset: Dataset | None, data: str | None, sample_type: str, table: ItemTable
) -> GroundTruth | None:
    """Read and check ground truth: of the given folder, or of the folder of `dataset`, whose rows were found by name.

    `given` is False for none. Ground truth numbers rows, so `dataset` is None where they were not found by name.
    """
    if given is True:
        raise InvalidInputError(
            "ground_truth=True: give its folder, False, or None for the one found by name.", code="bad-ground-truth"
        )
    if given is False or (given is None and dataset is None):
        return None
    from saestore.superactivators.file_names import find_ground_truth
    from saestore.superactivators.ground_truth import Expected, read_ground_truth

    folder = find_ground_truth(dataset, data) if given is None and dataset is not None else Path(str(given))
    if folder is None:
        return None
    items = table.items
    split = None if items is None else items.columns.get("split")
    expected = Expected(sample_type, table.index, {} if items is None else items.concepts, split)
    try:
        truth = read_ground_truth(folder, expected)
    except NotFoundError:
        if given is not None:
            raise
        return None  # the folder that was found has samples of another type
    truth.check(_ADVICE)
    return truth


def add_found_truth(acts: ActivationSet, truth: GroundTruth | None, report: Progress) -> None:
    """Give a set the concepts that it does not have yet."""
    if truth is None:
        return
    from saestore.superactivators.ground_truth import add_ground_truth

    added = add_ground_truth(acts, truth, keep=True)
    if added:
        report.line(f"{acts.path}: {len(added)} concepts added from {truth.folder}.")
        if truth.caveat:
            report.line(f"{acts.path}: {truth.caveat}.")
