"""From numbers to words: which signs of a wrong layer, a missing normalisation or BOS rows there are.

Every cut is here. They are set between what the two shipped examples show and what the same examples show once they are
spoilt on purpose, and well away from both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from saestore.diagnostics.report import Fidelity, Finding
from saestore.diagnostics.stream import Streamed

Array = np.ndarray[Any, Any]

LOW = 0.5  # explained variance; trained SAEs have 0.6 to 0.95 on what they were trained for
GAIN = 0.2  # that another scale must bring to be named
AGREE = 0.9  # of the stored non-zeros must come out of encoding again
FAR = 3.0  # times, up or down: mean L0, and L0 and norm of first samples
OUTLIER = 10.0  # times the median norm
ALIKE = 0.9  # mean Jaccard index of the active features of first samples
STRONGEST, OVER = 0.5, 5.0  # share of the strongest activations, and how many times the share of samples
HOG = 0.5  # of all non-zeros are of features that are on more than half of the samples
_FEWEST = 8  # items before anything is said of their first samples
_LISTED = 20


@dataclass(frozen=True)
class Facts:
    """What there is to judge.

    Attributes
    ----------
    fidelity
        The numbers.
    streamed
        Counts over all activations.
    scale
        The scale of the embeddings that the SAE explains most of, where it was looked for.
    below
        Features with activations below their thresholds.
    outliers
        Samples with many times the median norm.
    dropped
        What the build dropped on purpose.
    kind
        ``patch``, ``token`` or ``cls``.
    """

    fidelity: Fidelity
    streamed: Streamed
    scale: Mapping[str, Any] | None
    below: Array
    outliers: Mapping[str, Any]
    dropped: Mapping[str, Any] | None
    kind: str


def is_low(found: Mapping[str, Any] | None) -> bool:
    """Whether the explained variance is lower than a trained SAE's, or NaN."""
    return found is not None and not found["explained_variance"] >= LOW


def judged(facts: Facts) -> Fidelity:
    """The same with its findings, the worst first."""
    found = [finding for check in _CHECKS for finding in check(facts)]
    order = ("error", "warning", "note")
    return replace(facts.fidelity, findings=tuple(sorted(found, key=lambda f: order.index(f.severity))))


def _first_position(facts: Facts) -> Iterator[Finding]:
    p = facts.fidelity.positions
    if p is None or p["n_first"] < _FEWEST:
        return
    seen = []
    if p["alike"] is not None and p["alike"] >= ALIKE > p["alike_second"]:
        seen.append(f"they have the same active features in every item (Jaccard index {p['alike']:.2f})")
    if p["share_of_strongest"] >= STRONGEST and p["share_of_strongest"] >= OVER * p["share"]:
        seen.append(
            f"{p['share_of_strongest']:.0%} of the strongest activations and {p['share']:.1%} of the samples are theirs"
        )
    seen += [
        f"their {name} is {p[key]:.3g} times that of the others"
        for key, name in (("norm_ratio", "median norm"), ("l0_ratio", "median L0"))
        if p[key] is not None and not 1 / FAR < p[key] < FAR
    ]
    if seen:
        yield Finding(
            "first-position",
            "warning",
            f"The samples that stand first in their item look like BOS or CLS rows: {'; '.join(seen)}.",
            dict(p),
            "SAEs are trained without these: leave the first row of every item out of the embeddings and of the counts "
            "of rows (--item-ptr), and build again; until then ask with --where 'position > 0'.",
        )


def _reconstruction(facts: Facts) -> Iterator[Finding]:
    found = facts.fidelity.reconstruction
    if found is None or not is_low(found):
        return
    share, rest = found["explained_variance"], found.get("without_first")
    if rest is not None and rest >= LOW and any(_first_position(facts)):
        return  # that is said already
    if math.isnan(share):
        yield Finding(
            "wrong-layer", "warning", "The embeddings that were compared are all alike.", {}, "Check the embeddings."
        )
        return
    evidence = {"explained_variance": share, "without_first": rest}
    if found.get("agreement", 0) >= AGREE and found.get("encoded_again", 0) >= LOW:
        yield Finding(
            "incomplete",
            "warning",
            f"What is stored explains {share:.2f} of the variance; all that the SAE gives explains "
            f"{found['encoded_again']:.2f}: activations were left out.",
            {**evidence, "encoded_again": found["encoded_again"]},
            "Build or import the set without a filter, or keep more activations a sample.",
        )
        return
    scale = facts.scale
    if scale is not None and scale["explained_variance"] >= max(LOW, share + GAIN):
        yield _normalisation(share, evidence, scale)
        return
    scaled = {"best_of_any_scale": scale["explained_variance"]} if scale is not None else {}
    yield Finding(
        "wrong-layer",
        "warning",
        f"The activations explain {share:.2f} of the variance of the embeddings"
        + (f", at best {scale['explained_variance']:.2f} at another scale" if scale is not None else "")
        + "; trained SAEs explain 0.6 or more of what they were trained on.",
        {**evidence, **scaled},
        "Check that the embeddings are of the model, layer and hook that the SAE was trained on, and their columns in "
        "order."
        + ("" if scale is not None else " With --embeddings it is also tried whether another scale is better."),
    )


