"""The order of things: prune and choose on the calibration split, then look at the test split once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from saestore.detection.baselines import baselines, of_cls
from saestore.detection.choose import FeatureThresholds, best_on_calibration
from saestore.detection.embeddings import EmbeddingReader
from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CALIBRATION, TEST, Inputs, Split
from saestore.detection.localise import localise
from saestore.detection.probe import probes
from saestore.detection.prune import Pruned, PruningRules, prune
from saestore.detection.report import Detection, Row
from saestore.errors import InvalidInputError
from saestore.scoring.bootstrap import check
from saestore.scoring.quantile_thresholds import SHARES, Cut, best_split, check_shares, f1_at

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Options:
    """What can be set.

    Attributes
    ----------
    p
        Shares of the active positive calibration samples that thresholds let through.
    cuts
        Which features are left out.
    n
        FeatureThresholds of each concept that are listed.
    combine
        How many of the best features are combined, 0 for none.
    probe
        Whether a sparse logistic probe is fitted.
    localise
        Whether samples of detected items are told apart where samples are labelled.
    baselines
        Whether the ways before SAEs are asked too.
    n_resamples, confidence_level, seed
        Of the intervals.
    """

    p: Sequence[float] = SHARES
    cuts: PruningRules = field(default_factory=PruningRules)
    n: int = 5
    combine: int = 0
    probe: bool = False
    localise: bool = True
    baselines: bool = False
    n_resamples: int = 1000
    confidence_level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares(self.p)
        check(self.confidence_level, self.n_resamples, self.seed)
        if self.combine < 0 or self.combine == 1:
            raise InvalidInputError(f"combine={self.combine!r}: use 2 features or more, or 0 for none.")
        if self.n < 1:
            raise InvalidInputError(f"n={self.n!r}: use 1 or more.")


def detect(
    inputs: Inputs,
    options: Options,
    about: dict[str, Any],
    embeddings: Callable[[], EmbeddingReader] | None = None,
    cls: Callable[[], EmbeddingReader] | None = None,
) -> Detection:
    """Find a detector for each concept, and measure it.

    Parameters
    ----------
    about
        Provenance of the set, for the report.
    embeddings
        Opens those of the set, for the baselines.
    cls
        Opens one of each item, for one more.
    """
    inputs.need(CALIBRATION, TEST)
    pruned = prune(inputs, options.cuts)
    p = check_shares(options.p)
    embedded = embeddings() if options.baselines and embeddings is not None else None
    of_items = cls() if cls is not None else None
    found = best_on_calibration(inputs, pruned.features, p, max(options.n, options.combine))
    candidates, best = found.best(options.n), found.best(1)
    skipped = _skipped(inputs, pruned, found)
    evaluation = Evaluation(inputs, options.n_resamples, options.confidence_level, options.seed)
    rows = evaluation.of_features(best)
    if options.combine:
        rows += combined(inputs, evaluation, found.best(options.combine))
    if options.probe:
        probed, without = probes(inputs, evaluation, pruned.features, options.seed)
        rows, skipped = rows + probed, skipped | without
    if embedded is not None:
        older, without = baselines(inputs, evaluation, embedded, p, options.seed)
        rows, skipped = rows + older, skipped | without
        about = {**about, "embeddings": {"path": embedded.path, "fingerprint": embedded.fingerprint}}
    if of_items is not None:
        rows += of_cls(inputs, evaluation, of_items)
        about = {**about, "cls_embeddings": {"path": of_items.path, "fingerprint": of_items.fingerprint}}
    return Detection(
        rows=sorted(rows, key=lambda row: inputs.names.index(row["concept"])),
        candidates=[_candidate(inputs, candidates, i) for i in range(len(candidates))],
        localisation=localise(inputs, evaluation, best, p) if options.localise else [],
        skipped=skipped,
        settings=_settings(inputs, options),
        pruning=pruned.report,
        provenance={"saestore": _version(), **about},
    )


def _version() -> str | None:
    try:
        return version("saestore")
    except PackageNotFoundError:  # a checkout that is not installed
        return None


def _candidate(inputs: Inputs, candidates: FeatureThresholds, i: int) -> Row:
    found = {name: getattr(candidates, name)[i].item() for name in candidates.__dataclass_fields__}
    found["concept"] = inputs.names[found["concept"]]
    return {("cal_" + key if key in ("f1", "tp", "predicted", "n_rows") else key): v for key, v in found.items()}


def _skipped(inputs: Inputs, pruned: Pruned, candidates: FeatureThresholds) -> dict[str, str]:
    """Why a concept has no result, or none that says much."""
    told = {}
    positive = {name: inputs.of(name).n_positive for name in (CALIBRATION, TEST)}
    for i, name in enumerate(inputs.names):
        without = [split for split, counts in positive.items() if not counts[i]]
        if without:
            told[name] = f"no {inputs.level} of the split {' nor of '.join(map(repr, without))} has it"
        elif i not in candidates.concept:
            told[name] = f"none of the {len(pruned.features):,} features that are left is above 0 where it is true"
    return told


def _settings(inputs: Inputs, options: Options) -> dict[str, Any]:
    splits = {name: inputs.of(name) for name in (CALIBRATION, TEST)}
    return {
        "level": inputs.level,
        "score": inputs.pooling.name,
        "concepts": list(inputs.names),
        "thresholds_from": {
            name: "labelled samples" if known else "samples of labelled items"
            for name, known in zip(inputs.names, inputs.from_samples.tolist(), strict=True)
        },
        "n_cal": len(splits[CALIBRATION].units),
        "n_test": len(splits[TEST].units),
        **asdict(options),
        "p": [float(p) for p in options.p],
    }


METHODS = ("or", "mean")


def combined(inputs: Inputs, evaluation: Evaluation, candidates: FeatureThresholds) -> list[Row]:
    """Rows of `METHODS` for each concept with two candidates or more.

    Every feature is divided by its own threshold, so that 1 means the same of all. ``or`` predicts positive what any of
    the best k reaches 1 on; ``mean`` takes their mean, with a threshold of its own. That one and k, from 2 on, are
    chosen by F1 on the calibration split; of equal ones the fewest features.

    Memory: the candidates' scores of one concept.
    """
    rows = []
    split = inputs.of(CALIBRATION)
    for concept in np.unique(candidates.concept).tolist():
        own = candidates.of(concept)
        if len(own) < 2:
            continue
        cal, test = (_in_thresholds(inputs, some, own) for some in (split, evaluation.split))
        for method, (k, cut) in zip(METHODS, _choose(cal, split.truth(concept)), strict=True):
            pooled = _pool(method, test[:k])
            about: dict[str, Any] = {"features": own.feature[:k].tolist(), "threshold": cut.threshold, "cal_f1": cut.f1}
            rows.append(evaluation.row(concept, method, pooled, about))
    return rows


def _in_thresholds(inputs: Inputs, split: Split, own: FeatureThresholds) -> Array:
    """Scores of units in multiples of each candidate's threshold, float64 (n_candidates, n_units)."""
    found = np.empty((len(own), len(split.units)))
    for feature, _, scores in inputs.columns(split, own.feature):
        i = int(np.flatnonzero(own.feature == feature)[0])
        found[i] = scores / own.threshold[i]  # in float64 this is 1 or more exactly where the threshold is reached
    return found


def _pool(method: str, scores: Array) -> Array:
    found: Array = scores.max(axis=0) if method == "or" else scores.mean(axis=0)
    return found


def _choose(cal: Array, truth: Array) -> list[tuple[int, Cut]]:
    """Number of features and threshold of each of `METHODS`."""
    best: list[tuple[int, Cut]] = []
    for method in METHODS:
        chosen: tuple[int, Cut] | None = None
        for k in range(2, len(cal) + 1):
            pooled = _pool(method, cal[:k])
            if method == "or":
                cut: Cut | None = Cut(float(f1_at(pooled, truth, np.ones(1))[0]), float("nan"), 1.0)
            else:
                cut = best_split(pooled, truth)
            if cut is not None and (chosen is None or cut.f1 > chosen[1].f1):
                chosen = k, cut
        if chosen is None:
            raise RuntimeError("candidates have no positive unit above 0")
        best.append(chosen)
    return best
