"""The pipeline's ``.pt`` files of activations: sparse, dense, and both reduced to chosen columns ("filtered")."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, StoreWriteError, require
from saestore.files import load_tensors
from saestore.formats.base import Format, Opened, Source, Written
from saestore.formats.dense_tensors import open_dense
from saestore.formats.issues import Issue
from saestore.formats.selection import Block, Selected
from saestore.formats.topk_tensors import open_topk
from saestore.sparse_rows import Array
from saestore.storage.places import expanded
from saestore.superactivators import chunk_lists
from saestore.superactivators.chunk_lists import ChunkWriter, base_name, find_chunks, list_of
from saestore.superactivators.file_names import GRID, PipelineName
from saestore.superactivators.unit_mapping import mapping_name, read_mapping, recover_feature_ids
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import Items

_KEYS = ("indices", "values")
_GEMMA_IS_CUT = "`saestore build` from the embeddings has them all"


def recognise(path: Path) -> str | None:
    """The format of a file, by its name, its list of chunks and the tensors in it; None where it is another's."""
    if path.is_dir() or (path.suffix not in (".pt", ".safetensors", "") and list_of(path) is None):
        return None
    chunks = find_chunks(path)
    name = PipelineName.of(chunks.base)
    tensors = load_tensors(chunks.files[0], sparse=True)
    if set(_KEYS) <= set(tensors):
        filtered = tensors.get("format") == "sparse_filtered" or (name is not None and name.kind == "filtered")
        return "superactivators-filtered" if filtered else "superactivators-sparse"
    matrices = [tensor for tensor in tensors.values() if getattr(tensor, "ndim", 0) == 2]
    if not matrices or (name is None and not chunks.entries):
        return None
    # A dense file that is as wide as the SAE was made without filtering: each column is its feature.
    filtered = name is not None and name.kind == "dense" and matrices[0].shape[1] != name.sae["d_sae"]
    return "superactivators-dense-filtered" if filtered else "superactivators-dense"


def open_sparse(source: Source) -> Opened:
    """Open rows of (indices, values), in one file or in chunks."""
    chunks = find_chunks(source.path)
    opened, n_rows = open_topk("superactivators-sparse", source.path, chunks.files, _KEYS, source.others)
    width = (chunks.facts or {}).get("n_features")
    opened = replace(opened, n_features=width if type(width) is int else opened.n_features)
    return _named(replace(opened, issues=chunks.check([(n,) for n in n_rows])), source)


def open_dense_tensors(source: Source) -> Opened:
    """Open dense tensors, one or in chunks."""
    require("torch", "sae", f"reading {source.path}")
    chunks = find_chunks(source.path)
    rows, issues = chunk_lists.open_dense_chunks(source.path, chunks)
    return _named(replace(open_dense("superactivators-dense", rows, chunks.files), issues=issues), source)


def open_filtered(name: str, source: Source) -> Opened:
    """Open a filtered file under the true features of its columns, found with the sparse file it was made from."""
    path, chunks = source.path, find_chunks(source.path)
    pipeline, dense = PipelineName.of(chunks.base), name == "superactivators-dense-filtered"
    sparse = None if pipeline is None else pipeline.beside(path)
    if source.sparse is not None:
        sparse = expanded(source.sparse)
    if sparse is None:
        raise InvalidInputError(
            f"{path} is {name}: the unit mapping of such files is often wrong, and only the sparse file that it was "
            "made from shows which feature each column is; pass --sparse (sparse=).",
            code="needs-sparse-file",
        )
    mapping: Path | None = path.with_name(mapping_name(chunks.base))
    if mapping is not None and not mapping.is_file():
        mapping = None if pipeline is None else pipeline.mapping(path)
    claimed = None if mapping is None else read_mapping(mapping)
    if source.progress is not None:
        source.progress(f"finding out which feature each column of {path.name} is")
    raw = open_dense_tensors(source) if dense else open_sparse(source)
    if not dense and claimed is not None:
        raw = replace(raw, n_features=len(claimed.units))
    if raw.n_features is None:
        raise InvalidInputError(
            f"{path} does not say how many columns it has, and its unit mapping is missing.", code="unknown-width"
        )
    whole = open_sparse(replace(source, path=sparse))
    whole = replace(whole, n_features=source.n_features or whole.n_features)
    return replace(recover_feature_ids(raw, whole, claimed, positive=dense), format=name)


def _named(opened: Opened, source: Source) -> Opened:
    """Add the facts of the file's name and the pipeline to the facts of the file itself."""
    name = PipelineName.of(find_chunks(source.path).base)
    grid = source.sample_type == "patch" and opened.n_rows % GRID == 0
    opened = replace(opened, default_item_size=GRID if grid else 1, check_items=_check_calibration)
    known: dict[str, Any] = {}
    if name is not None:
        name.check(source.sample_type, str(source.path))
        known = name.sae
        width = known.pop("d_sae")
        opened = replace(opened, n_features=opened.n_features or (None if name.kind == "filtered" else width))
    elif str(source.sae).startswith("gemma-scope"):
        known = {"architecture": "jumprelu"}
    when_full = _GEMMA_IS_CUT if known.get("architecture") == "jumprelu" else ""
    return replace(opened, sae={**known, **opened.sae}, when_full=when_full)


