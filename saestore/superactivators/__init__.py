"""Everything that knows one research pipeline: its file names, data sets, ground truth and unit mappings.

A layout of `saestore.layouts`, which imports it for a file that nothing else understands. The command line and builds
by the name of a data set import it too. Nothing else of saestore knows a name or a number of that pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from saestore.embeddings.base import EmbeddingSource
    from saestore.query.reader import SetReader

SCRATCH = "SAESTORE_SCRATCH"  # a variable of the environment: a folder with Embeddings/ and GT_Samples/
SCRATCH_STORE = "SAE_Activations/activations.zarr"  # where the store is in that folder, unless the caller says


def activation_format(path: Path) -> str | None:
    """The import format of a file of activations; None where it is not of the pipeline."""
    from saestore.superactivators.activations import recognise

    return recognise(path)


def embeddings_target(path: Path) -> tuple[str, Path] | None:
    """For a chunk and for a list of chunks: their base name, and the list."""
    from saestore.superactivators.chunk_lists import list_of

    return list_of(path)


def open_embeddings(path: Path) -> EmbeddingSource | None:
    """The embeddings of a list of chunks; None for other files."""
    from saestore.superactivators.chunk_lists import open_listed_embeddings

    return open_listed_embeddings(path)


def item_pointers(path: Path, n_items: int | None, n_rows: int) -> np.ndarray[Any, Any] | None:
    """Which rows belong to which text, from a ``.pt`` with token counts."""
    if path.suffix != ".pt":
        return None
    from saestore.superactivators.token_counts import pointers_of_counts

    return pointers_of_counts(path, n_items, n_rows)


def add_ground_truth(
    reader: SetReader, folder: str | os.PathLike[str], overwrite: bool, report: Callable[[str], None]
) -> list[str]:
    """Give a set the concepts of ``GT_Samples/<dataset>``; refuses contradictions unless they are to be overwritten."""
    from saestore.superactivators import ground_truth

    truth = ground_truth.read_ground_truth(folder, ground_truth.expected_of(reader))
    if not overwrite:
        truth.check(
            "Nothing was written. Correct one of them, or pass --overwrite (overwrite=True) to take it as it is"
        )
    added = ground_truth.add_ground_truth(reader, truth, overwrite=overwrite)
    if added and truth.caveat:
        report(truth.caveat)
    return added
