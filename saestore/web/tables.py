"""The tables of features and of concepts, and the scores of features with concepts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, TooLargeError, did_you_mean
from saestore.progress import time_left
from saestore.scoring.concept_scores import concept_scores
from saestore.scoring.feature_scores import roc_auc_of_all
from saestore.sparse_rows import Array
from saestore.tables.column import Column
from saestore.vocabulary import LEVELS, SCORES
from saestore.web.request import Parameters
from saestore.web.view import EDITABLE, MOST_ROWS, Page, SetView, StoreView, binned, plain

Level = Literal["item", "sample"]

CONCEPT = ("by", "choose", "show", "n")
BEST = "*"  # in place of the name of a concept
_LEVELS: tuple[Level, ...] = ("item", "sample")
_BY = ("roc_auc", "average_precision", "f1")


def scores_of(view: SetView, concept: str, seconds: float) -> dict[str, Array]:
    """ROC AUC of every feature with one concept; with ``*`` with its best one, and which that is. NaN where none is."""
    if concept != BEST:
        level = level_of(view, concept)
        found = view.remember(("scores", concept), lambda: _best_of(view, [(level, [concept])]), seconds)
        return {f"roc_auc of {concept}": found["roc_auc"]}
    known = [(level, view.reader.concept_names(level)) for level in _LEVELS]
    return view.remember(("scores", BEST), lambda: _best_of(view, known), seconds)  # type: ignore[no-any-return]


def _best_of(view: SetView, concepts: Sequence[tuple[Level, list[str]]]) -> dict[str, Array]:
    """The best of some concepts for every feature, and its ROC AUC."""
    n_features = view.reader.shape[1]
    best, names = np.full(n_features, np.nan), np.full(n_features, "", object)
    for level, of_level in concepts:
        known = np.array(of_level, object)
        for features, scores in roc_auc_of_all(view.reader, level, of_level) if of_level else ():
            top = np.argmax(np.nan_to_num(scores, nan=-1), axis=1)
            values = scores[np.arange(len(features)), top]
            better = ~np.isnan(values) & ~(values <= best[features])
            best[features[better]], names[features[better]] = values[better], known[top[better]]
    return {"best concept": names, "roc_auc": best}


def level_of(view: SetView, concept: str) -> Level:
    """The level of a concept, items first."""
    for level in _LEVELS:
        if concept in view.reader.concept_names(level):
            return level
    known = view.reader.concept_names()
    listed = ", ".join(known[:10]) or "none"
    message = f"{view.path} has no concept {concept[:200]!r}. {did_you_mean(concept[:200], known)}There are {listed}."
    raise NotFoundError(message, code="unknown-concept")


def concepts_page(store: StoreView, view: SetView, asked: Parameters) -> Page:  # noqa: ARG001
    """All concepts, with how many items or samples have them."""
    rows = []
    for level in LEVELS:
        labels = view.reader.labels(level)
        positive = np.diff(labels.matrix.indptr) if len(labels.names) else np.zeros(0, np.int64)
        unknown = np.zeros_like(positive) if labels.unknown is None else np.diff(labels.unknown.indptr)
        for name, yes, open_ in zip(labels.names, positive.tolist(), unknown.tolist(), strict=True):
            counts = {"n_positive": yes, "n_negative": labels.n_rows - yes - open_, "n_unknown": open_}
            rows.append({"concept": name, "level": level, **counts})
    data = {"set": view.path, "rows": rows, **store.copies(view.path, "acts.concepts.names()", "concepts", view.path)}
    return Page("concepts.html", f"concepts · {view.path}", data)


def concept_page(store: StoreView, view: SetView, name: str, asked: Parameters) -> Page:
    """The best features of a concept, chosen on one part of the items and shown on another."""
    if name not in view.reader.concept_names():  # its dots may be escaped, see `with_query`
        name = name.replace("%2E", ".")
    level = level_of(view, name)
    by, n = asked.choice("by", _BY, "roc_auc"), asked.whole("n", 20, 1, 200)
    split = "test" in view.splits and len(view.splits) > 1
    choose = asked.text("choose", 'split != "test"' if split else "")
    show = asked.text("show", 'split == "test"' if split else "")
    chosen = view.remember(
        ("concept", name, choose), lambda: concept_scores(view.reader, level, where=choose or None, concepts=[name])
    )
    values = chosen[by].to_numpy()[0]
    order = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")
    best = order[:n][~np.isnan(values[order[:n]])]
    some = best.tolist() or [0]  # of whose scores none is shown: the counts are needed
    shown = concept_scores(view.reader, level, where=show or None, concepts=[name], features=some)
    scores = {score: shown[score].to_numpy()[0][: len(best)] for score in SCORES}
    counts = {key: int(shown[key].values[0]) for key in ("n_positive", "n_negative")}
    labels = view.reader.labels(level)
    column = view.reader.read_column("items" if level == "item" else "samples", name)
    data = {
        "set": view.path,
        "concept": name,
        "level": level,
        **asked.given,
        "same": choose == show,
        "n_positive": int((column.values & (True if column.known is None else column.known)).sum()),
        "n_unknown": 0 if column.unknown is None else int(column.unknown.sum()),
        "n_rows": labels.n_rows,
        "shown_on": counts,
        "rows": view.named_rows({"feature": best, "chosen_by": values[best], **scores}),
        **store.copies(
            view.path, f"acts.concepts.scores({level!r}, where={choose or None!r}, concepts={name!r})",
            "concepts", view.path, "--concept", name, "--level", level, *(["--where", choose] if choose else []),
        ),
    }  # fmt: skip
    return Page("concept.html", f"{name} · {view.path}", data)


FEATURES = ("sort", "where", "limit", "offset", "concept")
_PATIENCE = 5.0  # seconds that a page waits for the scores of all features
SHOWN_STATISTICS = ("n_active", "frac_nonzero", "mean_active", "max")


def density_of(rates: Array) -> dict[str, list[float]]:
    """A histogram of the logarithms of the firing rates that are not 0."""
    return binned(np.log10(rates[rates > 0]), 40)


def feature_row(view: SetView, feature: int, statistics: Sequence[str]) -> dict[str, Any]:
    """What a table shows of a feature."""
    row = {name: view.statistics[name][feature].item() for name in statistics}
    return {"feature": feature, **view.known_of(feature), **row}


def features_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """The table of features: filtered by a condition, sorted by a column, a page of it."""
    window, where, sort = asked.window(50, MOST_ROWS), asked.text("where"), asked.text("sort", "-n_active")
    concept = asked.text("concept")
    if not concept and sort.removeprefix("-") in ("roc_auc", "best concept") and view.reader.concept_names():
        concept = BEST  # the columns that are sorted by
    extra, waiting = _scores(view, concept)
    sort = "-n_active" if waiting and sort.removeprefix("-") not in (*view.columns, *view.statistics) else sort
    ids = view.reader.features.where(where) if where else np.arange(view.reader.shape[1])
    ids = _sorted(view, ids, sort, extra)
    rows = []
    for f in ids[window].tolist():
        row = feature_row(view, f, SHOWN_STATISTICS)
        rows.append({**row, **{name: plain(values[f]) for name, values in extra.items()}})
    columns = ["feature", *view.columns, *SHOWN_STATISTICS, *extra]
    question = f"acts.features.where({where!r})" if where else "acts.features.to_pandas()"
    data = {
        "set": view.path,
        **asked.given,
        "sort": sort,
        "concept": concept or None,
        "waiting": waiting,
        "concepts": view.reader.concept_names()[:200],
        "n_features": view.reader.shape[1],
        "n_matching": len(ids),
        "columns": columns,
        "numeric": ["feature", *(name for name in columns if _is_number(view, name, extra))],
        "density": density_of(view.statistics["frac_nonzero"][ids]),
        "rows": rows,
        "known": [*view.columns, *view.statistics],
        **store.copies(view.path, question, "stats", view.path, *(["--feature", where] if where and len(ids) else [])),
    }
    return Page("features.html", f"features · {view.path}", data, moves=waiting)


def _scores(view: SetView, concept: str) -> tuple[dict[str, Array], bool]:
    """The columns of a concept, and whether they are still being computed."""
    if not concept:
        return {}, False
    try:
        return scores_of(view, concept, _PATIENCE if math.isfinite(time_left()) else math.inf), False
    except TooLargeError as error:
        if error.code != "being-computed":
            raise
        return {}, True


def _is_number(view: SetView, name: str, extra: dict[str, Array]) -> bool:
    if name in view.columns:
        return view.columns[name].values.dtype.kind in "iuf"
    return name in view.statistics or (name in extra and extra[name].dtype.kind == "f")


def _sorted(view: SetView, ids: Array, sort: str, extra: dict[str, Array]) -> Array:
    """Ids by a column, descending with a minus before its name; unknown values come last, ties by id."""
    known = {"feature": np.arange(view.reader.shape[1]), **view.statistics, **extra}
    descending = sort.startswith("-") and sort not in (*view.columns, *known)  # a name can begin with a minus
    name = sort.removeprefix("-") if descending else sort
    if name in view.columns:
        column: Column = view.columns[name]
        values, unknown = column.values[ids], ~column.known[ids] if column.known is not None else None
    elif name in known:
        values, unknown = known[name][ids], None
    elif name in EDITABLE:
        return ids  # nothing is known of any feature
    else:
        options = ["feature", *view.columns, *view.statistics, *extra]
        message = f"sort={sort[:80]!r}: there is no column {name[:80]!r}. {did_you_mean(name[:80], options)}"
        raise InvalidInputError(f"{message}There are {', '.join(options)}.", code="bad-parameter")
    if values.dtype.kind == "f":
        unknown = np.isnan(values)
    unknown = np.zeros(len(ids), bool) if unknown is None else unknown
    ranks = np.unique(values, return_inverse=True)[1]  # of texts and numbers alike
    return ids[np.lexsort((ids, -ranks if descending else ranks, unknown))]
