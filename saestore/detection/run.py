"""The order of things: prune and choose on the calibration split, then look at the test split once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from saestore.activations.intervals import check
from saestore.detection.baselines import baselines, of_cls
from saestore.detection.choose import Candidates, best_on_calibration
from saestore.detection.combine import combined
from saestore.detection.embedded import Embedded
from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CALIBRATION, TEST, Inputs
from saestore.detection.localise import localise
from saestore.detection.probe import probes
from saestore.detection.prune import Cuts, Pruned, prune
from saestore.detection.results import Detection, Row
from saestore.detection.thresholds import SHARES, check_shares
from saestore.errors import InvalidInputError

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
        Candidates of each concept that are listed.
    combine
        How many of the best features are combined, 0 for none.
    probe
        Whether a sparse logistic probe is fitted.
    localise
        Whether samples of detected items are told apart where samples are labelled.
    baselines
        Whether the ways before SAEs are asked too.
    resamples, confidence, seed
        Of the intervals.
    """

    p: Sequence[float] = SHARES
    cuts: Cuts = field(default_factory=Cuts)
    n: int = 5
    combine: int = 0
    probe: bool = False
    localise: bool = True
    baselines: bool = False
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares(self.p)
        check(self.confidence, self.resamples, self.seed)
        if self.combine < 0 or self.combine == 1:
            raise InvalidInputError(f"combine={self.combine!r}: use 2 features or more, or 0 for none.")
        if self.n < 1:
            raise InvalidInputError(f"n={self.n!r}: use 1 or more.")


def detect(
    inputs: Inputs,
    options: Options,
    about: dict[str, Any],
    embeddings: Callable[[], Embedded] | None = None,
    cls: Callable[[], Embedded] | None = None,
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
    evaluation = Evaluation(inputs, options.resamples, options.confidence, options.seed)
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


def _candidate(inputs: Inputs, candidates: Candidates, i: int) -> Row:
    found = {name: getattr(candidates, name)[i].item() for name in candidates.__dataclass_fields__}
    found["concept"] = inputs.names[found["concept"]]
    return {("cal_" + key if key in ("f1", "tp", "predicted", "n_rows") else key): v for key, v in found.items()}


def _skipped(inputs: Inputs, pruned: Pruned, candidates: Candidates) -> dict[str, str]:
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
