"""From a set to its diagnosis: facts about all activations, a sample of embeddings, and what does not fit."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.diagnostics.report import Diagnosis, Finding
from saestore.errors import InvalidInputError, MissingDependencyError, SaestoreError, check_at_least
from saestore.query import distribution
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.segment.read import Segment
from saestore.sparse_rows import Array
from saestore.stats import Moments
from saestore.tables.item_index import ItemIndex

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


ALWAYS_ON = 0.5  # share of the samples
NUMERICAL = 0.01  # share of the non-zeros that other hardware may add, drop or change
_LISTED = 100
# Encoders whose activations are never negative, as sae_lens names them.
_RELU = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")


@retry_on_stale_snapshot
def diagnose(
    acts: SetReader, embeddings: Any = None, sae: Any = None, *, n_rows: int = 2048, seed: int = 0
) -> Diagnosis:
    """Compare the set with its SAE and its embeddings, and find identical, missing and impossible activations.

    Parameters
    ----------
    embeddings
        What was encoded, in any form that `build` takes; by default where the set records it.
    sae
        The SAE; by default where the set records it.
    n_rows
        Samples that are decoded and compared with their embeddings.
    seed
        Of the choice of these samples: 64 runs of consecutive ones, spread over the set.

    Returns
    -------
    Diagnosis
        With ``findings``, empty where all facts fit. Without embeddings, the SAE or torch, ``left_out`` names what
        is not measured.

    Raises
    ------
    SaestoreError
        `embeddings` or `sae` were given, and cannot be read or belong to another set.

    Notes
    -----
    Every activation is read once. Memory: about 20 MB, 16 bytes per sample and 60 bytes per feature; with
    embeddings also the SAE, 128 MiB of pre-activations and ``n_rows`` embeddings eight times.
    """
    n_rows = check_at_least("n_rows", n_rows, 2, "bad-option")
    if not acts.nnz:
        raise InvalidInputError(f"{acts.path} has no activations yet: nothing to diagnose.", code="empty-set")
    n_samples, n_features = acts.shape
    moments = distribution.all_moments(acts.segments, np.arange(n_features), n_features, acts.dtype)
    scan = RowScan(acts.segments, n_samples, n_features)
    left_out: list[str] = []
    reconstruction: dict[str, Any] = {"recorded": acts.attributes.summary.get("explained_variance")}
    loaded, source = _open(acts, embeddings, sae, left_out)
    if source is not None:
        from saestore.diagnostics import variance

        reconstruction |= variance.compare(acts, loaded, source, variance.sample_rows(n_samples, n_rows, seed))
    expected = _expected(acts, loaded)
    thresholds = expected.pop("thresholds", None)
    findings = [
        *_about_reconstruction(reconstruction, acts.attributes.dropped is not None),
        *_about_rows(scan, acts),
        *_about_values(expected, scan, moments, _below(moments, thresholds, acts.dtype)),
    ]
    return Diagnosis(
        set=acts.path,
        reconstruction=reconstruction,
        l0=_l0(scan.l0),
        activations={
            "min": float(np.nanmin(moments.min)),
            "max": float(np.nanmax(moments.max)),
            "n_negative": int((moments.min < 0).sum()),
        },
        features=_features(moments, n_samples),
        samples=_samples(scan, acts),
        expected=expected,
        left_out=tuple(left_out),
        findings=tuple(sorted(findings, key=lambda f: ("error", "warning", "note").index(f.severity))),
    )


def _open(acts: SetReader, embeddings: Any, sae: Any, left_out: list[str]) -> tuple[Any, Any]:
    """The SAE and the embeddings; None and a reason for what is not available, an error for what was asked for."""
    what = "explained variance of the stored activations: "
    if importlib.util.find_spec("torch") is None:
        if embeddings is not None or sae is not None:
            raise MissingDependencyError(
                "Decoding activations needs torch; pip install 'saestore[sae]', or leave out the embeddings and the SAE"
            )
        left_out.append(what + "torch is not installed (pip install 'saestore[sae]')")
        return None, None
    from saestore.embeddings.of_set import embeddings_of
    from saestore.interop.decoding import sae_of

    try:
        loaded = sae_of(acts, sae)
    except SaestoreError as error:
        if embeddings is not None or sae is not None:
            raise
        left_out.append(f"{what}the SAE is not available ({error})")
        return None, None
    try:
        source = embeddings_of(acts, embeddings)
        if source.d_in != loaded.d_in:
            raise InvalidInputError(
                f"{source.path} has embeddings of width {source.d_in:,}; the SAE {loaded.name} takes {loaded.d_in:,}.",
                code="wrong-width",
            )
    except SaestoreError as error:
        if embeddings is not None:
            raise
        left_out.append(f"{what}{error}")
        return loaded, None
    return loaded, source


def _expected(acts: SetReader, loaded: Any) -> dict[str, Any]:
    """What the metadata of the set and of the SAE give."""
    recorded = {name: value for name, value in acts.attributes.sae.items() if value is not None}
    sae = {**({} if loaded is None else loaded.info), **recorded}
    architecture, k = sae.get("architecture"), sae.get("k")
    k = k if isinstance(k, int) else None  # a set may record what the caller has given
    negative = False if architecture in _RELU else True if architecture == "clip_scope" else None
    expected = {"architecture": architecture, "d_in": sae.get("d_in"), "k": k, "l0": None, "negative": negative}
    if loaded is not None:
        from saestore.diagnostics.variance import expected_of

        own = expected_of(loaded)
        expected["l0"] = own["l0"] if k is None else None
        expected["negative"] = negative if own["negative"] is None else own["negative"]
        expected["thresholds"] = own["thresholds"]
    return expected


def _l0(counts: Array) -> dict[str, Any]:
    used = np.flatnonzero(counts)
    quartiles = {name: quantile_of_counts(counts, q) for name, q in (("p25", 0.25), ("median", 0.5), ("p75", 0.75))}
    mean = float((counts * np.arange(len(counts))).sum() / counts.sum())
    return {"min": int(used[0]), **quartiles, "max": int(used[-1]), "mean": mean}


def _features(moments: Moments, n_samples: int) -> dict[str, Any]:
    often = np.flatnonzero(moments.n_active > ALWAYS_ON * n_samples)
    often = often[np.argsort(-moments.n_active[often], kind="stable")]
    return {
        "n": len(moments.n_active),
        "n_dead": int((moments.n_active == 0).sum()),
        "n_always_on": len(often),
        "always_on": often[:_LISTED].tolist(),
    }


def _samples(scan: RowScan, acts: SetReader) -> dict[str, Any]:
    return {
        "n": acts.shape[0],
        "n_empty": int(scan.l0[0]),
        "n_identical": scan.n_identical(acts.item_index),
        "first_identical": scan.identical_at(acts.item_index, 0),
        "second_identical": scan.identical_at(acts.item_index, 1),
    }


def _below(moments: Moments, thresholds: Array | None, dtype: np.dtype[Any]) -> Array:
    """Features with an activation below the smallest that the encoder gives."""
    if thresholds is None:
        return np.zeros(0, np.int64)
    slack = 1 - 2 * float(np.finfo(dtype).eps)  # rounding to the stored dtype may go below
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(moments.min < np.broadcast_to(thresholds, moments.min.shape) * slack)


def _about_reconstruction(r: dict[str, Any], dropped: bool) -> Iterator[Finding]:
    share, rest = r.get("explained_variance", r["recorded"]), r.get("without_first")
    if "agreement" in r and r["agreement"] < 1 - NUMERICAL:
        yield Finding(
            "not-reproduced", "error",
            f"Encoding the embeddings again gives {r['agreement']:.0%} of the stored activations.",
            {"agreement": r["agreement"]},
            "The stored activations come from another SAE, other embeddings, or rows in another order: find out which, "
            "and build or import the set again.",
        )  # fmt: skip
    elif not dropped and r.get("missing", 0) > NUMERICAL:
        yield Finding(
            "missing-activations", "warning",
            f"The set lacks {r['missing']:.0%} of the activations that encoding the embeddings again gives.",
            {"missing": r["missing"]},
            "Build or import the set without a filter.",
        )  # fmt: skip
    if share is None:
        return
    if math.isnan(share):
        yield Finding(
            "identical-embeddings", "warning", "All embeddings that were compared are identical.", {},
            "Check the embeddings.",
        )  # fmt: skip
    elif share <= 0 and (rest is None or rest <= 0):
        yield Finding(
            "explains-nothing", "warning",
            f"The decoded activations explain {share:.2f} of the variance of the embeddings: their mean would be as "
            "good.",
            {"explained_variance": share, "without_first": rest},
            "Check that the embeddings are of the model, layer and hook that the SAE was trained on, with columns "
            "in order.",
        )  # fmt: skip
    factor = r.get("scale", 1.0)
    if r.get("shift") or factor != 1:
        how = f"multiplied by {factor:.3g}" + (" and shifted by the decoder's bias" if r["shift"] else "")
        yield Finding(
            "scale", "warning",
            f"With the embeddings {how}, the SAE explains {r['scaled_explained_variance']:.2f} of their variance, more "
            "than as they are: they are not normalised as the SAE expects.",
            {"factor": factor, "shift": r["shift"], "rescaled": r["scaled_explained_variance"]},
            "Encode the hidden states as the model gives them, or normalised as in the SAE's training.",
        )  # fmt: skip


def _about_rows(scan: RowScan, acts: SetReader) -> Iterator[Finding]:
    s = _samples(scan, acts)
    first, second = s["first_identical"], s["second_identical"]
    if first is not None and first > 0.5 >= second:
        yield Finding(
            "identical-first-rows", "warning",
            f"The first sample is identical in {first:.0%} of the items: it looks like a BOS or CLS row.",
            {"first": first, "second": second},
            "SAEs are trained without such rows: leave the first row of every item out of the embeddings and of the "
            "counts of rows (--item-ptr), and build again; until then use --where 'position > 0'.",
        )  # fmt: skip
    if s["n_identical"]:
        yield Finding(
            "identical-rows", "warning",
            f"{s['n_identical']:,} of {s['n']:,} samples are identical to another sample of their item.",
            {"n_samples": s["n_identical"]},
            "Padding looks like this: leave padded rows out of the embeddings and of the counts of rows.",
        )  # fmt: skip
    if s["n_empty"]:
        yield Finding(
            "empty-rows", "note", f"{s['n_empty']:,} of {s['n']:,} samples have no active feature: all-zero rows.",
            {"n_samples": s["n_empty"]}, "Zero rows of padding can look like this.",
        )  # fmt: skip


def _about_values(expected: dict[str, Any], scan: RowScan, moments: Moments, below: Array) -> Iterator[Finding]:
    k, n_negative = expected["k"], int((moments.min < 0).sum())
    above = 0 if k is None else int(scan.l0[k + 1 :].sum())
    advice = "The set names another SAE than it was made with, or holds other numbers than its activations."
    if above:
        most = int(np.flatnonzero(scan.l0)[-1])
        yield Finding(
            "above-k", "error", f"{above:,} samples have more than k = {k} active features, up to {most:,}.",
            {"n_samples": above, "max": most, "k": k}, advice,
        )  # fmt: skip
    if expected["negative"] is False and n_negative:
        lowest = float(np.nanmin(moments.min))
        yield Finding(
            "negative", "error",
            f"{n_negative:,} features have negative activations, down to {lowest:.4g}; the SAE gives none.",
            {"n_features": n_negative, "min": lowest}, advice,
        )  # fmt: skip
    if len(below):
        yield Finding(
            "below-threshold", "error",
            f"{len(below):,} features have activations below the smallest that the SAE's threshold allows.",
            {"n_features": len(below), "features": below[:_LISTED].tolist()}, advice,
        )  # fmt: skip


_ENTRIES, _ROWS = 1 << 18, 1 << 16  # of a block; a single row may have more entries
_ROUNDING = 13  # bits of a float32 mantissa that are rounded away before rows are compared: 0.1 % remains
_FACTORS = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xBF58476D1CE4E5B9)))  # odd


class RowScan:
    """Facts about every sample of a set.

    `l0` is how many samples have 0, 1, 2 … active features, int64; `keys` the fingerprint of each sample's activations,
    uint64, 0 without any. Memory: a block of about 260,000 activations, 20 MB, and 8 bytes per sample and feature.
    """

    def __init__(self, segments: Sequence[Segment], n_samples: int, n_features: int) -> None:
        self.l0 = np.zeros(n_features + 1, np.int64)
        self.keys = np.zeros(n_samples, np.uint64)
        for start, counts, features, data in _row_blocks(segments):
            histogram = np.bincount(counts)
            self.l0[: len(histogram)] += histogram
            filled = np.flatnonzero(counts)
            if len(filled):
                firsts = np.cumsum(counts)[filled] - counts[filled]
                self.keys[start + filled] = np.add.reduceat(_mixed(features, data), firsts)

    def n_identical(self, index: ItemIndex) -> int:
        """How many samples have the same activations as another sample of their item, samples without any left out."""
        pointers = np.minimum(index.pointers(), len(self.keys))
        keys = np.repeat(np.arange(len(pointers) - 1, dtype=np.uint64) * _FACTORS[0], np.diff(pointers))
        keys ^= self.keys
        keys = np.sort(keys[self.keys != 0])
        same = np.zeros(len(keys) + 1, bool)
        same[1:-1] = keys[1:] == keys[:-1]
        return int((same[1:] | same[:-1]).sum())

    def identical_at(self, index: ItemIndex, position: int) -> float | None:
        """Share of the items of 2 or more samples whose sample at a position has the most common activations there."""
        pointers = index.pointers()
        starts = pointers[:-1][(np.diff(pointers) > 1) & (pointers[1:] <= len(self.keys))]
        if len(starts) < 2:
            return None
        return float(np.unique(self.keys[starts + position], return_counts=True)[1].max() / len(starts))


def _mixed(features: Array, data: Array) -> Array:
    """A number for each activation, such that sums of them differ for different rows."""
    with np.errstate(over="ignore", under="ignore"):
        bits = np.ascontiguousarray(data, np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + np.uint64(1 << (_ROUNDING - 1))) >> np.uint64(_ROUNDING)
        mixed: Array = (features.astype(np.uint64) + np.uint64(1)) * _FACTORS[0] ^ bits * _FACTORS[1]
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _FACTORS[2]
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _row_blocks(segments: Sequence[Segment]) -> Iterator[tuple[int, Array, Array, Array]]:
    """Consecutive samples: the number of the first, active features per sample, all features and activations."""
    for segment in segments:
        start, stop = segment.info.start, segment.info.stop
        while start < stop:
            pointers = segment.row_pointers(start, min(stop, start + _ROWS))
            n_rows = max(1, int(np.searchsorted(pointers, pointers[0] + _ENTRIES, "right")) - 1)
            part = int(pointers[0]), int(pointers[n_rows])
            features, data = (segment.reader(f"by_sample/{name}").read(*part) for name in ("indices", "data"))
            yield start, np.diff(pointers[: n_rows + 1]), features, data
            start += n_rows


def quantile_of_counts(counts: Array, q: float) -> float:
    """`numpy.quantile`, by linear interpolation, of ``counts[i]`` numbers i."""
    ends, total = np.cumsum(counts), int(counts.sum())
    rank = q * (total - 1)
    low, high = (int(np.searchsorted(ends, np.floor(r) + 1)) for r in (rank, np.ceil(rank)))
    return low + (high - low) * (rank - float(np.floor(rank)))