def _check_calibration(items: Items | None, index: ItemIndex) -> Sequence[Issue]:
    """The pipeline took its calibration statistics over the rows from the first to the last cal row."""
    if items is None or "split" not in items.columns:
        return ()
    cal = np.flatnonzero(items.columns["split"] == "cal")
    if not len(cal) or int(cal[-1]) - int(cal[0]) + 1 == len(cal):
        return ()
    n_items = int(cal[-1]) - int(cal[0]) + 1
    foreign, figures = n_items - len(cal), "rows of train or test items too"
    # The pipeline counts 256 rows per item whatever an item has: only then its rows are known here.
    if index.item_size == GRID:
        figures = f"{n_items * GRID:,} rows, of which {foreign * GRID:,} are train or test rows"
    message = (
        f"the splits interleave: statistics that the pipeline took between its first and last cal row are over "
        f"{figures}; do not use its thresholds"
    )
    return (Issue("calibration_range", "info", message, foreign),)


def write_sparse(selected: Selected, path: Path) -> Written:
    """Write `indices` int64 and `values` float32, (n, k), k the longest row; shorter ones end in zeros.

    It is one file, ``BASE.pt``, or chunks of 256 MiB and, last, their list.
    """
    torch = require("torch", "sae", f"writing {path.name}")
    k = max(int(np.diff(block.indptr).max(initial=1)) for block in selected.blocks())
    facts = {"n_features": selected.acts.shape[1], "topk": k, "format": "sparse_topk"}
    writer = ChunkWriter(path, selected.n_samples, 12 * k, facts)
    indices, values = np.zeros((writer.chunk_rows, k), np.int64), np.zeros((writer.chunk_rows, k), np.float32)
    for block in selected.blocks():
        row, place, activations = block.rows(), _places(block), _float32(block)
        for part, into, full in writer.split(len(block)):
            inside = (row >= part.start) & (row < part.stop)
            at = row[inside] - part.start + into, place[inside]
            indices[at], values[at] = block.indices[inside], activations[inside]
            if full is not None:
                tensors = [torch.from_numpy(array[:full].copy()) for array in (indices, values)]
                content = {**dict(zip(_KEYS, tensors, strict=True)), "format": "sparse_topk", "topk": k}
                _save(content, writer.next_file(full))
                indices[:], values[:] = 0, 0
    return Written(writer.close())


def write_dense(selected: Selected, path: Path) -> Written:
    """Write float32 (n, n_kept) and ``BASE_unit_mapping.json``: which feature each column is.

    Columns are the features that were asked for, else those that are active on some of the samples.
    """
    torch = require("torch", "sae", f"writing {path.name}")
    units = _units(selected)
    size, free = 4 * selected.n_samples * len(units), shutil.disk_usage(path.parent).free
    if size > free:
        raise StoreWriteError(
            f"{selected.n_samples:,} samples x {len(units):,} features are {size / 1e9:,.1f} GB dense, and "
            f"{free / 1e9:,.1f} GB are free; name fewer features with --features (features=).",
            code="too-little-space",
        )
    writer = ChunkWriter(path, selected.n_samples, 4 * len(units), {"feature_dim": len(units)})
    dense = np.zeros((writer.chunk_rows, len(units)), np.float32)
    for block in selected.blocks():
        row, columns, activations = block.rows(), np.searchsorted(units, block.indices), _float32(block)
        for part, into, full in writer.split(len(block)):
            inside = (row >= part.start) & (row < part.stop)
            dense[row[inside] - part.start + into, columns[inside]] = activations[inside]
            if full is not None:
                _save(torch.from_numpy(dense[:full].copy()), writer.next_file(full))
                dense[:] = 0
    mapping = {
        "kept_units": units.tolist(),
        "unit_id_to_new_idx": {str(unit): column for column, unit in enumerate(units.tolist())},
        "n_original": selected.acts.shape[1],
        "n_filtered": len(units),
    }
    name = mapping_name(base_name(path))
    path.with_name(name).write_text(json.dumps(mapping))
    return Written((name, *writer.close()))


def _save(content: Any, path: Path) -> None:
    """`torch.save` through a file of Python: torch's own does not say why it cannot be written."""
    import torch

    with path.open("wb") as file:
        torch.save(content, file)


def _existing(target: Path) -> list[Path]:
    """The files under the names that an export to `target` writes."""
    base = base_name(target)
    names = (f"{base}.pt", f"{base}{chunk_lists.INFO_SUFFIX}", mapping_name(base))
    return [*(target.with_name(name) for name in names), *sorted(target.parent.glob(f"{base}_chunk_*.pt"))]


def _places(block: Block) -> Array:
    """The place of every entry in its row, the strongest first."""
    row = block.rows()
    order = np.lexsort((block.indices, -block.data, row))
    place = np.empty(len(row), np.int64)
    place[order] = np.arange(len(row)) - block.indptr[row]
    return place


def _float32(block: Block) -> Array:
    with np.errstate(over="ignore"):
        values = block.data.astype(np.float32)
    inexact = np.flatnonzero(values != block.data)
    if len(inexact):
        raise InvalidInputError(
            f"the activation {block.data[inexact[0]]!r} of sample {block.samples[block.rows()[inexact[0]]]} is not "
            "a float32, the only dtype of these files.",
            code="inexact-value",
        )
    return values


def _units(selected: Selected) -> Array:
    if selected.features is not None:
        return selected.features
    active = np.zeros(selected.acts.shape[1], bool)
    for block in selected.blocks():
        active[block.indices] = True
    if not active.any():
        raise InvalidInputError(
            "no feature is active on these samples; name those to write with --features (features=).",
            code="nothing-selected",
        )
    return np.flatnonzero(active)


# `recognise` names these formats; it is asked through `saestore.layouts`, after the formats that anybody may use.
FORMATS = (
    Format("superactivators-sparse", open=open_sparse, write=write_sparse, existing=_existing),
    Format("superactivators-dense", open=open_dense_tensors, write=write_dense, existing=_existing),
    *(
        Format(name, open=partial(open_filtered, name), options=("sparse",))
        for name in ("superactivators-filtered", "superactivators-dense-filtered")
    ),
)
