"""The page of a feature: which samples, how strongly, which concepts, and which features are like it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from saestore.analysis.directions import decoder_of, neighbours
from saestore.analysis.examples import examples
from saestore.errors import InvalidInputError, SaestoreError
from saestore.progress import time_left
from saestore.query.results import TopSamples
from saestore.query.selection import Condition
from saestore.query.similarity import METRICS
from saestore.scoring.concept_scores import score_intervals
from saestore.stats import STATISTICS, Moments
from saestore.vocabulary import LEVELS
from saestore.web.compare import is_held, matches_of, most_like
from saestore.web.items import describe
from saestore.web.request import Parameters, check_number, number_in
from saestore.web.view import Page, SetView, StoreView, binned, scorers_of

Level = Literal["item", "sample"]

FEATURE = ("where", "level", "from", "n", "offset", "seed", "concept", "context", "metric", "other",
           "intervals", "bins")  # fmt: skip
DECODER = "decoder"  # a metric of neighbours: cosine of the directions, which the SAE has
MOST_EXAMPLES = 64
_BINS = 40  # of a histogram of many values
_LEVELS: tuple[Level, ...] = ("item", "sample")
_CONCEPTS, _SIMILAR, _MATCHES = 8, 10, 3
_SHOWN_SCORES = ("roc_auc", "average_precision", "f1", "threshold")
# Samples of a feature whose neighbours, and unasked whose matches, are looked for in rows that must be read.
_SIMILAR_BELOW, _MATCHED_BELOW = 200_000, 10_000
_DRAWN = ("random", "silent", "near")
_PATIENCE = 2.0  # seconds that a page waits for the SAE, which is loaded beside it


@dataclass(frozen=True)
class Origin:
    """Where on a feature's distribution examples are taken: ``top``, drawn, a quantile or a range."""

    kind: str
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, text: str) -> Origin:
        """From ``top``, ``random``, ``silent``, ``near``, ``quantile:0.5`` or ``range:0.1,0.7``."""
        kind, colon, rest = text.partition(":")
        if kind in ("top", *_DRAWN) and not colon:
            return cls(kind)
        if kind == "quantile":
            return cls(kind, number_in("from=quantile", rest, 0, 1))
        if kind == "range" and rest.count(",") == 1:
            low, high = (number_in("from=range", part) for part in rest.split(","))
            return cls(kind, min(low, high), max(low, high))
        message = f"from={text[:80]!r} cannot be used; give top, random, silent, near, quantile:0.5 or range:LOW,HIGH."
        raise InvalidInputError(message, code="bad-parameter")


def feature_page(store: StoreView, view: SetView, feature: int, asked: Parameters) -> Page:
    """A feature: its names, statistics, histogram, examples, concepts and neighbours."""
    reader = view.reader
    where, level = asked.text("where"), asked.choice("level", LEVELS, "item")
    n, offset = asked.whole("n", 8, 1, MOST_EXAMPLES), asked.whole("offset", 0, 0, 1 << 40)
    origin, metrics = Origin.of(asked.text("from", "top")), [*METRICS, *([DECODER] if has_decoder(view) else [])]
    concept, metric = asked.text("concept"), asked.choice("metric", metrics, "jaccard")
    context, seed = asked.whole("context", 16, 0, 1000), asked.whole("seed", 0, 0, 1 << 32)
    bins = asked.whole("bins", 0, 0, 200)
    check_number("feature", feature, reader.shape[1])
    condition = reader.condition(where or None)
    whole = reader.feature(feature, where=where or None)
    candidates = whole if level == "sample" else whole[np.sort(np.unique(whole.item, return_index=True)[1])]
    histogram = candidates.activation.astype(np.float64)
    before, candidates = _part(candidates, origin)
    if origin.kind in _DRAWN:
        chosen = _drawn(view, feature, origin.kind, n, {"level": level, "where": where or None, "seed": seed})
    else:
        first = _start(len(candidates), origin, n, offset)
        before, chosen = before + first, candidates[first : first + n]
    data: dict[str, Any] = {
        "set": view.path,
        "feature": feature,
        "name": view.name_of(feature),
        **asked.given,
        "stats": _stats(view, feature, whole, condition),
        "histogram": binned(histogram, bins or max(8, min(_BINS, 2 * math.isqrt(len(histogram))))),
        "n_candidates": None if origin.kind in ("silent", "near") else len(candidates),
        "examples": describe(store, view, feature, chosen, concept=concept, context=context),
        **_concepts(view, feature, where, condition, intervals=bool(asked.text("intervals"))),
        **_similar(view, feature, metric),
        "metrics": metrics,
        **_matches(store, view, feature, metric, asked.text("other")),
        "known": view.known_of(feature),
        "n_features": reader.shape[1],
        "splits": view.splits,
        "sample_concepts": reader.concept_names("sample")[:200],
        "where_names": [*reader.items.columns, *reader.samples.columns, "item", "position", "sample"][:200],
    }
    data["strongest"] = max((abs(value) for e in data["examples"] for _, value in e["heat"]), default=0.0)
    data |= _copies(store, data, origin, (before, before + len(chosen)))
    name = f"{data['name']} · " if data["name"] else ""
    return Page("feature.html", f"{name}feature {feature} · {view.path}", data)


