"""The pages of a feature and of an item: which samples, their images or texts, and what fires where."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from saestore.analysis.examples import examples
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, SaestoreError
from saestore.plot.images import ImageView, find_image, is_image
from saestore.plot.style import Row, rows_of
from saestore.query.results import TopSamples
from saestore.query.selection import Condition
from saestore.query.similarity import METRICS
from saestore.scoring.concept_scores import concept_scores, score_intervals
from saestore.stats import STATISTICS, Moments
from saestore.vocabulary import LEVELS
from saestore.web.request import Parameters, number_in
from saestore.web.view import Page, SetView, StoreView

__all__ = ["FEATURE", "ITEM", "add_content", "feature_page", "item_page", "python_of"]

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]

FEATURE = ("where", "level", "from", "n", "offset", "seed", "concept", "context", "metric", "intervals", "bins")
ITEM = ("position", "feature", "n", "concept")
MOST_EXAMPLES = 64
_LEVELS: tuple[Level, ...] = ("item", "sample")
_CONCEPTS, _SIMILAR = 8, 10
_MOST_TOKENS = 4000  # of an item that is shown whole
_SIMILAR_BELOW = 200_000  # samples of a feature whose neighbours are looked for at once
_DRAWN = ("random", "silent", "near")


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
        raise InvalidInputError(
            f"from={text[:80]!r} cannot be used; give top, random, silent, near, quantile:0.5 or range:LOW,HIGH.",
            code="bad-parameter",
        )


def feature_page(store: StoreView, view: SetView, feature: int, asked: Parameters) -> Page:
    """A feature: its names, statistics, histogram, examples, concepts and neighbours."""
    reader = view.reader
    where, level = asked.text("where"), asked.choice("level", LEVELS, "item")
    n, offset = asked.whole("n", 8, 1, MOST_EXAMPLES), asked.whole("offset", 0, 0, 1 << 40)
    origin = Origin.of(asked.text("from", "top"))
    concept, metric = asked.text("concept"), asked.choice("metric", METRICS, "jaccard")
    context, seed = asked.whole("context", 16, 0, 1000), asked.whole("seed", 0, 0, 1 << 32)
    bins = asked.whole("bins", 40, 1, 200)
    check_feature(reader.shape[1], feature)
    condition = reader.condition(where or None)
    whole = reader.feature(feature, where=where or None)
    candidates = whole if level == "sample" else _first_of_items(whole)
    candidates = _part(candidates, origin)
    if origin.kind in _DRAWN:
        numbers = {"n": n, "level": level, "where": where, "seed": seed}
        chosen = _drawn(view, feature, origin.kind, numbers)
    else:
        chosen = _window(candidates, origin, n, offset)
    data: dict[str, Any] = {
        "set": view.path,
        "feature": feature,
        "name": None,
        **view.known_of(feature),
        "where": where or None,
        "level": level,
        "from": asked.text("from", "top"),
        "n": n,
        "offset": offset,
        "seed": seed,
        "concept": concept or None,
        "context": context,
        "metric": metric,
        "stats": _stats(view, feature, whole, condition),
        "histogram": _histogram(whole if level == "sample" else _first_of_items(whole), bins),
        "n_candidates": None if origin.kind in ("silent", "near") else len(candidates),
        "examples": describe(store, view, feature, chosen, concept=concept, context=context),
        **_concepts(view, feature, where, intervals=bool(asked.text("intervals"))),
        **_similar(view, feature, metric),
        "others": _others(store, view),
        "known": view.known_of(feature),
        "n_features": reader.shape[1],
        "sample_concepts": reader.concept_names("sample")[:200],
        "where_names": [*reader.items.columns, *reader.samples.columns, "item", "position", "sample"][:200],
    }
    data["strongest"] = max((abs(value) for e in data["examples"] for _, value in e["heat"]), default=0.0)
    data |= _copies(store, data)
    name = f"{data['name']} · " if data["name"] else ""
    return Page("feature.html", f"{name}feature {feature} · {view.path}", data)


def check_feature(n_features: int, feature: int) -> None:
    """Refuse a feature that the set does not have."""
    if not 0 <= feature < n_features:
        raise OutOfRangeError(f"feature {feature} is out of range: there are {n_features:,}, numbered from 0.")


def _first_of_items(top: TopSamples) -> TopSamples:
    """The strongest sample of each item."""
    _, first = np.unique(top.item, return_index=True)
    return top[np.sort(first)]


def _part(top: TopSamples, origin: Origin) -> TopSamples:
    if origin.kind != "range":
        return top
    return top[(top.activation >= origin.low) & (top.activation <= origin.high)]


def _window(top: TopSamples, origin: Origin, n: int, offset: int) -> TopSamples:
    if origin.kind == "quantile" and len(top):
        middle = round((1 - origin.low) * (len(top) - 1))
        offset += max(0, min(middle - n // 2, len(top) - n))
    return top[offset : offset + n]


def _drawn(view: SetView, feature: int, kind: str, asked: Mapping[str, Any]) -> TopSamples:
    """Samples, or items, that are drawn: active ones, silent ones, or silent ones whose companions are active."""
    n = asked["n"]
    found = examples(
        view.reader, feature, quantiles=0, n=0, random=0 if kind == "near" else n,
        near_misses=n if kind == "near" else 0, context=0,
        level=asked["level"], where=asked["where"] or None, seed=asked["seed"],
    )  # fmt: skip
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


def _histogram(top: TopSamples, bins: int) -> dict[str, list[float]]:
    if not len(top):
        return {"left": [], "right": [], "count": []}
    counts, edges = np.histogram(top.activation.astype(np.float64), bins)
    return {"left": edges[:-1].tolist(), "right": edges[1:].tolist(), "count": counts.tolist()}


def describe(
    store: StoreView, view: SetView, feature: int, chosen: TopSamples, *, concept: str, context: int
) -> list[dict[str, Any]]:
    """Examples with all that a page shows of them: place, activations of the whole item, image or tokens."""
    if not len(chosen):
        return []
    rows = rows_of(view.reader, feature, chosen)
    sample, activation = chosen.sample.tolist(), chosen.activation.tolist()
    shown = [{"sample": sample[i], "activation": activation[i], **_place(row)} for i, row in enumerate(rows)]
    for example, row in zip(shown, rows, strict=True):
        active = np.flatnonzero(row.activations)
        example["heat"] = [[int(p), float(row.activations[p])] for p in active]
    if concept:
        _add_masks(view, concept, rows, shown)
    _add_content(store, view, rows, shown, context)
    return shown


def _place(row: Row) -> dict[str, Any]:
    return {"item": row.item, "key": row.key, "split": row.split or None, "position": row.position}


def _add_masks(view: SetView, concept: str, rows: Sequence[Row], shown: Sequence[dict[str, Any]]) -> None:
    """The samples of each item that have a concept, and how well the active ones fit them."""
    if concept not in view.reader.concept_names("sample"):
        known = ", ".join(view.reader.concept_names("sample")[:10]) or "none"
        message = f"concept={concept!r} is not a concept of samples; there are {known}."
        raise InvalidInputError(message, code="unknown-concept")
    mask = view.remember(("mask", concept), lambda: view.reader.concept_mask(concept, "sample"))
    for example, row in zip(shown, rows, strict=True):
        inside, active = mask[row.start : row.start + len(row.activations)], row.activations > 0
        both, either = int((inside & active).sum()), int((inside | active).sum())
        example |= {
            "mask": np.flatnonzero(inside).tolist(),
            "precision": both / int(active.sum()) if active.any() else None,
            "iou": both / either if either else None,
        }


def _add_content(
    store: StoreView, view: SetView, rows: Sequence[Row], shown: Sequence[dict[str, Any]], context: int
) -> None:
    """The tokens of each example around its sample, or its image."""
    reader = view.reader
    if "text" in reader.items.names():
        texts = reader.items.column("text", np.array([row.item for row in rows])).tolist()
        windows = [_window_of(row, context) for row in rows]
        spans = reader.spans(np.concatenate([row.start + window for row, window in zip(rows, windows, strict=True)]))
        ends = np.cumsum([len(window) for window in windows])[:-1]
        parts: Sequence[Array | None] = [None] * len(rows) if spans is None else np.split(spans, ends)
        for example, row, text, window, part in zip(shown, rows, texts, windows, parts, strict=True):
            example.update(_text(row, text, window, part))
        return
    for example in shown:
        if is_image(example["key"]):
            example["image"] = picture(store, view, example["item"], example["key"])


def add_content(store: StoreView, view: SetView, hits: Sequence[dict[str, Any]]) -> None:
    """The key of each hit's item, and its image or the start of its text."""
    items, names = np.array([hit["item"] for hit in hits], np.int64), view.reader.items.names()
    columns = {name: view.reader.items.column(name, items).tolist() for name in ("key", "text") if name in names}
    for i, hit in enumerate(hits):
        hit["key"] = columns["key"][i] if "key" in columns else str(hit["item"])
        if "text" in columns:
            hit["text"] = columns["text"][i][:400]
        elif is_image(hit["key"]):
            hit |= {"image": picture(store, view, hit["item"], hit["key"]), "heat": []}


