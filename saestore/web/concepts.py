"""The pages of concepts, and the scores of features with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from saestore.errors import NotFoundError, did_you_mean
from saestore.scoring.concept_scores import concept_scores
from saestore.scoring.feature_scores import roc_auc_of_all
from saestore.vocabulary import LEVELS, SCORES
from saestore.web.request import Parameters
from saestore.web.view import Page, SetView, StoreView

__all__ = ["BEST", "CONCEPT", "concept_page", "concepts_page", "level_of", "scores_of"]

Array = np.ndarray[Any, Any]
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
    data = {
        "set": view.path,
        "rows": rows,
        **store.copies(view.path, "acts.concepts.names()", "concepts", view.path),
    }
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
        ("concept", name, choose),
        lambda: concept_scores(view.reader, level, where=choose or None, concepts=[name]),
    )
    values = chosen[by].to_numpy()[0]
    order = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")
    best = [f for f in order[:n].tolist() if not np.isnan(values[f])]
    rows: list[dict[str, Any]] = []
    if best:
        shown = concept_scores(view.reader, level, where=show or None, concepts=[name], features=best)
        for i, f in enumerate(best):
            row = {score: shown[score].to_numpy()[0, i].item() for score in SCORES}
            rows.append({"feature": f, "name": view.name_of(f) or None, "chosen_by": values[f].item(), **row})
    else:
        shown = concept_scores(view.reader, level, where=show or None, concepts=[name], features=[0])
    counts = {key: int(shown[key].values[0]) for key in ("n_positive", "n_negative")}
    labels = view.reader.labels(level)
    column = view.reader.read_column("items" if level == "item" else "samples", name)
    data = {
        "set": view.path,
        "concept": name,
        "level": level,
        "by": by,
        "n": n,
        "choose": choose or None,
        "show": show or None,
        "same": choose == show,
        "n_positive": int((column.values & (True if column.known is None else column.known)).sum()),
        "n_unknown": 0 if column.unknown is None else int(column.unknown.sum()),
        "n_rows": labels.n_rows,
        "shown_on": counts,
        "rows": rows,
        **store.copies(
            view.path, f"acts.concepts.scores({level!r}, where={choose or None!r}, concepts={name!r})",
            "concepts", view.path, "--concept", name, "--level", level, *(["--where", choose] if choose else []),
        ),
    }  # fmt: skip
    return Page("concept.html", f"{name} · {view.path}", data)