def _part(top: TopSamples, origin: Origin) -> tuple[int, TopSamples]:
    """The rows of a range, and how many are before them."""
    if origin.kind != "range":
        return 0, top
    wide = top.activation.astype(np.float64)
    inside = (wide >= origin.low) & (wide <= origin.high)
    return int(np.argmax(inside)) if inside.any() else 0, top[inside]


def _start(length: int, origin: Origin, n: int, offset: int) -> int:
    """The first row that is shown of some."""
    if origin.kind == "quantile" and length:
        middle = round((1 - origin.low) * (length - 1))
        offset += max(0, min(middle - n // 2, length - n))
    return min(offset, length)


def _drawn(view: SetView, feature: int, kind: str, n: int, how: dict[str, Any]) -> TopSamples:
    """Samples, or items, that are drawn: active ones, silent ones, or silent ones whose companions are active."""
    counts: dict[str, Any] = {"random": 0, "near_misses": n} if kind == "near" else {"random": n, "near_misses": 0}
    found = examples(view.reader, feature, quantiles=0, n=0, context=0, **counts, **how)
    found = found[np.flatnonzero(found.kind == ("near-miss" if kind == "near" else kind))]
    return TopSamples(found.feature, found.sample, found.item, found.position, found.activation)


def _stats(view: SetView, feature: int, active: TopSamples, condition: Condition | None) -> dict[str, Any]:
    if condition is None:
        moments = view.moments.take(np.array([feature]))
    else:
        n_rows = _count(condition, view.reader.shape[0])
        moments = Moments.of_lists(np.array([0, len(active)]), active.activation, n_rows)
    return {"n_samples": moments.n_rows, **{s.name: s.of(moments)[0].item() for s in STATISTICS}}


def _count(condition: Condition, n_samples: int) -> int:
    if condition.index is None:
        return int(condition.mask.sum())
    return int(np.diff(np.minimum(condition.index.pointers(), n_samples))[condition.mask].sum())


def _concepts(
    view: SetView, feature: int, where: str, condition: Condition | None, *, intervals: bool
) -> dict[str, Any]:
    """The concepts that a feature scores best with, over the samples of the condition, with intervals."""
    rows: list[dict[str, Any]] = []
    split = ", ".join(view.splits_of(condition)) or None
    for level, scorer in (view.scorers if condition is None else scorers_of(view.reader, where)).items():
        lists = scorer.lists(feature)
        scores = scorer.scores(lists)
        counts = {"n_positive": scorer.observations.n_positive, "n_negative": scorer.observations.n_negative}
        defined = np.flatnonzero(~np.isnan(scores["roc_auc"]))
        best = defined[np.argsort(-scores["roc_auc"][defined], kind="stable")][:_CONCEPTS]
        for i in best.tolist():
            known = {name: (scores | counts)[name][i].item() for name in (*_SHOWN_SCORES, *counts)}
            low, high = (np.nan, np.nan) if intervals else scorer.interval(lists, i)
            ends = {"roc_auc_low": low, "roc_auc_high": high}
            rows.append({"concept": scorer.names[i], "level": level, "split": split, "where": where or None,
                         **known, **ends})  # fmt: skip
    rows = sorted(rows, key=lambda row: -row["roc_auc"])[:_CONCEPTS]
    if intervals:
        _add_intervals(view, feature, where, rows)
    return {"concepts": rows, "intervals": intervals}


def _add_intervals(view: SetView, feature: int, where: str, rows: Sequence[dict[str, Any]]) -> None:
    for level in _LEVELS:
        of_level = [row for row in rows if row["level"] == level]
        if of_level:
            pairs = [(row["concept"], feature) for row in of_level]
            found = score_intervals(view.reader, pairs, level, where=where or None, n_resamples=500)
            for end in ("low", "high"):
                for row, value in zip(of_level, found[f"roc_auc_{end}"].values.tolist(), strict=True):
                    row[f"roc_auc_{end}"] = value


def _similar(view: SetView, feature: int, metric: Any) -> dict[str, Any]:
    """The features that are most like one, over all samples, or by their directions in the decoder."""
    n_active = int(view.moments.n_active[feature])
    if metric == DECODER:
        patience = _PATIENCE if math.isfinite(time_left()) else math.inf
        try:
            decoder = view.remember(DECODER, lambda: decoder_of(view.reader, None), patience)
        except SaestoreError as error:
            return {"similar": [], "similar_note": str(error)}
        ids, scores = neighbours(decoder, feature, _SIMILAR)
        columns = {"feature": ids, "score": scores, "n_both": np.full(len(ids), None)}
    elif n_active > _SIMILAR_BELOW and not is_held(view, metric):
        note = f"The feature is active on {n_active:,} samples; neighbours are shown below {_SIMILAR_BELOW:,}."
        return {"similar": [], "similar_note": note}
    else:
        columns = most_like(view, view, feature, metric, _SIMILAR).columns
    return {"similar": view.named_rows(columns), "similar_note": None}


def has_decoder(view: SetView) -> bool:
    """Whether the SAE of a set is where the set records it, on this machine; nothing is fetched for a page."""
    source = view.attributes.sae.get("source")
    return isinstance(source, str) and bool(source) and Path(source).exists()


def _matches(store: StoreView, view: SetView, feature: int, metric: str, other: str) -> dict[str, Any]:
    """The features of another set over the same samples that are most like one, and which sets there are."""
    others, n_active = store.others(view.path), int(view.moments.n_active[feature])
    metric = "jaccard" if metric == DECODER else metric
    asked, other = bool(other), other or next(iter(others), "")
    data: dict[str, Any] = {"others": others, "other": other or None, "matches": [], "matches_note": None}
    if not other:
        return data
    try:
        theirs = store.open(other)
        if is_held(theirs, metric) or n_active <= (_SIMILAR_BELOW if asked else _MATCHED_BELOW):
            return {**data, "matches": matches_of(view, theirs, feature, metric, _MATCHES)}
    except SaestoreError as error:
        return {**data, "matches_note": str(error)}
    if not asked:
        return {**data, "other": None}
    note = f"The feature is active on {n_active:,} samples; matches are shown below {_SIMILAR_BELOW:,}."
    return {**data, "matches_note": note}


def _copies(store: StoreView, data: Mapping[str, Any], origin: Origin, shown: tuple[int, int]) -> dict[str, str | None]:
    """The question of a feature page in Python, and as a command where there is one."""
    feature, n, level, (first, stop) = data["feature"], data["n"], data["level"], shown
    where = f", where={data['where']!r}" if data["where"] else ""
    if origin.kind in _DRAWN:
        drawn = f"near_misses={n}, random=0" if origin.kind == "near" else f"near_misses=0, random={n}"
        python = f"acts.examples({feature}, quantiles=0, n=0, {drawn}, level={level!r}{where}, seed={data['seed']})"
    else:
        stop = n if origin.kind == "top" and not first else stop
        rest = f"[{first}:]" if first else ""
        python = f"acts.top_samples({feature}, n={stop}, level={level!r}{where}){rest}"
    words = [data["set"], "--feature", str(feature), "--level", level]
    words += ["--where", data["where"]] if data["where"] else []
    if origin.kind in _DRAWN:
        numbers = {"quantiles": 0, "random": 0, "near-misses": 0, "seed": data["seed"]}
        numbers["near-misses" if origin.kind == "near" else "random"] = n
        words = ["examples", *words, "-n", "0", *(w for name, m in numbers.items() for w in (f"--{name}", str(m)))]
    elif not first:
        words = ["top-samples", *words, "-n", str(stop)]
    else:
        words = []
    return store.copies(data["set"], python, *words)
