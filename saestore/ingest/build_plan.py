"""What a build will do, resolved and checked in full before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.embeddings.base import EmbeddingSource
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError
from saestore.format import SetAttributes, default_segment_rows, split_set_path
from saestore.ingest.build_options import Request
from saestore.ingest.embedding_input import Inputs, embeddings_on_disk, from_model
from saestore.ingest.ground_truth import planned_truth
from saestore.sae import LoadedSAE, load_sae
from saestore.sae.encode import Encoder, make_encoder
from saestore.tables import Items
from saestore.tables.item_index import ItemIndex

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset
    from saestore.superactivators.ground_truth import GroundTruth

Array = np.ndarray[Any, Any]

# What the store's attribute `source` says of how rows came to be, and how to call it.
_ABOUT_ROWS = {
    "dtype": "dtype of the embeddings",
    "model_fingerprint": "model weights",
    "layer": "layer",
    "transform": "image transform",
    "special_tokens": "special tokens",
    "max_tokens": "max_tokens",
}


@dataclass(frozen=True)
class Plan:
    """Everything a build needs, opened and checked."""

    request: Request
    path: str
    inputs: Inputs
    sae: LoadedSAE
    encoder: Encoder
    truth: GroundTruth | None = None

    @property
    def source(self) -> EmbeddingSource:
        """The rows to encode."""
        return self.inputs.source

    @property
    def items(self) -> Items | None:
        """The table of items, if there is one."""
        return self.inputs.items

    @property
    def index(self) -> ItemIndex:
        """Which rows belong to which item."""
        return self.inputs.index

    @property
    def spans(self) -> Array | None:
        """Characters of each token in its text, if known."""
        return self.inputs.spans

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
            source=self.inputs.provenance,
            dropped={"top_k": r.top_k, "dtype": self.dtype} if narrowed else None,
            summary={
                "explained_variance": explained_variance if finite else None,
                "encoding": self.encoder.encoding["mode"],
            },
        )

    def refuse_other(self, existing: SetAttributes) -> None:
        """Refuse a set that another build made, naming what differs."""
        there, here = existing.source, self.inputs.provenance
        rows = {
            here["kind"]: (there.get("fingerprint"), here["fingerprint"]),
            "items": (there.get("items_fingerprint"), here["items_fingerprint"]),
            "token_spans": (there.get("token_spans_fingerprint"), here["token_spans_fingerprint"]),
        }
        advice = "Pass --overwrite (overwrite=True) to replace it, or name another store"
        if not existing.complete:
            advice += "; what is unfinished goes on when it is given what it was begun with"
        elif self.source.n_rows > existing.n_samples:
            advice += "; or pass --append (append=True) if there are only further ones"
        self._refuse({**rows, **self._settings(existing)}, advice)

    def refuse_other_settings(self, existing: SetAttributes) -> None:
        """Refuse a set that was built from whatever rows with another SAE, another model or other options."""
        self._refuse(
            self._settings(existing),
            "What is appended must be made in the same way; pass --overwrite (overwrite=True) to build all anew, or "
            "name another store",
        )

    def _settings(self, existing: SetAttributes) -> dict[str, tuple[Any, Any]]:
        r, there, here = self.request, existing.source, self.inputs.provenance
        return {
            "SAE weights": (existing.sae.get("fingerprint"), self.sae.fingerprint()),
            **{name: (there.get(key), here.get(key)) for key, name in _ABOUT_ROWS.items()},
            "dtype": (existing.dtype, self.dtype),
            "top_k": ((existing.dropped or {}).get("top_k"), r.top_k),
            "codec": (existing.codec, r.codec),
            "segment_rows": (existing.segment_rows, r.segment_rows or existing.segment_rows),
        }

    def _refuse(self, pairs: dict[str, tuple[Any, Any]], advice: str) -> None:
        differ = [f"{name} ({_short(a)} there, {_short(b)} now)" for name, (a, b) in pairs.items() if a != b]
        if differ:
            raise StoreConflictError(
                f"{self.path} is in the store from another build; these differ: {', '.join(differ)}. {advice}."
            )


def make_plan(
    request: Request,
    looking: Callable[[str], Callable[[int], None]],
    known: Callable[[str], Sequence[str]],
) -> Plan:
    """Resolve names, open embeddings or load a model, load the SAE and check that all fits together.

    Parameters
    ----------
    looking
        Of the set's path makes what is called with the number of images or texts that were looked at.
    known
        Of the set's path gives the keys of the items that the store has under it.
    """
    request.check()
    dataset = _known(request)
    name = request.dataset if dataset is None else dataset.name
    sample_type = _sample_type(request, dataset)
    split_set_path(f"{name}/{sample_type}/sae")  # a bad name is told before the SAE is loaded, which takes seconds
    inputs = None if request.runs_model else embeddings_on_disk(request, dataset, sample_type)
    if request.sae is None and dataset is None:
        raise InvalidInputError(f"no SAE given for {name}: pass --sae (sae=), a folder in sae_lens format for example.")
    sae = load_sae(request.sae if request.sae is not None else dataset.sae)  # type: ignore[union-attr]
    path = f"{name}/{sample_type}/{sae.name}"
    if inputs is None:
        inputs = from_model(request, sample_type, sae, looking(path), known(path))
    if sae.d_in != inputs.source.d_in:
        raise InvalidInputError(
            f"the embeddings {inputs.source.path} have width {inputs.source.d_in}, the SAE {sae.name} takes "
            f"{sae.d_in}; check that they come from the model and layer that it was trained on. Nothing was written."
        )
    truth = planned_truth(request, dataset, sample_type, inputs.items, inputs.index)
    return Plan(request, path, inputs, sae, make_encoder(sae, request.device, request.matmul_precision), truth)


def _known(request: Request) -> Dataset | None:
    """The known dataset of that name; None for a dataset of the user's own, whose samples are given."""
    in_memory = request.embeddings is not None and not isinstance(request.embeddings, str | os.PathLike)
    if in_memory and request.sae is not None:
        return None  # a name tells something of files and of the SAE only
    from saestore.superactivators.datasets import find_dataset

    try:
        return find_dataset(request.dataset)
    except NotFoundError:
        if request.embeddings is None and not request.runs_model:
            raise
        return None


def _sample_type(request: Request, dataset: Dataset | None) -> str:
    """As asked, else patches of images and tokens of texts."""
    first = "token" if request.texts is not None else "patch"
    if dataset is None:
        return request.sample_type or first
    sample_type = request.sample_type or (first if request.runs_model else dataset.sample_types[0])
    if sample_type not in dataset.sample_types:
        raise InvalidInputError(
            f"{dataset.name} has {' and '.join(dataset.sample_types)} samples, not {sample_type!r}."
        )
    return sample_type


def _short(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)
