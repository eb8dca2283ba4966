"""Images of items as thumbnails, and pictures as SVG: heat maps, outlines, histograms, shaded tokens.

Every style is a class or an attribute, never a ``style=``, because the pages allow no inline styles. Everything that
comes from a store is escaped.
"""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from saestore.errors import InvalidInputError, require
from saestore.errors import escape as visible
from saestore.files import image_errors
from saestore.plot.style import number, opacity, percent
from saestore.sparse_rows import Array
from saestore.web.request import Links

SIZES = (160, 320, 640, 1280)  # pixels of the longer side of a thumbnail
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_MOST_PIXELS = 1 << 26  # of an image that is decoded: 64 million
_MOST_BYTES = 1 << 27  # of its file
_CACHED = 32 << 20  # bytes of thumbnails that are remembered
_SHADES = 20  # classes h1 to h20 of the style sheet
_WIDE, _HIGH = 640, 90  # units of a chart
_HEAT = '<path class="heat%s" fill-opacity="%s" d="%s"/>'


class Thumbnails:
    """Decodes images of a bounded size and encodes them again, so that no byte of a file goes out as it is."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._cached: OrderedDict[tuple[str, int, int, int, bool], bytes] = OrderedDict()

    def shape(self, path: Path, *, turned: bool = True) -> tuple[int, int]:
        """Width and height in pixels, as it is shown; only the head of the file is read."""
        stat = path.stat()
        return _shape(path, turned, stat.st_mtime_ns, stat.st_size)

    def jpeg(self, path: Path, size: int, *, turned: bool = True) -> bytes:
        """The image as a JPEG whose longer side has at most `size` pixels; of at most 64 million pixels, 128 MiB."""
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size, size, turned)
        with self._lock:
            if key in self._cached:
                self._cached.move_to_end(key)
                return self._cached[key]
        body = _encoded(path, size, turned=turned)
        with self._lock:
            self._cached[key] = body
            while sum(map(len, self._cached.values())) > _CACHED:
                self._cached.popitem(last=False)
        return body


@lru_cache(1 << 16)
def _shape(path: Path, turned: bool, *_: int) -> tuple[int, int]:
    with _opened(path) as image:
        wide, high = image.size
        swapped = turned and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (high, wide) if swapped else (wide, high)


def _opened(path: Path) -> Any:
    Image = require("PIL.Image", "web", "images")
    if path.stat().st_size > _MOST_BYTES:
        raise InvalidInputError(f"{path.name} is larger than 128 MiB; it is not shown.", code="image-too-large")
    try:
        image = Image.open(path, formats=_FORMATS)
    except image_errors() as error:
        raise _unreadable(path, error) from error
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        message = f"{path.name} has {image.width:,} x {image.height:,} pixels; at most 64 million are decoded."
        raise InvalidInputError(message, code="image-too-large")
    return image


def _encoded(path: Path, size: int, *, turned: bool) -> bytes:
    from PIL import ImageOps

    with _opened(path) as image:
        try:
            image.draft("RGB", (size, size))  # a JPEG is decoded no finer than needed
            small = (ImageOps.exif_transpose(image) if turned else image).convert("RGB")
            small.thumbnail((size, size))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=85)
        except image_errors() as error:
            raise _unreadable(path, error) from error
    return out.getvalue()


def _unreadable(path: Path, error: Exception) -> InvalidInputError:
    reason = " ".join(str(error).replace(str(path), path.name).split())[:120]
    return InvalidInputError(f"{path.name} cannot be read as an image: {reason}", code="unreadable-image")


def image(example: Mapping[str, Any], strongest: float, links: Mapping[int, str | None] | None = None) -> Markup:
    """An image with the tints of its patches, a frame around the strongest, and the outline of a concept's mask.

    `example` is as in the JSON twin; the magnitude `strongest` gets the darkest tint; `links` are addresses of patches.
    """
    picture = example["image"]
    wide, high = 320.0, 320.0 * picture["height"] / picture["width"]
    value = "" if example.get("activation") is None else f", activation {number(example['activation'])}"
    head = Markup('<svg class="picture" viewBox="0 0 {:.0f} {:.1f}" role="{}" aria-label="{}">').format(
        wide, high, "group" if links else "img", visible(f"{example['key']}: item {example['item']}{value}")
    )
    if picture["url"] is None:
        key = visible(str(example["key"]), one_line=True)
        body = Markup('<rect class="gone" width="{:.0f}" height="{:.1f}"/><text x="12" y="28">{}</text>').format(
            wide, high, f"no image: {key if len(key) <= 34 else '…' + key[-33:]}"
        )
        return head + body + Markup("</svg>")
    parts = [head, Markup('<image href="{}" width="{:.0f}" height="{:.1f}"/>').format(picture["url"], wide, high)]
    if picture["grid"] is not None:
        parts += _patches(example, picture, (wide, high), strongest, links or {})
    return Markup("").join([*parts, Markup("</svg>")])


def _patches(
    example: Mapping[str, Any],
    picture: Mapping[str, Any],
    size: tuple[float, float],
    strongest: float,
    links: Mapping[int, str | None],
) -> list[Markup]:
    """Tints, veils, mask and frame of a grid of patches."""
    (rows, columns), (left, top, right, bottom) = picture["grid"], picture["box"]
    down = np.round(np.linspace(top, bottom, rows + 1) * size[1], 1).tolist()
    across = np.round(np.linspace(left, right, columns + 1) * size[0], 1).tolist()

    def square(position: int) -> str:
        r, c = divmod(position, columns)
        return f"M{across[c]:g} {down[r]:g}H{across[c + 1]:g}V{down[r + 1]:g}H{across[c]:g}z"

    parts = [_veil((left, top, right, bottom), size), *_tints(example["heat"], strongest, square)]
    path = Markup('<path class="{}" d="{}"/>')
    if example.get("mask"):
        parts.append(path.format("mask", _outline(example["mask"], rows, columns, down, across)))
    if example["position"] is not None:
        parts += [path.format(name, square(example["position"])) for name in ("frame dark", "frame")]
    values = dict(example["heat"])
    for position, address in links.items():
        if address:
            what = f"patch {position}" + (f": {number(values[position])}" if position in values else "")
            drawn = Markup(
                '<a href="{0}" tabindex="-1" aria-label="{1}"><path class="patch" d="{2}"><title>{1}</title></path></a>'
            )
            parts.append(drawn.format(address, what, square(position)))
    return parts


def _tints(heat: Sequence[Sequence[float]], strongest: float, square: Callable[[int], str]) -> list[Markup]:
    """Patches of one shade are one path, so that a page of many is small."""
    shades: dict[tuple[bool, int], list[str]] = {}
    shade_of = np.round(50 * opacity(np.array([value for _, value in heat]), strongest)).astype(int).tolist()
    for (position, value), shade in zip(heat, shade_of, strict=True):
        shades.setdefault((value < 0, 2 * shade), []).append(square(int(position)))
    return [
        Markup(_HEAT % (" cold" * cold, shade / 100, "".join(of)))  # noqa: S704 - numbers
        for (cold, shade), of in shades.items()
    ]


def _veil(box: Sequence[float], size: tuple[float, float]) -> Markup:
    """What the model did not see, pale."""
    left, top, right, bottom = box
    sides = [(0, 0, left, 1), (right, 0, 1, 1), (left, 0, right, top), (left, bottom, right, 1)]
    drawn = Markup('<rect class="veil" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>')
    return Markup("").join(
        drawn.format(a * size[0], b * size[1], (c - a) * size[0], (d - b) * size[1])
        for a, b, c, d in sides
        if c - a > 1e-6 and d - b > 1e-6
    )


def _outline(mask: Sequence[int], rows: int, columns: int, down: Sequence[float], across: Sequence[float]) -> str:
    """The border between patches inside and outside of a mask, as the path of an SVG."""
    inside = np.zeros((rows + 2, columns + 2), bool)
    inside[1:-1, 1:-1].flat[list(mask)] = True
    steps = []
    for r, c in zip(*np.nonzero(inside[:-1, 1:-1] != inside[1:, 1:-1]), strict=True):
        steps.append(f"M{across[c]:g} {down[r]:g}H{across[c + 1]:g}")
    for r, c in zip(*np.nonzero(inside[1:-1, :-1] != inside[1:-1, 1:]), strict=True):
        steps.append(f"M{across[c]:g} {down[r]:g}V{down[r + 1]:g}")
    return "".join(steps)


def tokens(example: Mapping[str, Any], strongest: float) -> Markup:
    """A text, its tokens shaded by their activations, which show when one points at them."""
    parts = []
    for token in example["tokens"]:
        value, text = token["activation"], visible(str(token["text"]))
        if token["position"] is None:
            parts.append(Markup("{}").format(text))
            continue
        classes = ["token"]
        if value:
            shade = max(1, round(min(1.0, abs(value) / strongest if strongest else 0) * _SHADES))
            classes += [f"h{shade}", *(["cold"] if value < 0 else [])]
        classes += ["strong"] if token["position"] == example["position"] else []
        classes += ["in-mask"] if token["position"] in (example.get("mask") or ()) else []
        title = f"token {token['position']}: {number(value)}"
        link = Markup(' href="{}"').format(token["url"]) if token.get("url") else ""
        drawn = Markup('<{0} class="{1}" title="{2}"{3}>{4}</{0}>')
        parts.append(drawn.format("a" if link else "span", " ".join(classes), title, link, text))
    return Markup("").join(parts)


def bars(
    histogram: Mapping[str, Sequence[float]],
    links: Sequence[str | None],
    template: str | None,
    origin: str = "",
    log: bool = False,
) -> Markup:
    """A histogram, its counts on a logarithmic scale; each bar leads to what it counts.

    `template` is the address of a range that is dragged; where `origin` is a range, the bars outside are pale. With
    `log` the values are logarithms to the base of 10 of shares.
    """
    chosen = tuple(map(float, origin[6:].split(","))) if origin.startswith("range:") else ()
    left, right, counts = histogram["left"], histogram["right"], histogram["count"]

    def label(value: float) -> str:
        return percent(10.0**value) if log else number(value)

    if not len(counts) or not max(counts):
        return Markup('<p class="quiet">nothing to count</p>')
    low, high = left[0], right[-1]
    span, tallest = (high - low) or 1.0, np.log1p(max(counts))
    parts = [
        Markup(
            '<svg class="chart" viewBox="0 -4 {} {}" preserveAspectRatio="none" role="group"'
            ' aria-label="histogram, counts on a logarithmic scale"'
            ' data-low="{}" data-high="{}" data-template="{}"{}>'
        ).format(_WIDE, _HIGH + 6, float(low), float(high), template or "", Markup(" data-log") if log else "")
    ]
    for a, b, count, address in zip(left, right, counts, links, strict=True):
        tall = _HIGH * float(np.log1p(count)) / tallest
        x, wide = _WIDE * (a - low) / span, max(1.0, _WIDE * (b - a) / span - 1)
        title = f"{label(a)} to {label(b)}: {int(count):,}"
        off = " off" if chosen and (b < min(chosen) or a > max(chosen)) else ""
        drawn = (
            f'<rect class="bar{off}" x="{x:.1f}" y="{_HIGH - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}">'
            f"<title>{title}</title></rect>"
        )
        if address and count:
            drawn = f'<a href="{escape(address)}" aria-label="{title}">{drawn}</a>'
        parts.append(Markup(drawn))  # noqa: S704 - numbers, and an address that is escaped
    parts.append(Markup('<line class="axis" x1="0" y1="{0}" x2="{1}" y2="{0}"/></svg>').format(_HIGH, _WIDE))
    ends = Markup('<p class="axis-labels"><span>{}</span><span>highest bar {:,}, logarithmic</span><span>{}</span></p>')
    return Markup("").join([*parts, ends.format(label(low), int(max(counts)), label(low + span))])


def scatter(points: Mapping[str, Array], links: Links, path: str) -> Markup:
    """Features by their firing rates in two sets, over logarithmic axes, with links to the set at `path`."""
    if not len(points["feature"]):
        return Markup('<p class="quiet">nothing to show</p>')
    least = min(float(points["across"].min()), float(points["down"].min()))
    decades = max(1, -math.floor(math.log10(least)))
    head = Markup(
        '<svg class="chart square" viewBox="-50 -6 386 350" role="group" aria-label="firing rates of {} features">'
    )
    parts = [head.format(len(points["feature"]))]
    grid = Markup(
        '<path class="axis" d="M0 {0:.1f}H320M{1:.1f} 0V320"/><text x="-6" y="{2:.1f}" text-anchor="end">{3}</text>'
        '<text x="{1:.1f}" y="338" text-anchor="middle">{3}</text>'
    )
    for power in range(decades + 1):
        at = 320 * power / decades
        parts.append(grid.format(320 - at, at, 324 - at, percent(10.0 ** (power - decades))))
    parts.append(Markup('<line class="axis" x1="0" y1="320" x2="320" y2="0"/>'))
    x, y = (320 * (1 + np.log10(points[name]) / decades) for name in ("across", "down"))
    dot = Markup(
        '<a href="{}" tabindex="-1" aria-label="{}"><circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title>'
        "</circle></a>"
    )
    for a, b, feature in zip(x.tolist(), y.tolist(), points["feature"].tolist(), strict=True):
        name = f"feature {feature}"
        parts.append(dot.format(links.page(path, "features", feature), name, a, 320 - b, name))
    return Markup("").join([*parts, Markup("</svg>")])