def _window_of(row: Row, context: int) -> Array:
    first, last = max(0, row.position - context), min(len(row.activations), row.position + context + 1)
    return np.arange(first, last)


def _text(row: Row, text: str, window: Array, spans: Array | None) -> dict[str, Any]:
    """A part of a text as runs: the tokens of a window with their activations, and the text between them."""
    if spans is None or not len(window):
        shown = text[:400]
        cut = "…" if len(text) > len(shown) else ""
        return {"tokens": [{"position": None, "text": shown + cut, "activation": 0.0}], "more": bool(cut)}
    spans = np.clip(spans, 0, len(text))
    done = 0 if window[0] == 0 else int(spans[:, 0].min())
    runs: list[dict[str, Any]] = [{"position": None, "text": "…", "activation": 0.0}] if done else []
    for position, (begin, end) in zip(window.tolist(), spans.tolist(), strict=True):
        if begin > done:
            runs.append({"position": None, "text": text[done:begin], "activation": 0.0})
        shown = text[max(begin, done) : end]
        if shown or row.activations[position]:
            shown = shown or "∅"
            runs.append({"position": position, "text": shown, "activation": float(row.activations[position])})
        done = max(done, end)
    last = window[-1] == len(row.activations) - 1
    rest = text[done:] if last else "…" if done < len(text) else ""
    runs += [{"position": None, "text": rest, "activation": 0.0}] if rest else []
    return {"tokens": runs, "more": not last or window[0] > 0}


