"""What a build encodes, opened and checked: embeddings on disk, or images or texts through a model; and their items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.embeddings.base import EmbeddingSource
from saestore.embeddings.opening import open_embeddings
from saestore.errors import NotFoundError
from saestore.ingest.options import BuildOptions, default_item_ptr
from saestore.models import ModelRequest, SAETrainingSpec, open_model_source
from saestore.sae import LoadedSAE
from saestore.tables import Items, as_items
from saestore.tables.item_index import ItemIndex
from saestore.writing.pipeline import path_of
from saestore.writing.plan import ItemTable

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset

__all__ = ["Inputs", "embeddings_on_disk", "from_model"]


@dataclass(frozen=True)
class Inputs:
    """Rows to encode, and the items that they belong to.

    Attributes
    ----------
    source
        The rows.
    table
        The items.
    record
        Where the rows come from, for the set's attributes.
    computed
        True where reading runs a model: then nothing should be read twice.
    notes
        What the caller should learn at the end.
    """

    source: EmbeddingSource
    table: ItemTable
    record: dict[str, Any] = field(default_factory=lambda: {"kind": "embeddings"})
    computed: bool = False
    notes: tuple[str, ...] = ()


def embeddings_on_disk(options: BuildOptions, dataset: Dataset | None, sample_type: str) -> Inputs:
    """Open the given embeddings, else the embeddings of a known dataset."""
    spec = options.embeddings
    if spec is None and dataset is not None:
        from saestore.superactivators.file_names import find_embeddings

        spec = find_embeddings(dataset, sample_type, options.data)
    source = open_embeddings(spec)
    items_from = options.items if options.items is not None else _default_items(dataset, options.data)
    items = None if items_from is None else as_items(items_from)
    item_ptr = options.item_ptr
    if item_ptr is None and dataset is not None and sample_type != "cls":
        item_ptr = _known_layout(options, dataset, sample_type, items, source.n_rows)
    item_ptr = default_item_ptr(item_ptr, sample_type, None if items is None else len(items), source.n_rows)
    return Inputs(source, ItemTable.of(source.n_rows, items, item_ptr, options.token_spans, path_of(items_from)))


def from_model(
    options: BuildOptions, sample_type: str, sae: LoadedSAE, advance: Callable[[int], None], known: Sequence[str]
) -> Inputs:
    """Load the model that makes the embeddings, and look at every image or text; `known` are the first images."""
    request = ModelRequest(
        images=options.images,
        texts=options.texts,
        items=options.items,
        model=options.model,
        layer=options.layer,
        sample_type=sample_type,
        device=options.device,
        dtype=options.model_dtype,
        batch_size=options.batch_size,
        max_tokens=options.max_tokens,
        skip_bad=options.skip_bad,
        known=known,
    )
    ready = open_model_source(request, SAETrainingSpec.of(sae), advance)
    table = ItemTable(index=ItemIndex.of(ready.ptr), items=ready.items, path=path_of(options.items), spans=ready.spans)
    return Inputs(ready.source, table, ready.record, computed=True, notes=ready.notes)


def _default_items(dataset: Dataset | None, data: str | None) -> Path | None:
    """The ``metadata.csv`` of a known dataset, where there is one."""
    if dataset is None:
        return None
    from saestore.superactivators.file_names import find_items

    try:
        return find_items(dataset, data)
    except NotFoundError:
        return None


def _known_layout(options: BuildOptions, dataset: Dataset, sample_type: str, items: Items | None, n_rows: int) -> Any:
    """How the rows of a known dataset belong to its items, None where that is not known."""
    if dataset.item_ptr is not None:
        return dataset.item_ptr
    if sample_type == "token":
        from saestore.superactivators.file_names import find_token_counts

        return find_token_counts(dataset, options.data)
    if options.embeddings is None or (items is None and n_rows % dataset.patches == 0):
        return dataset.patches
    return None
