"""Ground truth that lies beside the embeddings: checked before a build writes, given as concepts when it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.activation_set import ActivationSet
from saestore.errors import InvalidInputError, NotFoundError
from saestore.ingest.build_options import Request
from saestore.tables import Items
from saestore.tables.item_index import ItemIndex

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset
    from saestore.superactivators.ground_truth import GroundTruth

__all__ = ["add_ground_truth", "planned_truth"]

_ADVICE = (
    "Nothing was written. Correct one of them, or build without it (--no-ground-truth, ground_truth=False); "
    "`saestore label SET --ground-truth DIR --overwrite` then takes it as it is"
)


def planned_truth(
    request: Request, dataset: Dataset | None, sample_type: str, items: Items | None, index: ItemIndex
) -> GroundTruth | None:
    """Read and check the ground truth that is given, or that of embeddings which were found by name.

    Raises
    ------
    NotFoundError, InvalidInputError
        What was given is not there, or it does not fit, or contradicts the metadata.
    """
    folder = _folder(request, dataset)
    if folder is None:
        return None
    from saestore.superactivators.ground_truth import Expected, read_ground_truth

    split = None if items is None else items.columns.get("split")
    expected = Expected(sample_type, index, {} if items is None else items.concepts, split)
    try:
        truth = read_ground_truth(folder, expected)
    except NotFoundError:
        if request.ground_truth is not None:
            raise
        return None  # what was found is of samples of another type
    truth.check(_ADVICE)
    return truth


def _folder(request: Request, dataset: Dataset | None) -> Path | None:
    given = request.ground_truth
    if isinstance(given, bool):
        if given:
            raise InvalidInputError("ground_truth=True: give its folder, False, or None for the one found by name.")
        return None
    if given is not None:
        return Path(given)
    if dataset is None or request.embeddings is not None or request.runs_model:
        return None  # its rows are those of the embeddings that lie beside it
    from saestore.superactivators.file_names import find_ground_truth

    return find_ground_truth(dataset, request.data)


def add_ground_truth(acts: ActivationSet, truth: GroundTruth | None, say: Callable[[str], None]) -> None:
    """Give a set the concepts that it does not have yet."""
    if truth is not None and acts.attributes.complete:
        from saestore.superactivators import ground_truth

        given = ground_truth.add_ground_truth(acts, truth, keep=True)
        if given:
            say(f"{acts.path}: {len(given)} concepts given from {truth.folder}.")
            if truth.caveat:
                say(f"{acts.path}: {truth.caveat}.")
