"""What a build will do, resolved and checked in full before anything is written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.format import split_set_path
from saestore.ingest.embedding_input import Inputs, embeddings_on_disk, from_model
from saestore.ingest.encoded_rows import EncodedRows
from saestore.ingest.known import find_truth, one_sample_type
from saestore.ingest.options import BuildOptions
from saestore.models import SAETrainingSpec
from saestore.progress import Progress
from saestore.provenance import sae_record
from saestore.sae import load_sae
from saestore.sae.encode import Encoder
from saestore.writing.plan import WritePlan, add_dropped

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset
    from saestore.superactivators.ground_truth import GroundTruth

# Trained SAEs explain 0.6 to 0.95; embeddings of another layer, hook or normalisation give 0.3, 0, or far below.
_LOW_VARIANCE = 0.4
_MANY_IDENTICAL = 0.2  # a share of rows; first tokens of texts are often alike, a fifth of all rows is not
_FEW_IDENTICAL = 32  # rows
_SETTINGS = {
    "dtype": "dtype of the embeddings",
    "model_fingerprint": "model weights",
    "layer": "layer",
    "hook_name": "hook",
    "transform": "image transform",
    "special_tokens": "special tokens",
    "max_tokens": "max_tokens",
    "stride": "stride of windows",
    "chat": "chat template",
}


@dataclass(frozen=True, kw_only=True)
class BuildPlan(WritePlan):
    """Everything a build needs, opened and checked."""

    rows: EncodedRows
    inputs: Inputs  # what is encoded
    name: str  # of the SAE
    truth: GroundTruth | None  # concepts that the set gets when it is complete

    verb: ClassVar[str] = "encoded"

    def check(self, first: int, progress: Progress) -> None:
        """Refuse NaN and infinity in embeddings that no model computes; warns if many rows are identical."""
        if not self.inputs.computed:
            with progress.bar(self.path, "checked", self.rows.n_rows, first) as bar:
                self.rows.check(first, lambda count, _: bar.advance(count))
            same, n = self.rows.n_identical, self.rows.n_compared
            of = f"{n:,}" if n == self.rows.n_rows - first else f"the first {n:,}"
            if same >= max(_FEW_IDENTICAL, _MANY_IDENTICAL * n):
                warnings.warn(
                    f"{same:,} of {of} embeddings are identical to another one: padding that was not left out would "
                    "look like this. Each is stored as a sample.",
                    stacklevel=6,
                )

    def measure(self, first: int) -> tuple[float, dict[str, Any]]:
        """Active features per row and explained variance of the first batch; warns if that is low."""
        count, l0, explained = self.rows.measure(first)
        if explained < _LOW_VARIANCE:
            warnings.warn(
                f"{self.name} explains {explained:.2f} of the variance of the first {count}{' new' if first else ''} "
                "embeddings; trained SAEs explain 0.6 or more. A wrong layer or hook, or embeddings normalised "
                "otherwise than the SAE expects, would look like this.",
                stacklevel=7,
            )
        variance = explained if np.isfinite(explained) else None
        summary = {"explained_variance": variance, "encoding": self.rows.encoder.encoding["mode"]}
        return l0, summary | ({"identical_rows": self.rows.n_identical} if self.rows.n_identical else {})

    def count_dropped(self, record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The record of what was dropped so far, with what the last read dropped added."""
        if record is None:
            return None
        dropped = self.rows.dropped
        more = {"n_dropped": dropped.n_dropped, "sum_dropped": dropped.sum_dropped, "sum_total": dropped.sum_total}
        return add_dropped(record, {**more, "max_relative_error": dropped.max_rel_error})


def open_build(
    options: BuildOptions, looking: Callable[[str], Callable[[int], None]], known: Callable[[str], Sequence[str]]
) -> BuildPlan:
    """Resolve names, open embeddings or load a model, load the SAE and check that all fits together.

    Of the set's path `looking` makes a function that receives the number of items that were looked at, and `known`
    gives the keys of the items that the store has there.
    """
    options.check()
    dataset = _known(options)
    name = options.dataset if dataset is None else dataset.name
    first = "token" if options.texts is not None else "patch"
    sample_type = options.sample_type or first
    if dataset is not None:
        sample_type = one_sample_type(dataset, options.sample_type, first if options.runs_model else None)
    split_set_path(f"{name}/{sample_type}/sae")  # a bad name is refused before the SAE is loaded, which takes seconds
    inputs = None if options.runs_model else embeddings_on_disk(options, dataset, sample_type)
    if options.sae is None and dataset is None:
        raise InvalidInputError(
            f"no SAE given for {name}: pass --sae (sae=), a folder in sae_lens format for example.", code="missing-sae"
        )
    sae = load_sae(options.sae if options.sae is not None or dataset is None else dataset.sae)
    path = f"{name}/{sample_type}/{sae.name}"
    if inputs is None:
        inputs = from_model(options, sample_type, sae, looking(path), known(path))
    again = not inputs.computed and inputs.source.layout != "batches"  # which may be there only once
    if sae.d_in != inputs.source.d_in and again:  # such as heads of attention, each beside the others
        inputs = embeddings_on_disk(options, dataset, sample_type, sae.d_in)
    if sae.d_in != inputs.source.d_in:
        raise InvalidInputError(
            f"the embeddings {inputs.source.path} have width {inputs.source.d_in}, the SAE {sae.name} "
            f"({sae.info.get('family') or sae.info['architecture']}) takes "
            f"{sae.d_in}; check that they come from the model and layer that it was trained on. Nothing was written.",
            code="wrong-width",
        )
    stated = getattr(inputs.source, "stated", {})
    SAETrainingSpec.of(sae).check_stated(inputs.source.path, stated, other=options.other_model)
    by_name = None if options.embeddings is not None or options.runs_model else dataset
    # The dtype that holds the SAE's activations exactly, at least float32.
    lossless = "float64" if str(sae.info.get("dtype")).endswith("float64") else "float32"
    dtype = options.dtype or lossless
    encoder = Encoder(sae, options.device, options.matmul_precision)
    return BuildPlan(
        path=path,
        rows=EncodedRows(inputs.source, encoder, dtype, options.top_k, inputs.record),
        table=inputs.table,
        dtype=dtype,
        codec=options.codec,
        segment_rows=options.segment_rows,
        sae=sae_record(sae),
        dropped={"top_k": options.top_k, "dtype": dtype} if options.top_k is not None or dtype != lossless else None,
        settings=_SETTINGS,
        inputs=inputs,
        name=sae.name,
        truth=find_truth(options.ground_truth, by_name, options.data, sample_type, inputs.table),
    )


def _known(options: BuildOptions) -> Dataset | None:
    """The known dataset of that name; None for a dataset of the user's own, whose samples are given."""
    in_memory = options.embeddings is not None and not isinstance(options.embeddings, str | os.PathLike)
    if in_memory and options.sae is not None:
        return None  # a known name leads to files and to an SAE, and nothing else
    from saestore.superactivators.datasets import find_dataset

    try:
        return find_dataset(options.dataset)
    except NotFoundError:
        if options.embeddings is None and not options.runs_model:
            raise
        return None
