"""From a set to its fidelity: counts over all activations, a sample of embeddings, and what both say."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.diagnostics import judge
from saestore.diagnostics.report import Fidelity
from saestore.diagnostics.stream import Streamed, ValueCounts, quantile_of_counts
from saestore.errors import InvalidInputError, MissingDependencyError, SaestoreError
from saestore.query import distribution
from saestore.segment import Segment
from saestore.stats import Moments

if TYPE_CHECKING:
    from saestore.diagnostics.variance import Opened
    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

ALWAYS_ON = 0.5  # of the samples
_LISTED = 100
_ITEMS = 256  # whose first samples are held against each other
_L0_IN_NAME = re.compile(r"average_l0_(\d+)")
# What is zero or more after the encoders of these, as sae_lens names them.
_RELU = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")


def measure(
    acts: SetReader, segments: Sequence[Segment], embeddings: Any, sae: Any, *, n_rows: int, seed: int
) -> Fidelity:
    """See `ActivationSet.fidelity`."""
    if n_rows < 2:
        raise InvalidInputError(f"n_rows is {n_rows}; compare at least 2 samples with their embeddings")
    if not acts.nnz:
        raise InvalidInputError(f"{acts.path} has no activations yet; there is nothing to look at.")
    moments = distribution.all_moments(segments, np.arange(acts.shape[1]), acts.shape[1], acts.dtype)
    streamed = Streamed(segments, acts.item_index, acts.shape[1], acts.nnz)
    left_out: list[str] = []
    loaded, opened = _open(acts, embeddings, sae, left_out)
    expected = _expected(acts, loaded)
    thresholds = expected.pop("thresholds", None)
    found = _recorded(acts)
    scale = None
    if opened is not None:
        from saestore.diagnostics import variance

        rows = variance.sample_rows(acts.shape[0], n_rows, seed)
        found = variance.compare(acts, opened, rows)
        if judge.is_low(found) and np.isfinite(found["explained_variance"]):
            scale = variance.best_scale(opened, rows)
    fidelity = Fidelity(
        set=acts.path,
        reconstruction=found,
        l0=_l0(streamed),
        activations=_activations(streamed, moments),
        features=_features(moments, acts.shape[0], acts.nnz),
        positions=_positions(acts, streamed, seed),
        expected=expected,
        left_out=tuple(left_out),
        findings=(),
    )
    below = _below_threshold(moments, thresholds, acts.dtype)
    outliers = _outliers(streamed)
    facts = judge.Facts(fidelity, streamed, scale, below, outliers, acts.attributes.dropped, _kind(acts))
    return judge.judged(facts)


def _kind(acts: SetReader) -> str:
    return acts.path.split("/")[1]


def _open(acts: SetReader, embeddings: Any, sae: Any, left_out: list[str]) -> tuple[Any, Opened | None]:
    """The SAE, and with the embeddings; None and a reason where one is not there, unless it was asked for."""
    without = "explained variance of the stored activations: "
    if importlib.util.find_spec("torch") is None:
        if embeddings is not None or sae is not None:
            raise MissingDependencyError(
                "Decoding activations needs torch; pip install 'saestore[sae]', or leave out the embeddings and the SAE"
            )
        left_out.append(without + "torch is not installed (pip install 'saestore[sae]')")
        return None, None
    from saestore.diagnostics import variance

    try:
        loaded = variance.open_sae(acts, sae)
    except SaestoreError as error:
        if embeddings is not None or sae is not None:
            raise
        left_out.append(f"{without}the SAE is not at hand ({error})")
        return None, None
    spec = embeddings
    if spec is None:
        source = acts.attributes.source
        if source.get("kind") != "embeddings" or source.get("layout") == "array" or not source.get("path"):
            left_out.append(without + "the set names no file of embeddings; give it with --embeddings (embeddings=)")
            return loaded, None
        spec = source["path"]
    try:
        return loaded, variance.Opened(loaded, variance.open_rows(acts, spec, loaded))
    except SaestoreError as error:
        if embeddings is not None:
            raise
        left_out.append(f"{without}{error}")
        return loaded, None


def _expected(acts: SetReader, loaded: Any) -> dict[str, Any]:
    """What the SAE's metadata says there should be."""
    said_of = {} if loaded is None else loaded.info
    sae = {**said_of, **{name: value for name, value in acts.attributes.sae.items() if value is not None}}
    architecture = sae.get("architecture")
    l0 = _l0_in_name(sae)
    negative = False if architecture in _RELU else True if architecture == "clip_scope" else None
    k = sae.get("k")
    expected = {"architecture": architecture, "d_in": sae.get("d_in"), "k": k, "l0": l0, "negative": negative}
    if loaded is not None:
        from saestore.diagnostics.variance import said_by

        said = said_by(loaded)
        expected["l0"] = said["l0"] if l0 is None else l0
        expected["negative"] = negative if said["negative"] is None else said["negative"]
        expected["thresholds"] = said["thresholds"]
    if k is not None:
        expected["l0"] = None  # k says it
    return expected


