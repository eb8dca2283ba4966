"""A card of a feature: one self-contained HTML page of all that a set knows about it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saestore.analysis.directions import decoder_of, logits, neighbours
from saestore.analysis.examples import ExampleTable, companions, examples
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError, check_at_least
from saestore.plot.images import ImageView, images_folder, is_image, read_image
from saestore.plot.style import NEGATIVE, POSITIVE, HtmlPage, Row, named, number, opacity, percent, rows_of
from saestore.plot.tokens import Paint
from saestore.query import html
from saestore.query.details import feature_names
from saestore.query.html import escape
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import one_list
from saestore.query.reader import Level, SetReader
from saestore.query.results import Histogram, TopSamples
from saestore.query.where import one_feature
from saestore.scoring.feature_scores import FeatureScorer

Array = np.ndarray[Any, Any]

_LISTED = 8  # rows of a table of features, concepts or tokens
_PIXELS = 224  # of the longer side of an image


class Card(HtmlPage):
    """A page about one feature: a notebook shows it, and `save` writes it to a file."""

    _what = "card"

    def _repr_html_(self) -> str:
        return f'<style>{_STYLE}</style>\n<div class="saestore-card">{self.html}</div>'


@retry_on_stale_snapshot
def card(
    acts: SetReader,
    feature: Any,
    *,
    quantiles: int = 5,
    n: int = 5,
    context: int = 16,
    level: Level = "item",
    where: Any = None,
    images: str | os.PathLike[str] | None = None,
    sae: Any = None,
    unembedding: Any = None,
    seed: int = 0,
) -> Card:
    """A page about a feature: name, statistics, histogram, examples, concepts, companions, and similar features.

    Parameters
    ----------
    feature
        One feature, or a condition that one fulfils.
    quantiles, n, context, level, where, seed
        As for `examples`; `where` holds for statistics, histogram and examples.
    images
        Folder in which the keys of images start, as in `Plots.top`. Where an image is not there, only its patches are
        drawn.
    sae
        The SAE of the set in any form that `saestore.build` takes, or its decoder, an array (n_features, d_in): also
        show the features whose decoder directions are nearest.
    unembedding
        ``(matrix, tokens)``, d_in x vocabulary: also show the tokens whose logits the feature raises and lowers most.

    Returns
    -------
    Card
        A notebook shows it; ``.save("1884.html")`` writes a page that follows the reader's light or dark mode.

    Notes
    -----
    Concepts are chosen on the split ``cal`` (else ``train``) and measured on ``test``, with 95 % intervals over items,
    as in the explorer; where there are no such splits, on all samples, and the card states it. Memory: the feature's
    list, and what `examples`, `similar` and `concepts.scores` of one feature take.
    """
    feature = one_feature(acts, feature, "card")
    check_at_least("n", n, 0)
    if images is not None:
        images_folder(images)
    if unembedding is not None and sae is None:
        raise InvalidInputError("card(unembedding=…) needs the SAE, too: give sae=.", code="missing-argument")
    decoder = None if sae is None else decoder_of(acts, sae)
    table = examples(acts, feature, quantiles=quantiles, n=n, random=n, near_misses=n, context=context,
                     level=level, where=where, seed=seed)  # fmt: skip
    (near,) = companions(acts, one_list(acts.segments, feature, acts.dtype), None, seed, _LISTED)
    similar, counts = acts.similar(feature, _LISTED), acts.histogram(feature, 40, where=where)
    histogram = _section("Histogram", histogram_svg(counts)) if counts.count.sum() else ""
    parts = [
        heading(acts, feature),
        _grid([statistics(acts, feature, where), histogram, concepts(acts, feature)]),
        example_groups(acts, feature, table, context, images),
        _grid([
            _features(acts, "Companions", "P(active | feature active) - P(active)", *near),
            _features(acts, "Similar features", "Jaccard", similar.feature, similar.score),
            "" if decoder is None else
            _features(acts, "Decoder neighbours", "cosine", *neighbours(decoder, feature, _LISTED)),
            "" if unembedding is None or decoder is None else _logits(decoder, feature, unembedding),
        ]),
    ]  # fmt: skip
    return Card(named(acts, feature), "\n".join(filter(None, parts)))


def heading(acts: SetReader, feature: int) -> str:
    """Name, set, note and explanation of a feature."""
    known = {
        name: acts.features.column(name, [feature])
        for name in ("name", "note", "explanation")
        if name in acts.features.names()
    }
    texts = {name: str(values[0]) for name, values in known.items() if values[0] is not np.ma.masked and values[0]}
    name = f" <em>{escape(texts['name'])}</em>" if "name" in texts else ""
    lines = "".join(f"<p>{escape(texts[key])}</p>" for key in ("note", "explanation") if key in texts)
    # The widget of `acts.explore()` follows this link; a saved page hides it.
    link = f'<a class=explore href="#saestore:/{escape(acts.path)}/features/{feature}">show in acts.explore()</a>'
    return f"<h1>Feature {feature}{name}</h1><p class=path>{escape(acts.path)} {link}</p>{lines}"


def statistics(acts: SetReader, feature: int, where: Any) -> str:
    """Statistics of a feature, as a table."""
    stats = acts.stats(feature, where=where)
    n, active = stats.attrs["n_samples"], int(stats["n_active"].item())
    values = {
        "samples" if where is None else "samples selected": f"{n:,}",
        "active on": f"{active:,} ({percent(active / n) if n else '-'})",
    }
    if active:
        median = float(acts.quantile(0.5, feature, active_only=True, where=where).item())
        values |= {
            "largest": number(float(stats["max"].item())),
            "median where active": number(median),
            "mean where active": number(float(stats["mean_active"].item())),
            "standard deviation": number(float(stats["std"].item())),
        }
    return _section("Activations", html.pairs(values))


def histogram_svg(table: Histogram) -> str:
    """Counts as bars, on a logarithmic scale where they differ by more than a factor of 30."""
    counts, width = table.count.astype(float), 400 / len(table.count)
    uneven = counts.max() > 30 * counts[counts > 0].min()
    heights = np.log1p(counts) if uneven else counts
    heights = heights * (100 / heights.max())
    bars = "".join(
        _bar(i * width, 0.9 * width, h, right, f"{number(left)} to {number(right)}: {c:,.0f}")
        for i, (h, c, left, right) in enumerate(zip(heights, counts, table.left, table.right, strict=True))
        if c
    )
    scale = "samples, logarithmic" if uneven else "samples"
    return (
        f'<svg viewBox="0 0 400 100" preserveAspectRatio="none" class=bars role="img">{bars}</svg>'
        f"<div class=axis><span>{number(float(table.left[0]))}</span><span>activation; {scale}, up to "
        f"{int(counts.max()):,}</span><span>{number(float(table.right[-1]))}</span></div>"
    )


def _bar(x: float, wide: float, high: float, value: float, title: str, *, shade: float = 1) -> str:
    return (
        f'<rect x="{x:.2f}" y="{100 - high:.2f}" width="{wide:.2f}" height="{high:.2f}" opacity="{shade}" '
        f'fill="{POSITIVE if value > 0 else NEGATIVE}"><title>{title}</title></rect>'
    )


def concepts(acts: SetReader, feature: int) -> str:
    """The concepts that a feature detects best, chosen on one split and measured on another."""
    chosen_on, report_on = _splits(acts)
    rows: list[list[str]] = []
    levels: tuple[Level, ...] = ("item", "sample")
    for level in (level for level in levels if acts.concept_names(level)):
        scorer = FeatureScorer(acts, level, chosen_on)
        f1 = scorer.scores(scorer.lists(feature))["f1"]
        order = [i for i in np.argsort(-np.nan_to_num(f1, nan=-1), kind="stable")[:_LISTED] if f1[i] > 0]
        if not order:
            continue
        if report_on is not None:
            scorer = FeatureScorer(acts, level, report_on)
        lists = scorer.lists(feature)
        auc = scorer.scores(lists)["roc_auc"]
        for i in order:
            low, high = scorer.interval(lists, i)
            measured = "-" if np.isnan(auc[i]) else f"{auc[i]:.2f} [{low:.2f}, {high:.2f}]"
            positives = f"{int(scorer.observations.n_positive[i]):,}"
            rows.append([scorer.names[i], level, f"{f1[i]:.2f}", measured, positives])
    if not rows:
        return ""
    same = report_on is None
    head = ["concept", "of", "F1 chosen" if same else f"F1 on {chosen_on['split']}",
            "ROC AUC" if same else "ROC AUC on test", "positives"]  # fmt: skip
    note = "<p class=note>Chosen and measured on the same samples.</p>" if same else ""
    return _section("Concepts", html.table(head, rows, left=(0, 1)) + note)


def _splits(acts: SetReader) -> tuple[Any, Any]:
    """Conditions of the split to choose on and of the split to measure on; None for both where there are none."""
    known = set(np.ma.filled(acts.items["split"], "").tolist()) if "split" in acts.items.names() else set()
    chosen = next((name for name in ("cal", "train") if name in known), None)
    return ({"split": chosen}, {"split": "test"}) if chosen and "test" in known else (None, None)


def example_groups(
    acts: SetReader, feature: int, table: ExampleTable, context: int, images: str | os.PathLike[str] | None = None
) -> str:
    """Examples by kind, as shaded tokens, images with heat maps, or bars of the window."""
    if not len(table):
        return ""
    top = TopSamples(table.feature, table.sample, table.item, table.position, table.activation)
    rows = rows_of(acts, feature, top)
    draw = _drawer(acts, table, rows, context, images)
    groups: dict[str, list[int]] = {}
    for i, (kind, q) in enumerate(zip(table.kind.tolist(), table.quantile.tolist(), strict=True)):
        title = _TITLES[kind] if q < 0 else f"Quantile {q + 1} of {int(table.quantile.max()) + 1}"
        groups.setdefault(title, []).append(i)
    parts = []
    for title, members in groups.items():
        values = table.activation[members]
        span = f" <small>{number(float(values.max()))} to {number(float(values.min()))}</small>" if values.any() else ""
        cells = "".join(f"<figure>{draw(i)}{_caption(rows[i])}</figure>" for i in members)
        kind = "texts" if table.text[0] is not None else "images"
        parts.append(f"<h3>{title}{span}</h3><div class={kind}>{cells}</div>")
    return _section("Examples", "".join(parts))


_TITLES = {
    "top": "Strongest",
    "random": "Active, at random",
    "silent": "Silent, at random",
    "near-miss": "Near misses: companions active, the feature silent",
}


def _caption(row: Row) -> str:
    name = Path(row.key).stem if is_image(row.key) else f"item {row.item}"
    split = f" · {escape(row.split)}" if row.split else ""
    return f"<figcaption><b>{number(row.strongest)}</b> {escape(name)}{split}</figcaption>"


def _drawer(
    acts: SetReader, table: ExampleTable, rows: Sequence[Row], context: int, images: str | os.PathLike[str] | None
) -> Callable[[int], str]:
    """A function from the number of a row to its HTML."""
    strongest = max(float(np.abs(row.activations).max(initial=0)) for row in rows)
    if table.text[0] is not None:
        paint = Paint(strongest or 1.0, context)
        lengths = [len(row.activations) for row in rows]
        spans = acts.spans(np.concatenate([row.start + np.arange(k) for row, k in zip(rows, lengths, strict=True)]))
        if spans is None:
            return lambda i: f"<p dir=auto>{paint.unshaded(str(table.text[i]))}</p>"
        parts = np.split(spans, np.cumsum(lengths)[:-1])
        return lambda i: f"<p dir=auto>{paint.text(rows[i], str(table.text[i]), parts[i])}</p>"
    if not is_image(rows[0].key):
        return lambda i: _window(table, i, strongest)
    view = ImageView.of_any(acts)
    return lambda i: _image(acts, rows[i], view, strongest, images)


def _window(table: ExampleTable, i: int, strongest: float) -> str:
    """Bars of the activations of a window."""
    values = np.asarray(table.activations[i], float)
    own = int(table.sample[i] - table.start[i])
    heights = 100 * np.abs(values) / (strongest or 1.0)
    bars = "".join(
        _bar(10 * k, 9, h, v, f"{v:.6g}", shade=1 if k == own else 0.5)
        for k, (h, v) in enumerate(zip(heights, values, strict=True))
        if v
    )
    return f'<svg viewBox="0 0 {10 * len(values)} 100" preserveAspectRatio="none" class=window>{bars}</svg>'


def _image(acts: SetReader, row: Row, view: ImageView, strongest: float, images: str | os.PathLike[str] | None) -> str:
    """An image with its active patches tinted and the patch of the row framed; only the patches without a file."""
    try:
        pixels = read_image(acts, row.key, images)
    except (NotFoundError, InvalidInputError, MissingDependencyError):
        pixels = None
    picture, box = "", (0.0, 0.0, 1.0, 1.0)
    if pixels is not None:
        visible = view.box(pixels.shape[1], pixels.shape[0])
        box = visible.left, visible.top, visible.right - visible.left, visible.bottom - visible.top
        picture = f'<img src="{_data_url(pixels)}" alt="{escape(row.key)}">'
    place = "left:{:.2%};top:{:.2%};width:{:.2%};height:{:.2%}".format(*box)
    overlay = "" if view.patches is None else _heat_map(row, view.patches.at(row.item).grid, strongest, place)
    return f'<div class="image{"" if picture else " missing"}">{picture}{overlay}</div>'


def _heat_map(row: Row, grid: tuple[int, int], strongest: float, place: str) -> str:
    n_rows, n_columns = grid
    shades = opacity(row.activations, strongest or 1.0)
    rects = "".join(
        f'<rect x="{k % n_columns}" y="{k // n_columns}" width="1" height="1" opacity="{shades[k]:.3f}" '
        f'fill="{POSITIVE if row.activations[k] > 0 else NEGATIVE}"><title>{row.activations[k]:.6g}</title></rect>'
        for k in np.flatnonzero(row.activations).tolist()
    )
    r, c = divmod(row.position, n_columns)
    frame = "".join(f'<rect x="{c}" y="{r}" width="1" height="1" class="frame {shade}"/>' for shade in ("dark", "pale"))
    return f'<svg style="{place}" viewBox="0 0 {n_columns} {n_rows}" preserveAspectRatio="none">{rects}{frame}</svg>'


def _data_url(pixels: Array) -> str:
    from PIL import Image

    image, out = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((_PIXELS, _PIXELS))
    image.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _features(acts: SetReader, title: str, measure: str, features: Array, values: Array) -> str:
    known = feature_names(acts, features)
    columns = {"feature": list(map(str, features.tolist())), measure: [f"{v:.3f}" for v in values.tolist()]}
    if known is not None and any(known):
        columns = {"feature": columns["feature"], "name": [name or "" for name in known], measure: columns[measure]}
    rows = list(zip(*columns.values(), strict=True))
    return _section(title, html.table(list(columns), rows, left=[1] * (len(columns) > 2))) if rows else ""


def _logits(decoder: Array, feature: int, unembedding: Any) -> str:
    tokens, effects, _ = logits(decoder, feature, unembedding, _LISTED)
    cells = [[repr(str(token)), f"{effect:+.3f}"] for token, effect in zip(tokens, effects, strict=True)]
    rows = [cells[i] + cells[-1 - i] for i in range(len(cells) // 2)]
    return _section("Logits", html.table(["raises", "", "lowers", ""], rows, left=(0, 2)))


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _grid(sections: Iterable[str]) -> str:
    inside = "".join(filter(None, sections))
    return f"<div class=grid>{inside}</div>" if inside else ""


# Light or dark as the reader prefers, from 400 pixels of width.
_STYLE = """
.saestore-card { --ink: #1d2021; --soft: #5b6063; --line: #d9dcde; --ground: #fff; --field: #f4f5f6;
  color: var(--ink); background: var(--ground); font: 15px/1.5 system-ui, sans-serif; max-width: 1500px;
  margin: 0 auto; padding: 16px; box-sizing: border-box; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) {
  .saestore-card { --ink: #e4e6e7; --soft: #a1a7ab; --line: #3a3f42; --ground: #16191a; --field: #202425 }
  body:has(> .saestore-card) { background: #16191a } }
.saestore-card h1 { font-size: 1.5em; margin: 0 } .saestore-card h1 em { color: var(--soft); font-style: normal }
.saestore-card h2 { font-size: 1.05em; margin: 0 0 .4em } .saestore-card h3 { font-size: .95em; margin: .9em 0 .4em }
.saestore-card small, .saestore-card .path, .saestore-card figcaption, .saestore-card .axis, .saestore-card .note
  { color: var(--soft); font-weight: normal; font-size: .85em } .saestore-card .path { margin: 0 0 .6em }
.saestore-card .explore { color: inherit } body > .saestore-card .explore { display: none }
.saestore-card section { border-top: 1px solid var(--line); padding: .7em 0; min-width: 0 }
.saestore-card .grid
  { display: grid; gap: 0 2em; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
.saestore-card table { border-collapse: collapse; width: 100%; background: none; color: inherit; font-size: .9em }
.saestore-card th, .saestore-card td { border: 0; border-bottom: 1px solid var(--line); padding: .2em .5em .2em 0;
  text-align: right; background: none; color: inherit } .saestore-card th { font-weight: 600 }
.saestore-card th, .saestore-card td + td { overflow-wrap: normal } .saestore-card td:first-child { min-width: 8em }
.saestore-card .bars { width: 100%; height: 120px; display: block; border-bottom: 1px solid var(--soft) }
.saestore-card .axis { display: flex; justify-content: space-between; gap: 1em }
.saestore-card .images
  { display: grid; gap: .7em; grid-template-columns: repeat(auto-fill, minmax(min(46%, 150px), 1fr)) }
.saestore-card .texts { display: grid; gap: .4em .7em;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)) }
.saestore-card figure { margin: 0; min-width: 0 }
.saestore-card .texts figure { background: var(--field); border-radius: 4px; padding: .4em .7em }
.saestore-card .texts p { margin: 0; white-space: pre-wrap }
.saestore-card .image
  { position: relative; overflow: hidden; border-radius: 4px; background: var(--field); line-height: 0 }
.saestore-card .image.missing { aspect-ratio: 1 } .saestore-card .image img { width: 100%; display: block; margin: 0 }
.saestore-card .image svg { position: absolute }
.saestore-card .window { width: 100%; height: 48px; background: var(--field) }
.saestore-card .frame { fill: none; stroke-width: .3; stroke: #000 }
.saestore-card .pale { stroke-width: .12; stroke: #fff }
"""
