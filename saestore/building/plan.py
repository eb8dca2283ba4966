"""What a build will do, resolved and checked in full before anything is written."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saestore.encode import Encoder, make_encoder, usable_device
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError
from saestore.format import CODECS, SAMPLE_TYPES, SetAttributes, digest, split_set_path
from saestore.items import Items, as_items, item_pointers, token_spans
from saestore.items.index import ItemIndex
from saestore.saes import LoadedSAE, load_sae
from saestore.sources import Dataset, EmbeddingSource, find_dataset, find_embeddings, find_items, open_embeddings

Array = np.ndarray[Any, Any]

DTYPES = ("float16", "float32")
_IMAGE_PATCHES = 256  # of the known image datasets: a grid of 16 x 16
_COUNTS_FILE = "GT_Samples/{}/token_counts_inputsize_('text', 'text2').pt"
_MIN_ROWS, _MAX_ROWS, _SEGMENT_NONZEROS = 1 << 8, 1 << 16, 1 << 21


@dataclass(frozen=True)
class Request:
    """What the caller asked for; None where nothing was said."""

    dataset: str
    sample_type: str | None
    embeddings: Any
    sae: Any
    items: Any
    item_ptr: Any
    token_spans: Any
    device: str
    dtype: str | None
    top_k: int | None
    segment_rows: int | None
    codec: str
    exact_encode: str = "auto"


@dataclass(frozen=True)
class Plan:
    """Everything a build needs, opened and checked."""

    request: Request
    path: str
    source: EmbeddingSource
    sae: LoadedSAE
    encoder: Encoder
    items: Items | None
    items_path: str | None
    index: ItemIndex
    spans: Array | None

    @property
    def dtype(self) -> str:
        """Dtype of the stored activations: as asked, else that of the SAE, at least float32."""
        return self.request.dtype or self._lossless_dtype

    @property
    def _lossless_dtype(self) -> str:
        return "float64" if str(self.sae.info.get("dtype")).endswith("float64") else "float32"

    def attributes(self, l0: float, explained_variance: float) -> SetAttributes:
        """Of the new set, from what the first batch showed."""
        r = self.request
        narrowed = r.top_k is not None or self.dtype != self._lossless_dtype
        finite = np.isfinite(explained_variance)
        return SetAttributes(
            n_features=self.encoder.d_sae,
            dtype=self.dtype,
            codec=r.codec,
            n_items=self.index.n_items,
            item_size=self.index.item_size,
            planned_samples=self.source.n_rows,
            segment_rows=r.segment_rows or default_segment_rows(l0),
            sae={"name": self.sae.name, **self.sae.info, "fingerprint": self.sae.fingerprint()},
            source=self.provenance,
            dropped={"top_k": r.top_k, "dtype": self.dtype} if narrowed else None,
            summary={
                "explained_variance": explained_variance if finite else None,
                "encoding": self.encoder.encoding["mode"],
            },
        )

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the samples come from, as the set's attributes record it."""
        return {
            "kind": "embeddings",
            "path": self.source.path,
            "layout": self.source.layout,
            "n_rows": self.source.n_rows,
            "d_in": self.source.d_in,
            "dtype": self.source.dtype,
            "fingerprint": self.source.fingerprint(),
            "items": self.items_path,
            "items_fingerprint": items_fingerprint(self.items, self.index),
            "token_spans_fingerprint": None if self.spans is None else hashlib.sha256(self.spans.tobytes()).hexdigest(),
        }

    def refuse_other(self, existing: SetAttributes) -> None:
        """Refuse a set that another build made, naming what differs."""
        r, there, here = self.request, existing.source, self.provenance
        dropped = existing.dropped or {}
        pairs = {
            "SAE weights": (existing.sae.get("fingerprint"), self.sae.fingerprint()),
            "embeddings": (there.get("fingerprint"), here["fingerprint"]),
            "items": (there.get("items_fingerprint"), here["items_fingerprint"]),
            "token_spans": (there.get("token_spans_fingerprint"), here["token_spans_fingerprint"]),
            "dtype": (existing.dtype, self.dtype),
            "top_k": (dropped.get("top_k"), r.top_k),
            "codec": (existing.codec, r.codec),
            "segment_rows": (existing.segment_rows, r.segment_rows or existing.segment_rows),
        }
        differ = [f"{name} ({_short(a)} there, {_short(b)} now)" for name, (a, b) in pairs.items() if a != b]
        if differ:
            raise StoreConflictError(
                f"{self.path} is in the store from another build; these differ: {', '.join(differ)}. Pass --overwrite "
                "(overwrite=True) to replace it, or name another store."
            )


