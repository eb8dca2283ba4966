"""Notebook output: plain HTML that takes its colours from the page, dark or light.

Everything that comes from a store is escaped; nothing is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saestore.errors import escape as escape_control
from saestore.format import SetAttributes

_LEFT = ' style="text-align: left"'


def escape(text: str) -> str:
    """A text for a page: neither markup nor characters that turn what follows."""
    from html import escape as escape_html  # its table of entities takes 2 ms, and most processes show no page

    return escape_html(escape_control(text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = ()) -> str:
    """A table of texts; the columns numbered in `left` hold words, the others numbers."""
    aligned = set(left)

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(_cell(text, tag, i in aligned) for i, text in enumerate(cells)) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _cell(text: str, tag: str, left: bool) -> str:
    return f"<{tag}{_LEFT if left else ''}>{escape(text)}</{tag}>"


def pairs(values: Mapping[str, Any]) -> str:
    """A table of names and values; a value that is itself a mapping is folded into the names."""
    cells = "".join(
        f"<tr><th{_LEFT}>{escape(name)}</th><td{_LEFT}>{escape(_text(value))}</td></tr>"
        for name, value in _flat(values)
    )
    return f"<table><tbody>{cells}</tbody></table>"


def _flat(values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {below}", v) for below, v in _flat(value))
        elif value is not None:
            yield str(name), value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def folded(summary: str, inside: str) -> str:
    """HTML that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def l0(attributes: SetAttributes) -> str:
    """Mean number of active features per sample."""
    return f"{attributes.nnz / attributes.n_samples:.1f}" if attributes.n_samples else "-"


def state(attributes: SetAttributes) -> str:
    """Progress of the build."""
    if attributes.planned_samples is None:
        return "complete"
    return f"building: {attributes.n_samples:,} of {attributes.planned_samples:,} samples"


def sae_name(attributes: SetAttributes) -> str:
    """Name, architecture and k of the SAE, as far as they are recorded."""
    sae = attributes.sae
    known = [str(sae[key]) for key in ("name", "architecture") if sae.get(key)]
    return ", ".join(known + ([f"k {sae['k']}"] if sae.get("k") else [])) or "-"


def size(n_bytes: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 999.5 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.3g} {unit}"


def of_set(path: str, attributes: SetAttributes) -> str:
    """An activation set: a summary, and its provenance folded below."""
    a = attributes
    summary = table(
        ["samples", "features", "non-zeros", "L0", "items", "dtype", "SAE", "state"],
        [
            [
                f"{a.n_samples:,}", f"{a.n_features:,}", f"{a.nnz:,}", l0(a), f"{a.n_items:,}", a.dtype, sae_name(a),
                state(a),
            ]
        ],
        left=(5, 6, 7),
    )  # fmt: skip
    dropped = "nothing" if a.dropped is None else dict(a.dropped)
    origin = {"sae": a.sae, "source": a.source, "build": a.summary, "dropped": dropped}
    stored = {"codec": a.codec, "segments": len(a.segments)}
    return f"<strong>{escape(path)}</strong>{summary}{folded('Where it comes from', pairs({**stored, **origin}))}"
