"""What a build encodes, opened and checked: embeddings on disk, or images or texts through a model; and their items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from saestore.embeddings.base import EmbeddingSource, MaskedSource
from saestore.embeddings.opening import open_embeddings
from saestore.ingest.known import found_items, known_item_ptr
from saestore.ingest.options import BuildOptions, default_item_ptr
from saestore.ingest.row_choice import chosen_rows, mask_and_tokens, norms, open_mask, rows_per_item, tokens_record
from saestore.models import ModelRequest, SAETrainingSpec, open_model_source
from saestore.sae import LoadedSAE
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import as_items
from saestore.writing.pipeline import path_of
from saestore.writing.plan import ItemTable

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset


@dataclass(frozen=True)
class Inputs:
    """Rows to encode, and the items that they belong to."""

    source: EmbeddingSource
    table: ItemTable
    record: dict[str, Any]  # where the rows come from, for the set's attributes
    computed: bool = False  # whether reading runs a model: then nothing should be read twice
    notes: tuple[str, ...] = ()  # what the caller should learn at the end


def embeddings_on_disk(
    options: BuildOptions, dataset: Dataset | None, sample_type: str, width: int | None = None
) -> Inputs:
    """Open the given embeddings, else the embeddings of a known dataset; `width` is the SAE's, where it is known."""
    spec = options.embeddings
    if spec is None and dataset is not None:
        from saestore.superactivators.file_names import find_embeddings

        spec = find_embeddings(dataset, sample_type, options.data)
    beside = [name for name in (options.mask, options.tokens) if isinstance(name, str)]
    source = open_embeddings(spec, width=width, others=beside)
    items_from = options.items if options.items is not None else found_items(dataset, options.data)
    items = None if items_from is None else as_items(items_from)
    item_ptr = options.item_ptr
    if item_ptr is None and dataset is not None:
        by_name = options.embeddings is None
        item_ptr = known_item_ptr(dataset, sample_type, options.data, items, source.n_rows, by_name=by_name)
    mask, tokens = mask_and_tokens(options, spec, source.n_rows, source.item_size)
    if item_ptr is None and sample_type != "cls":
        item_ptr = source.item_size or rows_per_item(mask, tokens)
    item_ptr = default_item_ptr(item_ptr, sample_type, None if items is None else len(items), source.n_rows)
    table = ItemTable.of(source.n_rows, items, item_ptr, options.token_spans, path_of(items_from))
    table = replace(table, columns={} if tokens is None else {"token": tokens.reshape(-1)})
    choice = chosen_rows(options, table, mask, norms(lambda: source))
    rows = source if choice.keep is None else MaskedSource(source, choice.keep)
    return Inputs(rows, choice.table, {"kind": "embeddings", **choice.record, **tokens_record(tokens)})


def from_model(
    options: BuildOptions, sample_type: str, sae: LoadedSAE, advance: Callable[[int], None], known: Sequence[str]
) -> Inputs:
    """Load the model that makes the embeddings, and look at every image or text; `known` are the first images."""
    shared = {each.name: getattr(options, each.name) for each in fields(ModelRequest) if hasattr(options, each.name)}
    request = ModelRequest(**shared | {"sample_type": sample_type, "dtype": options.model_dtype, "known": known})
    ready = open_model_source(request, SAETrainingSpec.of(sae), advance)
    table = ItemTable(index=ItemIndex.of(ready.ptr), items=ready.items, path=path_of(options.items), spans=ready.spans)
    source = ready.source
    mask = None if options.mask is None else open_mask(options.mask, None, source.n_rows)
    tokens = ready.tokens
    computed = {**norms(lambda: source), **({} if tokens is None else {"token": lambda: tokens})}
    choice = chosen_rows(options, table, mask, computed)
    rows = source if choice.keep is None else MaskedSource(source, choice.keep, ready.ptr)
    return Inputs(rows, choice.table, {**ready.record, **choice.record}, computed=True, notes=ready.notes)
