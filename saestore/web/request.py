"""What a page is asked, checked and bounded, what it answers, and the addresses of pages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from saestore.errors import CONTROL, InvalidInputError, OutOfRangeError, did_you_mean
from saestore.records import plain

LONGEST = 4000  # characters of one parameter
_DOTS = re.compile(r"(?<=/)\.{1,2}(?=/|$)")  # browsers walk up at these parts, also where they are escaped once


@dataclass(frozen=True)
class Request:
    """One request, from a browser, a notebook or the exporter.

    `path` is decoded and has a leading slash; `form` has the fields that were sent, `seen` the tag of what is known
    already.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    form: Mapping[str, str] = field(default_factory=dict)
    seen: str = ""


@dataclass(frozen=True)
class Answer:
    """A response: its status, its media type, its bytes, and further headers."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Parameters:
    """Parameters of an address, of which a page knows some. A value out of bounds raises `InvalidInputError`.

    `given` is what was asked for, as it was understood; None in place of "".
    """

    def __init__(self, values: Mapping[str, str], known: Sequence[str]) -> None:
        for name, value in values.items():
            if name not in known:
                message = f"This page has no parameter {name[:80]!r}. {did_you_mean(name[:80], known)}"
                has = f"It has {', '.join(known)}." if known else "It has none."
                raise InvalidInputError(message + has, code="unknown-parameter")
            if len(value) > LONGEST:
                raise _bad(name, value, f"at most {LONGEST:,} characters")
        # A lone surrogate is no character: nothing that is stored has one, and numpy and URLs refuse it.
        clean = {name: value.encode("utf-8", "replace").decode() for name, value in values.items()}
        self.values = {name: value for name, value in clean.items() if value.strip()}
        self.given: dict[str, Any] = {}

    def text(self, name: str, default: str = "") -> str:
        """A text as it was given, for spaces around it may be part of a name; the default where there is none."""
        text = self.values.get(name, default)
        self.given[name] = text or None
        return text

    def optional(self, name: str, most: int) -> int | None:
        """A whole number up to `most`, or None."""
        return self.whole(name, 0, 0, most) if self.text(name) else None

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        text = self.text(name, str(default)).strip()
        if not text.isascii() or not text.lstrip("-").isdigit() or len(text) > 18 or not least <= int(text) <= most:
            raise _bad(name, text, f"a whole number from {least:,} to {most:,}")
        self.given[name] = int(text)
        return int(text)

    def window(self, limit: int, most: int) -> slice:
        """The rows that ``limit`` and ``offset`` ask for."""
        limit, offset = self.whole("limit", limit, 1, most), self.whole("offset", 0, 0, 1 << 40)
        return slice(offset, offset + limit)

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        """One of some words."""
        text = self.text(name, default).strip()
        if text not in options:
            raise _bad(name, text, f"one of {', '.join(options)}")
        self.given[name] = text
        return text


def number_in(name: str, text: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A part of a parameter as a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and least <= value <= most):
        bounds = "" if math.isinf(least) else f" from {least:g} to {most:g}"
        raise _bad(name, text, f"a number{bounds}")
    return value


def check_number(what: str, number: int, n: int) -> None:
    """Refuse the number of a feature or an item that the set does not have."""
    if not 0 <= number < n:
        raise OutOfRangeError(f"{what} {number} is out of range: there are {n:,}, numbered from 0.")


def _bad(name: str, value: str, allowed: str) -> InvalidInputError:
    shown = value if len(value) <= 80 else value[:80] + "…"
    return InvalidInputError(f"{name}={shown!r} cannot be used; give {allowed}.", code="bad-parameter")


class Links:
    """Addresses of pages, as a server has them.

    A folder of pages has other ones, and None for a page that it does not have: see `saestore.web.folder`.
    """

    live = True

    def store(self) -> str | None:
        """The page of all sets."""
        return "/"

    def static(self, name: str) -> str:
        """A style sheet or a script."""
        return f"/-/{name}"

    def search(self, **query: Any) -> str | None:
        """The search page."""
        return with_query("/search", query)

    def page(self, path: str, *parts: Any, **query: Any) -> str | None:
        """A page of a set: ``page(set, "features", 1884, where=…)``; parameters that are empty are left out."""
        return with_query("/" + "/".join(str(part) for part in (path, *parts)), query, quoted=False)

    def image(self, path: str, item: int, size: int) -> str | None:
        """An image of an item, at most `size` pixels wide and high."""
        return self.page(path, "items", item, "image", size=size)


def with_query(path: str, query: Mapping[str, Any], *, quoted: bool = True) -> str:
    """A path with the parameters that are not empty; `quoted` where the path is ready for an address."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    if not quoted:
        path = _DOTS.sub(lambda dots: dots[0].replace(".", "%252E"), quote(path, safe="/", errors="replace"))
    return path + "?" * bool(given) + urlencode(given, errors="replace")


def as_json(value: Any) -> bytes:
    """JSON in UTF-8; NaN and infinities are null, characters that move a cursor or turn a text are escaped."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()