def _normalisation(share: float, evidence: Mapping[str, Any], scale: Mapping[str, Any]) -> Finding:
    how = f"multiplied by {scale['factor']:.3g}"
    if scale["kind"] == "centred":
        how += " and the SAE's decoder bias added, as if they had been centred"
    return Finding(
        "normalisation",
        "warning",
        f"The activations explain {share:.2f} of the variance of the embeddings; with these {how} it would be "
        f"{scale['explained_variance']:.2f}: they are not normalised as the SAE expects.",
        {**evidence, "rescaled": scale["explained_variance"], "factor": scale["factor"], "centred": scale["kind"]},
        "Encode the hidden states as the model gives them, or normalised as in the SAE's training; in a .pt with "
        "'embeddings' and 'normalized_embeddings' these are the former.",
    )


def _agreement(facts: Facts) -> Iterator[Finding]:
    found = facts.fidelity.reconstruction or {}
    agreement = found.get("agreement")
    if agreement is not None and agreement < AGREE:
        yield Finding(
            "other-activations",
            "error",
            f"Encoding the embeddings again gives {agreement:.0%} of the stored activations.",
            {"agreement": agreement, "explained_variance": found["explained_variance"]},
            "The stored activations are of another SAE, of other embeddings or of rows in another order: find out "
            "which and import or build the set again.",
        )


def _l0(facts: Facts) -> Iterator[Finding]:
    l0, expected = facts.fidelity.l0, facts.fidelity.expected
    kept = (facts.dropped or {}).get("top_k")
    if expected["k"] is not None:
        yield from _k(facts, expected["k"], kept)
    elif expected["l0"] is not None:
        wanted = expected["l0"] if kept is None else min(expected["l0"], kept)
        if not wanted / FAR < l0["mean"] < wanted * FAR:
            yield Finding(
                "l0",
                "note" if facts.kind == "cls" else "warning",
                f"{l0['mean']:.1f} features are active on a sample; in its training the SAE had {wanted:g}.",
                {"l0": l0["mean"], "expected": wanted},
                "A wrong layer or scale shows like this; so do samples unlike the training text, such as means of "
                "tokens.",
            )


def _k(facts: Facts, k: int, kept: int | None) -> Iterator[Finding]:
    l0, counts = facts.fidelity.l0, facts.streamed.first.l0 + facts.streamed.others.l0
    wanted = k if kept is None else min(k, kept)
    above, below = int(counts[k + 1 :].sum()), int(counts[:wanted].sum())
    n = int(counts.sum())
    if above:
        yield Finding(
            "above-k",
            "error",
            f"{above:,} of {n:,} samples have more than k = {k} active features, up to {l0['max']}.",
            {"n_samples": above, "max": l0["max"], "k": k},
            "An SAE that keeps k cannot give that: the set names another SAE than it was made with.",
        )
    # After a ReLU a few may be missing; without one, every sample has k.
    strict = facts.fidelity.expected["negative"] is True and kept is None
    if (strict and below > 0.01 * n) or l0["mean"] < wanted / FAR:
        yield Finding(
            "below-k",
            "warning",
            f"{below:,} of {n:,} samples have fewer than k = {wanted} active features; the mean is {l0['mean']:.1f}.",
            {"n_samples": below, "mean": l0["mean"], "k": wanted},
            "Activations were filtered before they came here, or negative ones cut off, or the embeddings are of "
            "another scale or layer.",
        )


def _values(facts: Facts) -> Iterator[Finding]:
    found, expected = facts.fidelity.activations, facts.fidelity.expected
    if expected["negative"] is False and found["n_negative"]:
        yield Finding(
            "negative",
            "error",
            f"{found['n_negative']:,} features have negative activations, down to {found['min']:.4g}; the SAE has a "
            "ReLU.",
            {"n_features": found["n_negative"], "min": found["min"]},
            "These are no activations of that SAE: pre-activations perhaps, or those of another one.",
        )
    if len(facts.below):
        yield Finding(
            "below-threshold",
            "error",
            f"{len(facts.below):,} features have activations that the SAE's threshold would have cut off.",
            {"n_features": len(facts.below), "features": facts.below[:_LISTED].tolist()},
            "The set is of another SAE, or of one with other thresholds: name the one it was made with.",
        )


def _always_on(facts: Facts) -> Iterator[Finding]:
    found = facts.fidelity.features
    if found["share_always_on"] > HOG:
        yield Finding(
            "always-on",
            "warning",
            f"{found['share_always_on']:.0%} of all non-zeros are of {found['n_always_on']:,} features that are active "
            "on more than half of the samples.",
            {"share": found["share_always_on"], "features": found["always_on"][:_LISTED]},
            "Embeddings that lack the SAE's centring or are of another layer look like this; few features then say "
            "anything.",
        )


def _outlier_rows(facts: Facts) -> Iterator[Finding]:
    found = facts.outliers
    if found["n_samples"] and not any(_first_position(facts)):
        yield Finding(
            "outlier-rows",
            "note",
            f"{found['n_samples']:,} samples have more than {OUTLIER:g} times the median norm of activations "
            f"({found['norm_largest']:.4g} beside {found['norm_median']:.4g}).",
            dict(found),
            "Look at them (saestore top-samples): BOS, padding or special tokens inside of items, or massive "
            "activations of the model.",
        )


_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _agreement,
    _reconstruction,
    _first_position,
    _l0,
    _values,
    _always_on,
    _outlier_rows,
)
