"""The order of a detection: prune and choose on the calibration split, then evaluate once on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from saestore.detection.choose import FeatureThresholds, best_on_calibration
from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CHOOSE, FIT, REPORT, Inputs, inputs_of, provenance
from saestore.detection.options import DetectionOptions
from saestore.detection.prune import prune
from saestore.detection.report import Detection
from saestore.errors import InvalidInputError
from saestore.query.details import feature_names
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.reader import Level, SetReader
from saestore.scoring.splits import described, disjoint
from saestore.sparse_rows import Array


@retry_on_stale_snapshot
def detect(
    reader: SetReader,
    /,
    level: Level = "item",
    *,
    concepts: Sequence[str] | str | None = None,
    features: Any = None,
    choose_on: Any = "cal",
    report_on: Any = "test",
    fit_on: Any = "train",
    where: Any = None,
    options: DetectionOptions | None = None,
    embeddings: Any = None,
    cls_embeddings: Any = None,
    **settings: Any,
) -> Detection:
    """Find the feature and threshold that detect each concept, and measure them on other samples.

    Everything is chosen on one split, the calibration samples; the other only gives the results.

    Parameters
    ----------
    level
        ``"item"`` detects concepts of items by a score of their samples, ``"sample"`` concepts of samples.
    concepts
        Names; by default all of the level.
    features
        Only these, also a condition; none of them is left out as dead, ubiquitous or weak. By default all.
    choose_on, report_on, fit_on
        Values of the items' column ``split``, or conditions as in every query; the first two share no sample.
        Probes and vectors are fitted on the third.
    where
        Only samples that fulfil this are in any of them; an item consists of its samples that do.
    options
        Scores, target recalls, pruning, other methods and intervals, for more than one detection.
    embeddings
        The embeddings that the set was built from, as `saestore.build` takes them, for the baselines; by default
        where the set records them. With embeddings, the baselines are evaluated.
    cls_embeddings
        One embedding per item, its CLS token: also evaluate the difference of their means. For items only.
    **settings
        Single attributes of `DetectionOptions`, which win over `options`: ``acts.detect(max_features=3)``.

    Returns
    -------
    Detection
        A row for each concept that a feature fires on, and for each other method.

    Raises
    ------
    NotFoundError
        There is no such concept or split, no column ``split``, or a split without items.
    InvalidInputError
        The embeddings belong to another set; what is chosen on and reported on overlaps.

    Notes
    -----
    Items or samples whose label of a concept is unknown count for nothing of that concept. A concept without a
    positive to choose on has no threshold; without one to report on, metrics that need positives are NaN.
    ``detection.skipped`` names both.

    Memory: the labels, about 20 bytes per sample, 16 bytes per feature, and a few hundred MB for a block of lists.
    """
    options = DetectionOptions.of(options, settings)
    on = {CHOOSE: choose_on, REPORT: report_on, FIT: fit_on}
    if cls_embeddings is not None and level != "item":
        raise InvalidInputError("cls_embeddings= has one embedding per item; use level='item'.", code="wrong-level")
    inputs = inputs_of(reader, level, concepts, options.score, on, where=where)
    disjoint(reader, on[CHOOSE], on[REPORT], level)
    inputs.need(CHOOSE, REPORT)
    about = provenance(reader)
    of_samples, of_items = (
        _open(reader, about, name, spec, wanted)
        for name, spec, wanted in (
            ("embeddings", embeddings, options.baselines or embeddings is not None),
            ("cls_embeddings", cls_embeddings, cls_embeddings is not None),
        )
    )
    ids, pruning = prune(inputs, options, None if features is None else np.unique(reader.select_features(features).ids))
    most = max(options.n, options.max_features)
    candidates = best_on_calibration(inputs, ids, np.array(options.target_recalls), most)
    best, skipped = candidates.best(1), _skipped(inputs, ids, candidates)
    evaluation = Evaluation(inputs, options)
    rows = evaluation.of_features(best)
    if options.max_features > 1:
        from saestore.detection.several import combined

        rows += combined(evaluation, candidates.best(options.max_features))
    if options.probe:
        from saestore.detection.several import probes

        more, without = probes(evaluation, ids)
        rows, skipped = rows + more, skipped | without
    if of_samples is not None:
        from saestore.detection.baselines import baselines

        more, without = baselines(evaluation, of_samples)
        rows, skipped = rows + more, skipped | without
    if of_items is not None:
        from saestore.detection.baselines import of_cls

        rows += of_cls(evaluation, of_items)
    return Detection(
        rows=_named(reader, sorted(rows, key=lambda row: inputs.names.index(row["concept"]))),
        candidates=_named(reader, candidates.best(options.n).to_dicts(inputs.names)),
        localisation=_named(reader, evaluation.localise(best) if options.localise else []),
        skipped=skipped,
        settings=_settings(inputs, options),
        pruning=pruning,
        provenance={"saestore": _version(), **about},
    )


def _named(reader: SetReader, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the name of their feature beside its number, None where there is none."""
    ids = np.array([row["feature"] for row in rows if row["feature"] is not None], np.int64)
    names = feature_names(reader, ids)
    known = {} if names is None else dict(zip(ids.tolist(), names.tolist(), strict=True))
    named = []
    for row in rows:
        place = list(row).index("feature") + 1
        own = {"name": known.get(row["feature"])}
        named.append(dict([*row.items()][:place]) | own | dict([*row.items()][place:]))
    return named


def _open(reader: SetReader, about: dict[str, Any], name: str, spec: Any, wanted: bool) -> Any:
    """Embeddings that are asked for; `about` records which."""
    if not wanted:
        return None
    from saestore.detection.baselines import open_embeddings

    source = open_embeddings(reader, spec, of_items=name == "cls_embeddings")
    about[name] = {"path": source.path, "fingerprint": source.fingerprint()}
    return source


def _version() -> str | None:
    try:
        return version("saestore")
    except PackageNotFoundError:  # a checkout that is not installed
        return None


def _skipped(inputs: Inputs, features: Array, candidates: FeatureThresholds) -> dict[str, str]:
    """Why a concept has no result, or no full one."""
    skipped = {}
    positive = {described(inputs.on[name]): inputs.of(name).n_positive for name in (CHOOSE, REPORT)}
    for i, name in enumerate(inputs.names):
        without = [split for split, counts in positive.items() if not counts[i]]
        if without:
            skipped[name] = f"no {inputs.level} of {' nor of '.join(map(repr, without))} has it"
        elif i not in candidates.concept:
            skipped[name] = f"none of the {len(features):,} features that are left is above 0 where it is true"
    return skipped


def _settings(inputs: Inputs, options: DetectionOptions) -> dict[str, Any]:
    return {
        "level": inputs.level,
        "concepts": list(inputs.names),
        "thresholds_from": {
            name: "labelled samples" if known else "samples of labelled items"
            for name, known in zip(inputs.names, inputs.from_samples.tolist(), strict=True)
        },
        **{name: described(part) for name, part in inputs.on.items()},
        "where": None if inputs.where is None else described(inputs.where),
        "n_cal": len(inputs.of(CHOOSE).units),
        "n_test": len(inputs.of(REPORT).units),
        **options.to_dict(),
    }
