"""A card of a feature: one self-contained HTML page of all that a set knows about it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saestore.analysis.card_style import PAGE, STYLE
from saestore.analysis.directions import decoder_of, logits, neighbours
from saestore.analysis.examples import ExampleTable, companions, examples
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError, check_at_least
from saestore.plot.images import ImageView, is_image, read_image
from saestore.plot.style import NEGATIVE, POSITIVE, Row, named, number, opacity, percent, rows_of
from saestore.plot.tokens import Paint
from saestore.query import html
from saestore.query.details import feature_names
from saestore.query.html import escape, escape_control
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import one_list
from saestore.query.reader import Level, SetReader, one_feature
from saestore.query.results import Histogram, TopSamples
from saestore.scoring.concept_scores import concept_scores, score_intervals
from saestore.storage import save_file

Array = np.ndarray[Any, Any]

_LISTED = 8  # rows of a table of features, concepts or tokens
_PIXELS = 224  # of the longer side of an image
_DRAWS = 200  # of the bootstrap, for intervals


@dataclass(frozen=True)
class Card:
    """A page about one feature: a notebook shows it, and `save` writes it to a file.

    Attributes
    ----------
    title
        Feature and set.
    html
        The page without head; every text is escaped, and nothing is loaded from elsewhere.
    """

    title: str
    html: str

    def __repr__(self) -> str:
        return escape_control(f"<card of {self.title}; save(path) writes the page>")

    def _repr_html_(self) -> str:
        return f'<style>{STYLE}</style>\n<div class="saestore-card">{self.html}</div>'

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page as one HTML file that needs nothing else, and return its path."""
        page = PAGE.format(title=escape(self.title), body=self._repr_html_())
        return save_file(path, page.encode("utf-8", "xmlcharrefreplace"))


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
    Concepts are chosen on the split ``cal`` (else ``train``) and measured on ``test``, with 95 % intervals of 200
    resamples; where there are no such splits, on all samples, and the card states it. Memory: the feature's list and
    what `examples`, `similar` and `concepts.scores` of one feature take.
    """
    feature = one_feature(acts, feature, "card")
    check_at_least("n", n, 0)
    if unembedding is not None and sae is None:
        raise InvalidInputError("card(unembedding=…) needs the SAE, too: give sae=.", code="missing-argument")
    decoder = None if sae is None else decoder_of(acts, sae)
    table = examples(acts, feature, quantiles=quantiles, n=n, random=n, near_misses=n, context=context,
                     level=level, where=where, seed=seed)  # fmt: skip
    parts = [
        heading(acts, feature),
        _grid([statistics(acts, feature, where), _histogram(acts, feature, where), concepts(acts, feature)]),
        example_groups(acts, feature, table, context, images),
        _grid([
            _features(acts, "Companions", "P(active | feature active) - P(active)", *_companions(acts, feature, seed)),
            _similar(acts, feature),
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


def _histogram(acts: SetReader, feature: int, where: Any) -> str:
    table = acts.histogram(feature, 40, where=where)
    return _section("Histogram", histogram_svg(table)) if table.count.sum() else ""


def histogram_svg(table: Histogram) -> str:
    """Counts as bars, on a logarithmic scale where they differ by more than a factor of 30."""
    counts, width = table.count.astype(float), 400 / len(table.count)
    uneven = counts.max() > 30 * counts[counts > 0].min()
    heights = np.log1p(counts) if uneven else counts
    heights = heights * (100 / heights.max())
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{100 - h:.2f}" width="{0.9 * width:.2f}" height="{h:.2f}" '
        f'fill="{POSITIVE if right > 0 else NEGATIVE}">'
        f"<title>{number(left)} to {number(right)}: {c:,.0f}</title></rect>"
        for i, (h, c, left, right) in enumerate(zip(heights, counts, table.left, table.right, strict=True))
        if c
    )
    scale = "samples, logarithmic" if uneven else "samples"
    return (
        f'<svg viewBox="0 0 400 100" preserveAspectRatio="none" class=bars role="img">{bars}</svg>'
        f"<div class=axis><span>{number(float(table.left[0]))}</span><span>activation; {scale}, up to "
        f"{int(counts.max()):,}</span><span>{number(float(table.right[-1]))}</span></div>"
    )


def concepts(acts: SetReader, feature: int) -> str:
    """The concepts that a feature detects best, chosen on one split and measured on another."""
    chosen_on, report_on = _splits(acts)
    rows: list[list[str]] = []
    levels: tuple[Level, ...] = ("item", "sample")
    for level in levels:
        names = acts.concept_names(level)
        if not names:
            continue
        f1 = concept_scores(acts, level, where=chosen_on, features=[feature])["f1"].to_numpy()[:, 0]
        order = [i for i in np.argsort(-np.nan_to_num(f1, nan=-1), kind="stable")[:_LISTED] if f1[i] > 0]
        if not order:
            continue
        pairs, on = [(names[i], feature) for i in order], {"choose_on": chosen_on, "report_on": report_on}
        found = score_intervals(acts, pairs, level, n_resamples=_DRAWS, **on)
        for i, one in enumerate(order):
            values = {name: float(found[name][i]) for name in ("roc_auc", "roc_auc_low", "roc_auc_high", "f1")}
            rows.append([names[one], level, f"{f1[one]:.2f}", _interval(values), f"{int(found['n_positive'][i]):,}"])
    if not rows:
        return ""
    same = report_on is None
    head = ["concept", "of", "F1 chosen" if same else f"F1 on {chosen_on['split']}",
            "ROC AUC" if same else "ROC AUC on test", "positives"]  # fmt: skip
    note = "Chosen and measured on the same samples." if same else ""
    return _section("Concepts", html.table(head, rows, left=(0, 1)) + (f"<p class=note>{note}</p>" if note else ""))


def _interval(values: dict[str, float]) -> str:
    if np.isnan(values["roc_auc"]):
        return "-"
    return f"{values['roc_auc']:.2f} [{values['roc_auc_low']:.2f}, {values['roc_auc_high']:.2f}]"


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
    try:
        view = ImageView.of(acts, None)
    except InvalidInputError:
        view = ImageView(None, assumed=False)
    return lambda i: _image(acts, rows[i], view, strongest, images)


def _window(table: ExampleTable, i: int, strongest: float) -> str:
    """Bars of the activations of a window."""
    values = np.asarray(table.activations[i], float)
    own = int(table.sample[i] - table.start[i])
    heights = 100 * np.abs(values) / (strongest or 1.0)
    bars = "".join(
        f'<rect x="{10 * k}" y="{100 - h:.1f}" width="9" height="{h:.1f}" fill="{POSITIVE if v > 0 else NEGATIVE}" '
        f'opacity="{1 if k == own else 0.5}"><title>{v:.6g}</title></rect>'
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
    overlay = "" if view.patches is None else _heat_map(row, view.patches.grid, strongest, place)
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


def _companions(acts: SetReader, feature: int, seed: int) -> tuple[Array, Array]:
    lists = one_list(acts.segments, feature, acts.dtype)
    return companions(acts, lists, None, seed, _LISTED)[0] if len(lists.data) else (np.empty(0, np.int64), np.empty(0))


def _similar(acts: SetReader, feature: int) -> str:
    found = acts.similar(feature, _LISTED)
    return _features(acts, "Similar features", "Jaccard", found.feature, found.score)


def _features(acts: SetReader, title: str, measure: str, features: Array, values: Array) -> str:
    known = feature_names(acts, features)
    names = [""] * len(features) if known is None else [name or "" for name in known.tolist()]
    with_names = any(names)
    rows = [
        [str(f), *([name] if with_names else []), f"{v:.3f}"]
        for f, name, v in zip(features.tolist(), names, values.tolist(), strict=True)
    ]
    head = ["feature", *(["name"] if with_names else []), measure]
    return _section(title, html.table(head, rows, left=(1,) if with_names else ())) if rows else ""


def _logits(decoder: Array, feature: int, unembedding: Any) -> str:
    tokens, effects, _ = logits(decoder, feature, unembedding, _LISTED)
    half = len(tokens) // 2
    rows = [
        [repr(str(tokens[i])), f"{effects[i]:+.3f}", repr(str(tokens[-1 - i])), f"{effects[-1 - i]:+.3f}"]
        for i in range(half)
    ]
    return _section("Logits", html.table(["raises", "", "lowers", ""], rows, left=(0, 2)))


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _grid(sections: Iterable[str]) -> str:
    inside = "".join(filter(None, sections))
    return f"<div class=grid>{inside}</div>" if inside else ""