def _l0_in_name(sae: Mapping[str, Any]) -> float | None:
    """Gemma Scope calls its SAEs by their mean L0."""
    names = [str(sae.get(key) or "") for key in ("sae_id", "source")]
    if sae.get("name") and importlib.util.find_spec("torch") is not None:
        from saestore.sae import REGISTERED

        names += [REGISTERED[sae["name"]].file] if sae["name"] in REGISTERED else []
    found = [_L0_IN_NAME.search(name) for name in names]
    return next((float(match[1]) for match in found if match), None)


def _recorded(acts: SetReader) -> dict[str, Any] | None:
    share = acts.attributes.summary.get("explained_variance")
    return None if share is None else {"explained_variance": share, "measured": "first batch of the build"}


def _l0(streamed: Streamed) -> dict[str, Any]:
    counts = streamed.first.l0 + streamed.others.l0
    there = np.flatnonzero(counts)
    quartiles = {name: quantile_of_counts(counts, q) for name, q in (("p25", 0.25), ("median", 0.5), ("p75", 0.75))}
    mean = float((counts * np.arange(len(counts))).sum() / counts.sum())
    return {"min": int(there[0]), **quartiles, "max": int(there[-1]), "mean": mean}


def _activations(streamed: Streamed, moments: Moments) -> dict[str, Any]:
    return {
        "min": float(np.nanmin(moments.min)),
        "p50": streamed.values.quantile(0.5),
        "p99": streamed.values.quantile(0.99),
        "max": float(np.nanmax(moments.max)),
        "n_negative": int((moments.min < 0).sum()),
    }


def _features(moments: Moments, n_samples: int, nnz: int) -> dict[str, Any]:
    often = np.flatnonzero(moments.n_active > ALWAYS_ON * n_samples)
    often = often[np.argsort(-moments.n_active[often], kind="stable")]
    return {
        "n": len(moments.n_active),
        "n_dead": int((moments.n_active == 0).sum()),
        "n_always_on": len(often),
        "always_on": often[:_LISTED].tolist(),
        "share_always_on": float(moments.n_active[often].sum() / nnz),
    }


def _positions(acts: SetReader, streamed: Streamed, seed: int) -> dict[str, Any] | None:
    """The samples that stand first in their item beside the others."""
    n_first, n_others = (int(group.l0.sum()) for group in (streamed.first, streamed.others))
    if not n_first or not n_others or _kind(acts) == "cls":
        return None
    norms = [group.norms.quantile(0.5) or 0.0 for group in (streamed.first, streamed.others)]
    l0 = [quantile_of_counts(group.l0, 0.5) for group in (streamed.first, streamed.others)]
    first, second = _alike(acts, seed)
    return {
        "n_first": n_first,
        "share": n_first / (n_first + n_others),
        "n_strongest": len(streamed.strongest),
        "share_of_strongest": float(streamed.strongest.mean()),
        "norm_ratio": norms[0] / norms[1] if norms[1] else None,
        "l0_ratio": l0[0] / l0[1] if l0[1] else None,
        "alike": first,
        "alike_second": second,
    }


def _alike(acts: SetReader, seed: int) -> tuple[float | None, float | None]:
    """How alike the active features of the first samples of items are, and of the second ones: mean Jaccard index."""
    pointers = acts.item_index.pointers()
    items = np.flatnonzero((np.diff(pointers) > 1) & (pointers[1:] <= acts.shape[0]))
    if len(items) > _ITEMS:
        items = np.sort(np.random.default_rng(seed).choice(items, _ITEMS, replace=False))
    if len(items) < 2:
        return None, None
    return _jaccard(acts, pointers[items]), _jaccard(acts, pointers[items] + 1)


def _jaccard(acts: SetReader, rows: Array) -> float:
    active = acts.sparse(rows).astype(np.float64)
    active.data[:] = 1
    both = np.asarray(active[:-1].multiply(active[1:]).sum(axis=1)).ravel()
    sizes = np.diff(active.indptr)
    either = sizes[:-1] + sizes[1:] - both
    return float(np.mean(both[either > 0] / either[either > 0])) if (either > 0).any() else 0.0


def _below_threshold(moments: Moments, thresholds: Array | None, dtype: np.dtype[Any]) -> Array:
    """Features with an activation below what the encoder lets through."""
    if thresholds is None:
        return np.zeros(0, np.int64)
    slack = 1 - 2 * float(np.finfo(dtype).eps)  # rounding to the stored dtype may go below
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(moments.min < np.broadcast_to(thresholds, moments.min.shape) * slack)


def _outliers(streamed: Streamed) -> dict[str, Any]:
    """Samples whose norm is many times the median."""
    norms = ValueCounts.sum_of(streamed.first.norms, streamed.others.norms)
    median = norms.quantile(0.5) or 0.0
    largest = norms.quantile(1.0) or 0.0
    return {
        "n_samples": norms.n_above(judge.OUTLIER * median),
        "norm_median": median,
        "norm_largest": largest,
        "n_first": streamed.first.norms.n_above(judge.OUTLIER * median),
    }