def picture(store: StoreView, view: SetView, item: int, key: str) -> dict[str, Any]:
    """Address and geometry of an item's image; ``url`` is None where there is no readable file."""
    try:
        seen = ImageView.of(view.reader, None)
    except InvalidInputError:
        seen = ImageView(None, False)
    result: dict[str, Any] = {"url": None, "width": 4, "height": 3, "box": [0, 0, 1, 1], "grid": None}
    result |= {"assumed_squashed": False, "missing": None}
    try:
        result["width"], result["height"] = store.thumbnails.shape(find_image(view.reader, key, store.images))
        result["url"] = store.links.image(view.path, item, 320)
    except (SaestoreError, OSError) as error:
        result["missing"] = str(error)
        return result
    if seen.patches is not None:
        box = seen.box(result["width"], result["height"])
        result["box"] = [box.left, box.top, box.right, box.bottom]
        result["grid"] = list(seen.patches.grid)
        result["assumed_squashed"] = seen.assumed and result["width"] != result["height"]
    return result


def _concepts(view: SetView, feature: int, where: str, *, intervals: bool) -> dict[str, Any]:
    """The concepts that a feature scores best with, over the samples of the condition."""
    rows: list[dict[str, Any]] = []
    note = None
    names = ("roc_auc", "average_precision", "f1", "threshold")
    for level in _LEVELS:
        if not view.reader.concept_names(level):
            continue
        try:
            scores = concept_scores(view.reader, level, where=where or None, features=[feature])
        except SaestoreError as error:
            note = str(error)
            continue
        values = {name: scores[name].to_numpy()[:, 0] for name in names}
        counts = {name: scores[name].to_numpy() for name in ("n_positive", "n_negative")}
        concepts = scores["concept"].to_numpy().tolist()
        for i in np.flatnonzero(~np.isnan(values["roc_auc"])).tolist():
            row = {name: each[i].item() for name, each in {**values, **counts}.items()}
            rows.append({"concept": concepts[i], "level": level, "where": where or None, **row})
    rows = sorted(rows, key=lambda row: -row["roc_auc"])[:_CONCEPTS]
    if intervals:
        _add_intervals(view, feature, where, rows)
    return {"concepts": rows, "concepts_note": note, "intervals": intervals}


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
    """The features that are most like one, over all samples."""
    n_active = int(view.moments.n_active[feature])
    if n_active > _SIMILAR_BELOW:
        note = f"The feature is active on {n_active:,} samples; neighbours are shown below {_SIMILAR_BELOW:,}."
        return {"similar": [], "similar_note": note}
    found = view.reader.similar(feature, _SIMILAR, metric)
    rows = zip(found.feature.tolist(), found.score.tolist(), found.n_both.tolist(), strict=True)
    similar = [{"feature": f, "score": s, "n_both": n, "name": view.name_of(f) or None} for f, s, n in rows]
    return {"similar": similar, "similar_note": None}


def _others(store: StoreView, view: SetView) -> list[str]:
    """Other sets of the same samples, as far as their paths and sizes can be compared."""
    mine = view.path.rsplit("/", 1)[0]
    return [path for path in store.paths()[0] if path != view.path and path.rsplit("/", 1)[0] == mine]


def python_of(store: StoreView, path: str) -> str:
    """The line that opens a set."""
    return f"acts = saestore.open({store.location!r})[{path!r}]"


