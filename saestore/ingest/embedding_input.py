"""What a build encodes, opened and checked: embeddings on disk, or images or texts through a model; and their items."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saestore.embeddings.base import EmbeddingSource
from saestore.embeddings.opening import open_embeddings
from saestore.errors import InvalidInputError, NotFoundError
from saestore.ingest.build_options import Request
from saestore.models import ModelRequest, SAETrainingSpec, open_model_source
from saestore.sae import LoadedSAE
from saestore.superactivators.datasets import Dataset
from saestore.superactivators.search import find_embeddings, find_items, find_token_counts
from saestore.tables import Items, as_items, item_pointers, token_spans
from saestore.tables.fingerprint import items_fingerprint, spans_fingerprint
from saestore.tables.item_index import ItemIndex

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Inputs:
    """Rows, and the items that they belong to.

    Attributes
    ----------
    source
        The rows.
    items, items_path
        The table of items, if any, and the file that it was read from.
    index
        Which rows belong to which item.
    spans
        int32 (n_rows, 2), the characters of each token, if known.
    record
        Where the rows come from, for the set's attributes, besides what `provenance` says of all.
    computed
        True where reading runs a model: then nothing should be read twice.
    notes
        What the caller should be told at the end.
    """

    source: EmbeddingSource
    items: Items | None
    items_path: str | None
    index: ItemIndex
    spans: Array | None
    record: dict[str, Any] = field(default_factory=lambda: {"kind": "embeddings"})
    computed: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the samples come from, as the set's attributes record it."""
        return {
            **self.record,
            "path": self.source.path,
            "layout": self.source.layout,
            "n_rows": self.source.n_rows,
            "d_in": self.source.d_in,
            "dtype": self.source.dtype,
            "fingerprint": self.source.fingerprint(),
            "items": self.items_path,
            "items_fingerprint": items_fingerprint(self.items, self.index),
            "token_spans_fingerprint": None if self.spans is None else spans_fingerprint(self.spans),
        }


def embeddings_on_disk(request: Request, dataset: Dataset | None, sample_type: str) -> Inputs:
    """Open embeddings: those that are given, else those of a known dataset."""
    spec = request.embeddings
    source = open_embeddings(find_embeddings(dataset, sample_type, request.data) if spec is None and dataset else spec)
    items_from = request.items if request.items is not None else _default_items(dataset, request.data)
    items = None if items_from is None else as_items(items_from)
    index = _index(request, dataset, sample_type, items, source.n_rows)
    spans = None if request.token_spans is None else token_spans(request.token_spans, source.n_rows)
    return Inputs(source, items, _named(items_from), index, spans)


def from_model(
    request: Request, sample_type: str, sae: LoadedSAE, advance: Callable[[int], None], known: Sequence[str]
) -> Inputs:
    """Load the model that makes the embeddings, and look at every image or text; `known` are the first images."""
    asked = ModelRequest(
        images=request.images,
        texts=request.texts,
        items=request.items,
        model=request.model,
        layer=request.layer,
        sample_type=sample_type,
        device=request.device,
        dtype=request.model_dtype,
        batch_size=request.batch_size,
        max_tokens=request.max_tokens,
        skip_bad=request.skip_bad,
        known=known,
    )
    ready = open_model_source(asked, SAETrainingSpec.of(sae), advance)
    return Inputs(
        ready.source,
        ready.items,
        _named(request.items),
        ItemIndex.of(ready.ptr),
        ready.spans,
        ready.record,
        computed=True,
        notes=ready.notes,
    )


def _named(items_from: Any) -> str | None:
    return str(items_from) if isinstance(items_from, str | os.PathLike) else None


def _default_items(dataset: Dataset | None, data: str | None) -> Path | None:
    """The ``metadata.csv`` of a known dataset, where there is one."""
    if dataset is None:
        return None
    try:
        return find_items(dataset, data)
    except NotFoundError:
        return None


def _index(request: Request, dataset: Dataset | None, sample_type: str, items: Items | None, n_rows: int) -> ItemIndex:
    """How the rows belong to items: as told, else what the sample type and the known layouts imply."""
    spec, n_items = request.item_ptr, None if items is None else len(items)
    if spec is None and sample_type == "cls":
        spec = 1
    elif spec is None and dataset is not None and dataset.item_ptr is not None:
        spec = dataset.item_ptr
    elif spec is None and sample_type == "token":
        spec = None if dataset is None else find_token_counts(dataset, request.data)
        if spec is None and items is not None:
            raise InvalidInputError(
                f"which of the {n_rows:,} tokens belong to which of the {n_items:,} texts is not known: pass "
                "--item-ptr (item_ptr=), a .npy, .npz:name or token_counts .pt file."
            )
    elif spec is None and dataset is not None and request.embeddings is None:
        spec = dataset.patches
    elif spec is None and items is None:
        spec = dataset.patches if dataset is not None and n_rows % dataset.patches == 0 else 1
    return ItemIndex.of(item_pointers(spec, n_items, n_rows))
