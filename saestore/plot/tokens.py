"""Texts as HTML, their tokens shaded by a feature's activation. A browser wraps and shapes every script by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import NotFoundError
from saestore.plot.style import (
    NEGATIVE,
    POSITIVE,
    HtmlPage,
    Row,
    named,
    number,
    opacity,
    rows_of,
    silence,
    summary,
    value_range,
)  # fmt: skip
from saestore.query.html import escape
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.results import TopSamples


_UNKNOWN_TOKEN_LENGTH = 5  # characters a token, where the set does not store which they are
_UNDERLINE = "border-bottom: 2px solid currentcolor"
_CELL = "vertical-align: top; padding: 0.3em 0.8em;"
# Every style stands in the element itself: notebooks and mail programs drop style sheets.
_TEXT = f"{_CELL} text-align: start; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6"


class TokenPage(HtmlPage):
    """A page of texts: a notebook shows it, and `save` writes it to a file; its shades fit light and dark pages."""

    _what = "tokens"
    _style = "font-family: system-ui, sans-serif; max-width: 64em; margin: 2em auto; padding: 0 1em"


def token_page(acts: SetReader, feature: int, top: TopSamples, *, where: Any, context: int) -> TokenPage:
    """Make a page of the texts that the rows of `top` belong to."""
    title = named(acts, feature)
    head = f"<strong>{escape(title)}</strong><br>"
    if not len(top):
        return TokenPage(title, f"<p>{head}{silence(acts, feature)}</p>")
    if "text" not in acts.items.names():
        message = f"The items of {acts.path} have no column 'text'; acts.plot.top shows images."
        raise NotFoundError(message, code="no-texts")
    rows = rows_of(acts, feature, top)
    texts = acts.items.column("text", top.item).tolist()
    spans = acts.spans(np.concatenate([row.start + np.arange(len(row.activations)) for row in rows]))
    low, high = value_range(rows)
    paint = Paint(max(high, -low), context)
    if spans is None:
        cells = [paint.unshaded(text) for text in texts]
        note = "the set does not store which characters a token has"
    else:
        parts = np.split(spans, np.cumsum([len(row.activations) for row in rows])[:-1])
        cells = [paint.text(row, text, part) for row, text, part in zip(rows, texts, parts, strict=True)]
        note = f'<span style="{_UNDERLINE}">underlined</span>: the strongest token; point at a token for its activation'
    body = "".join(_line(row, cell) for row, cell in zip(rows, cells, strict=True))
    return TokenPage(
        title,
        f"<p>{head}{escape(summary(acts, feature, len(rows), 'text', where))}</p>\n"
        f"<table><tbody>\n{body}</tbody></table>\n"
        f"<p>activation {number(low)} {_scale(low, high)} {number(high)}; {note}</p>",
    )


def _line(row: Row, cell: str) -> str:
    item = f"item {row.item}" + (f" · {row.split}" if row.split else "")
    return (
        f'<tr><td style="{_CELL} text-align: right; white-space: nowrap">{number(row.strongest)}<br>'
        f'<small style="opacity: 0.65">{escape(item)}</small></td><td dir="auto" style="{_TEXT}">{cell}</td></tr>\n'
    )


def _scale(low: float, high: float) -> str:
    """A bar with the shades from `low` to `high`."""
    stops = [f"{_rgba(value, max(high, -low))} {100 * (value - low) / (high - low):.0f}%"
             for value in sorted({low, 0.0, high})] if high > low else ["transparent", "transparent"]  # fmt: skip
    bar = f"width: 8em; height: 0.8em; background: linear-gradient(to right, {', '.join(stops)})"
    return f'<span style="display: inline-block; {bar}"></span>'


def _rgba(activation: float, strongest: float) -> str:
    colour = NEGATIVE if activation < 0 else POSITIVE
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {float(opacity(np.asarray(activation), strongest)):.3f})"


@dataclass(frozen=True)
class Paint:
    """Makes HTML of texts."""

    strongest: float  # magnitude that gets the darkest shade
    context: int  # tokens shown on either side of a row's token

    def unshaded(self, text: str) -> str:
        """The start of a text whose tokens are not known."""
        limit = 2 * self.context * _UNKNOWN_TOKEN_LENGTH
        return _shown(text[:limit]) + ("…" if len(text) > limit else "")

    def text(self, row: Row, text: str, spans: Array) -> str:
        """A text around the token of its row; `spans` are the first character and the end of each token, (n, 2)."""
        first, last = max(0, row.position - self.context), row.position + self.context + 1
        spans = np.clip(spans, 0, len(text))
        window = spans[first:last]
        start = 0 if first == 0 else int(window[:, 0].min())
        stop = len(text) if last >= len(spans) else int(window[:, 1].max())
        pieces = ["…"] if start else []
        done = start
        for begin, end, tokens in _runs(window):
            pieces.append(_shown(text[done:begin]))
            pieces.append(self._run(row, text[begin:end], [first + token for token in tokens]))
            done = max(done, end)
        pieces.append(_shown(text[done:stop]))
        return "".join(pieces) + ("…" if stop < len(text) else "")

    def _run(self, row: Row, text: str, tokens: Sequence[int]) -> str:
        values = row.activations[tokens].tolist()
        strongest = max(values, key=abs)
        if not text and not strongest:
            return ""
        word = text.lstrip(" ") or text  # many tokenizers count the space before a word to its token
        styles = [f"background: {_rgba(strongest, self.strongest)}"] if strongest else []
        if row.position in tokens:
            styles.append(_UNDERLINE)
        style = f' style="{"; ".join(styles)}"' if styles else ""
        lines = [
            f"{value:.6g} · sample {row.start + token} · position {token}"
            for token, value in zip(tokens, values, strict=True)
        ]
        tooltip = escape("\n".join(lines))
        span = f'<span title="{tooltip}"{style}>{_shown(word) or "∅"}</span>'
        return " " * (len(text) - len(word)) + span


def _runs(spans: Array) -> Iterator[tuple[int, int, list[int]]]:
    """Tokens in the order of their text, those that share characters (such as the bytes of an emoji) together."""
    start, stop, tokens = 0, 0, list[int]()
    for token in np.lexsort((spans[:, 1], spans[:, 0])).tolist():
        a, b = spans[token].tolist()
        if tokens and not (a < stop or (a, b) == (start, stop)):
            yield start, stop, tokens
            tokens = []
        start, stop = (min(start, a), max(stop, b)) if tokens else (a, b)
        tokens.append(token)
    if tokens:
        yield start, stop, tokens


def _shown(text: str) -> str:
    return escape(text.replace("\n", "↵"))