def make_plan(request: Request) -> Plan:
    """Resolve names, open the embeddings, load the SAE and check that all fits together."""
    _check_options(request)
    dataset = _known(request)
    name = request.dataset if dataset is None else dataset.name
    sample_type = request.sample_type or (dataset.sample_types[0] if dataset else "patch")
    if dataset is not None and sample_type not in dataset.sample_types:
        raise InvalidInputError(f"{name} has {' and '.join(dataset.sample_types)} samples, not {sample_type!r}.")
    split_set_path(f"{name}/{sample_type}/sae")  # a bad name is told before the SAE is loaded, which takes seconds
    spec = request.embeddings
    source = open_embeddings(find_embeddings(dataset, sample_type) if spec is None and dataset else spec)
    items_from = request.items if request.items is not None else _default_items(dataset)
    items = None if items_from is None else as_items(items_from)
    index = _index(request, dataset, sample_type, items, source.n_rows)
    spans = None if request.token_spans is None else token_spans(request.token_spans, source.n_rows)
    if request.sae is None and dataset is None:
        raise InvalidInputError(f"no SAE given for {name}: pass --sae (sae=), a folder in sae_lens format for example.")
    sae = load_sae(request.sae if request.sae is not None else dataset.sae)  # type: ignore[union-attr]
    if sae.d_in != source.d_in:
        raise InvalidInputError(
            f"the embeddings {source.path} have width {source.d_in}, the SAE {sae.name} takes {sae.d_in}; check that "
            "they come from the model and layer that it was trained on. Nothing was written."
        )
    path = f"{name}/{sample_type}/{sae.name}"
    named = str(items_from) if isinstance(items_from, str | os.PathLike) else None
    return Plan(
        request, path, source, sae, make_encoder(sae, request.device, request.exact_encode), items, named, index, spans
    )


def _check_options(r: Request) -> None:
    if r.sample_type is not None and r.sample_type not in SAMPLE_TYPES:
        raise InvalidInputError(f"sample_type {r.sample_type!r}: use one of {', '.join(SAMPLE_TYPES)}.")
    if r.dtype is not None and r.dtype not in DTYPES:
        raise InvalidInputError(f"dtype {r.dtype!r}: use float32 (lossless) or float16.")
    if r.codec not in CODECS:
        raise InvalidInputError(f"codec {r.codec!r}: use one of {', '.join(CODECS)}.")
    if r.top_k is not None and r.top_k < 1:
        raise InvalidInputError(f"top_k {r.top_k}: keep at least 1 activation a sample.")
    if r.segment_rows is not None and not 1 <= r.segment_rows < 1 << 32:
        raise InvalidInputError(f"segment_rows {r.segment_rows}: use 1 to {(1 << 32) - 1}.")
    usable_device(r.device)


def _known(request: Request) -> Dataset | None:
    """The known dataset of that name; None for one of the user's own, whose embeddings are given."""
    try:
        return find_dataset(request.dataset)
    except NotFoundError:
        if request.embeddings is None:
            raise
        return None


def _default_items(dataset: Dataset | None) -> Path | None:
    """``Data/<dataset>/metadata.csv`` under the scratch folder or here, where there is one."""
    if dataset is None:
        return None
    for base in (os.environ.get("SAESTORE_SCRATCH"), "."):
        if base:
            try:
                return find_items(dataset, Path(base) / "Data")
            except NotFoundError:
                continue
    return None


def _index(request: Request, dataset: Dataset | None, sample_type: str, items: Items | None, n_rows: int) -> ItemIndex:
    """How the rows belong to items: as told, else what the sample type and the known layouts imply."""
    spec, n_items = request.item_ptr, None if items is None else len(items)
    if spec is None and sample_type == "cls":
        spec = 1
    elif spec is None and sample_type == "token":
        spec = _token_counts(dataset)
        if spec is None and items is not None:
            raise InvalidInputError(
                f"which of the {n_rows:,} tokens belong to which of the {n_items:,} texts is not known: pass "
                "--item-ptr (item_ptr=), a .npy, .npz:name or token_counts .pt file."
            )
    elif spec is None and items is None:
        spec = _IMAGE_PATCHES if dataset is not None and n_rows % _IMAGE_PATCHES == 0 else 1
    return ItemIndex.of(item_pointers(spec, n_items, n_rows))


def _token_counts(dataset: Dataset | None) -> Path | None:
    scratch = os.environ.get("SAESTORE_SCRATCH")
    if dataset is None or not scratch:
        return None
    path = Path(scratch) / _COUNTS_FILE.format(dataset.name)
    return path if path.exists() else None


def items_fingerprint(items: Items | None, index: ItemIndex) -> str:
    """Digest of the items and of which rows belong to which."""
    table = None
    if items is not None:
        table = {
            "key": items.key.tolist(),
            "columns": {k: [str(x) for x in v.tolist()] for k, v in items.columns.items()},
            "concepts": {k: np.packbits(v).tobytes().hex() for k, v in items.concepts.items()},
        }
    return digest([table, index.n_items, index.item_size, None if index.ptr is None else index.ptr.tolist()])


def default_segment_rows(l0: float) -> int:
    """Rows of a segment of about two million non-zeros: a power of two up to 65,536."""
    rows = _SEGMENT_NONZEROS / max(1.0, l0)
    return int(min(_MAX_ROWS, max(_MIN_ROWS, 1 << int(np.log2(rows)))))


def _short(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)