def _copies(store: StoreView, data: Mapping[str, Any]) -> dict[str, str]:
    """The question of a feature page in Python and as a command."""
    where = f", where={data['where']!r}" if data["where"] else ""
    python = f"acts.top_samples({data['feature']}, n={data['n']}, level={data['level']!r}{where})"
    words = ["saestore", "top-samples", data["set"], "--feature", str(data["feature"]), "-n", str(data["n"])]
    words += ["--level", data["level"], *(["--where", data["where"]] if data["where"] else [])]
    return {
        "python": f"{python_of(store, data['set'])}\n{python}",
        "command": shlex.join([*words, "--store", store.location]),
    }


def item_page(store: StoreView, view: SetView, item: int, asked: Parameters) -> Page:
    """An item whole: its image or text, its strongest features, and what fires at one of its samples."""
    reader, n = view.reader, asked.whole("n", 20, 1, 200)
    if not 0 <= item < reader.n_items:
        raise OutOfRangeError(f"item {item} is out of range: there are {reader.n_items:,}, numbered from 0.")
    start, stop = item_range(view, item)
    position = asked.whole("position", 0, 0, max(0, stop - start - 1)) if asked.text("position") else None
    feature = asked.whole("feature", 0, 0, reader.shape[1] - 1) if asked.text("feature") else None
    rows = reader.sparse(np.arange(start, stop))
    example = _of_item(store, view, item, feature=feature, position=position, concept=asked.text("concept"))
    if position is not None:
        low, high = rows.indptr[position : position + 2]
        best, values, at = rows.indices[low:high], rows.data[low:high], np.full(high - low, position)
    else:
        best, values, at = _strongest(rows)
    order = np.argsort(-values, kind="stable")[:n]
    data: dict[str, Any] = {
        "set": view.path,
        "item": item,
        "key": example["key"],
        "n_samples": stop - start,
        "position": position,
        "feature": feature,
        "n": n,
        "n_items": reader.n_items,
        "columns": {name: _cell(view, name, item) for name in reader.items.columns if name not in ("key", "text")},
        "example": example,
        "features": [
            {"feature": f, "name": view.name_of(f) or None, "activation": a, "position": p}
            for f, a, p in zip(best[order].tolist(), values[order].tolist(), at[order].tolist(), strict=True)
        ],
        "sample_concepts": list(reader.concept_names("sample"))[:100],
        "concept": asked.text("concept") or None,
        "python": f"{python_of(store, view.path)}\nacts.top_features({start + (position or 0)}, n={n})",
        "command": shlex.join(
            ["saestore", "top-features", view.path, "--sample", str(start + (position or 0)), "--store", store.location]
        ),
    }
    return Page("item.html", f"item {item} · {view.path}", data)


def item_range(view: SetView, item: int) -> tuple[int, int]:
    """First sample of an item and the one after its last, of those that are there."""
    size, n_samples = view.reader.item_index.item_size, view.reader.shape[0]
    first, last = (size * item, size * (item + 1)) if size is not None else view.reader.item_index.pointers()[item:][:2]
    return min(int(first), n_samples), min(int(last), n_samples)


def _strongest(rows: Any) -> tuple[Array, Array, Array]:
    """Each active feature of some rows, its strongest activation, and the row of that."""
    at = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((-rows.data, rows.indices))
    features, first = np.unique(rows.indices[order], return_index=True)
    return features, rows.data[order][first], at[order][first]


def _cell(view: SetView, name: str, row: int) -> Any:
    value = view.reader.items.column(name, np.array([row]))[0]
    return None if value is np.ma.masked else value.item() if isinstance(value, np.generic) else value


def _of_item(
    store: StoreView, view: SetView, item: int, *, feature: int | None, position: int | None, concept: str
) -> dict[str, Any]:
    """The item as an example: with the activations of a feature, or without any."""
    start, stop = item_range(view, item)
    if start == stop:
        raise NotFoundError(f"item {item} has no sample yet: the set is being built.", code="no-samples")
    at = np.array([start + (position or 0)])
    chosen = TopSamples(np.zeros(1, np.int64), at, np.array([item]), at - start, np.zeros(1))
    (example,) = describe(store, view, feature or 0, chosen, concept=concept, context=_MOST_TOKENS)
    example["position"] = position
    if example.get("image", {}).get("url"):
        example["image"]["url"] = store.links.image(view.path, item, 1280)
    if feature is None:
        example["heat"], example["activation"] = [], None
    else:
        example["activation"] = max((value for _, value in example["heat"]), default=0.0)
    for token in example.get("tokens", ()):
        token["activation"] = token["activation"] if feature is not None else 0.0
        if token["position"] is not None:
            token["url"] = store.links.page(view.path, "items", item, position=token["position"], feature=feature)
    return example
