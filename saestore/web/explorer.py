"""One request, one answer: routes, the JSON twin of each page, errors as pages, and the two ways to write."""

from __future__ import annotations

import hashlib
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from saestore import errors
from saestore.concepts_namespace import Concepts
from saestore.errors import InvalidInputError, NotFoundError, SaestoreError, escape
from saestore.plot.images import find_image, is_turned
from saestore.plot.style import number, percent
from saestore.web import compare, drawing, feature, items, pages, tables
from saestore.web.request import Answer, Parameters, Request, as_json, check_number, with_query
from saestore.web.view import EDITABLE, Page, SetView, StoreView

STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_LONGEST_FIELD = 20_000  # characters of a name, a note or an explanation
# Of an error: its status; a code comes before its class.
_STATUS: dict[str, int] = {
    "unknown-column": 400, "address-too-long": 414, "form-too-long": 413,
    **dict.fromkeys(("too-slow", "being-computed", "too-many"), 503),
    **dict.fromkeys(("bad-token", "read-only", "unknown-host", "other-origin"), 403),
    **dict.fromkeys(("unknown-form", "unknown-method"), 405),
}  # fmt: skip
_STATUS_OF_CLASS: tuple[tuple[int, tuple[type[SaestoreError], ...]], ...] = (
    (404, (NotFoundError, errors.OutOfRangeError)),
    (409, (errors.StoreConflictError, errors.LockedError, errors.StoreWriteError)),
    (400, (InvalidInputError, errors.TooLargeError)),
)
_HEADINGS = {400: "That cannot be answered", 403: "Not allowed", 404: "Not here", 405: "Not allowed", 409: "Not now"}


def _visible(value: object) -> object:
    """A text without characters that turn what follows. Markup, whose texts went through here, stays as it is."""
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value


class Explorer:
    """Answers requests about a store. It holds no connection and no port: a server, a widget or an exporter asks it.

    A form has to send `token` with a change, so that no other page can make one.
    """

    def __init__(self, store: StoreView) -> None:
        self.store = store
        self.token = secrets.token_urlsafe(24)
        self.templates = Environment(
            loader=PackageLoader("saestore.web"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, finalize=_visible,
        )  # fmt: skip
        self.templates.globals |= {
            "draw": drawing, "links": store.links, "store": store, "token": self.token, "editable": EDITABLE,
            "part": self.part, "twin_of": _twin, "range_links": partial(_range_links, store),
            "patch_links": partial(_patch_links, store),
        }  # fmt: skip
        self.templates.filters |= {"field": Markup.escape, "number": _number, "percent": _percent, "score": _score}

    def answer(self, request: Request) -> Answer:
        """The answer to a request; every error is a page, or a JSON document with its code and message."""
        path, twin = request.path, False
        try:
            path, twin = self._split_twin(request.path)
            return self._answer(request, path, twin=twin)
        except SaestoreError as error:
            return self.failure(error, path, request.query, twin=twin)
        except Exception as error:  # noqa: BLE001 - a page says that there is a mistake in saestore; the log has it
            traceback.print_exception(error, file=sys.stderr)
            return self.failure(error, path, request.query, twin=twin)

    def page(self, path: str, query: Mapping[str, str]) -> Page:
        """What the page at a path shows."""
        routed = self._route(path, query)
        if isinstance(routed, Answer):
            raise NotFoundError(f"{path} is not a page.", code="unknown-page")
        page: Page = routed[1](query)
        return page

    def render(self, page: Page, template: str | None = None, **more: Any) -> str:
        """The HTML of a page."""
        context = {"title": page.title, "d": page.data, "moves": page.moves, **more}
        return self.templates.get_template(template or page.template).render(context)

    def part(self, page: Page) -> Markup:
        """The main block of a page, to be put into another."""
        template = self.templates.get_template(page.template)
        context = template.new_context({"title": page.title, "d": page.data, "moves": False, "address": ("", {})})
        macros = self.templates.get_template("macros.html").make_module(context.get_all())
        context = template.new_context({**context.get_all(), "m": macros})
        return Markup("").join(Markup(text) for text in template.blocks["main"](context))  # noqa: S704 - is escaped

    def _split_twin(self, path: str) -> tuple[str, bool]:
        """The path of a page, and whether its JSON twin is asked for; a set or concept can be called ``x.json``."""
        if not path.endswith(".json") or self.store.has(path.strip("/")):
            return path, False
        *start, name = path.removeprefix("/").split("/concepts/", 1)
        if start and name in self.store.concepts_of(start[0]):
            return path, False
        bare = path.removesuffix(".json")
        return ("/" if bare in ("/index", "/") else bare), True

    def _answer(self, request: Request, path: str, *, twin: bool) -> Answer:
        if request.method == "POST":
            return self._write(request, path)
        routed = self._route(path, request.query)
        if isinstance(routed, Answer):
            return routed
        tag, make = routed
        state = f"{tag}|{self.token}|{self.store.writable}|{twin}|{path}|{sorted(request.query.items())}"
        headers = {"ETag": _etag(state.encode("utf-8", "replace")), "Cache-Control": "no-cache"}
        if tag and headers["ETag"] in request.seen:
            return Answer(304, "text/html", b"", headers)
        page = make(request.query)
        if isinstance(page, Answer):
            return page
        address = request.path, dict(request.query)
        kind = "application/json" if twin else "text/html"
        body = as_json(page.data) if twin else self.render(page, address=address).encode("utf-8", "replace")
        if not tag or page.moves:  # of more than the state of one set
            headers["ETag"] = _etag(body)
            if headers["ETag"] in request.seen:
                return Answer(304, kind, b"", headers)
        return Answer(200, kind, body, headers)

    def _route(self, path: str, query: Mapping[str, str]) -> Answer | tuple[str, Callable[[Mapping[str, str]], Any]]:
        """The state that a page is of, "" where it is never the same, and what makes the page."""
        parts = path.lstrip("/").split("/")
        if parts[3:4] != ["concepts"] or parts[4:] == [""]:  # the name of a concept may end with a slash
            parts = path.strip("/").split("/")
        if parts == [""]:
            return "", lambda query: pages.store_page(self.store, Parameters(query, ()))
        if parts == ["search"]:
            return "", lambda query: pages.search_page(self.store, Parameters(query, pages.SEARCH))
        if parts[0] == "-":
            return self._static(parts[1:])
        if len(parts) < 3:
            known = ", ".join(self.store.paths()[0][:20]) or "none"
            message = f"There is no page {_shown(path)}. The store has the sets {known}."
            raise NotFoundError(message, code="unknown-page")
        view = self.store.open("/".join(parts[:3]))
        with_others = parts[3:4] == ["compare"] or (parts[3:4] == ["features"] and len(parts) == 5)
        tag = self.store.tag(view, query.get("other", "")) if with_others else view.tag
        return tag, partial(self._of_set, view, parts[3:])

    def _of_set(self, view: SetView, rest: list[str], query: Mapping[str, str]) -> Page | Answer:  # noqa: PLR0911 - the table of routes
        store = self.store
        match rest:
            case []:
                return pages.set_page(store, view, Parameters(query, ()))
            case ["features"]:
                return tables.features_page(store, view, Parameters(query, tables.FEATURES))
            case ["features", number]:
                asked = Parameters(query, feature.FEATURE)
                return feature.feature_page(store, view, _id(number, "feature"), asked)
            case ["items"]:
                return items.items_page(store, view, Parameters(query, items.ITEMS))
            case ["items", number]:
                return items.item_page(store, view, _id(number, "item"), Parameters(query, items.ITEM))
            case ["items", number, "image"]:
                return self._image(view, _id(number, "item"), Parameters(query, ("size",)))
            case ["concepts"]:
                return tables.concepts_page(store, view, Parameters(query, ()))
            case ["concepts", *name]:
                return tables.concept_page(store, view, "/".join(name), Parameters(query, tables.CONCEPT))
            case ["compare"]:
                return compare.compare_page(store, view, Parameters(query, compare.COMPARE))
        message = f"{view.path} has no page {_shown('/'.join(rest))}; it has features, items, concepts and compare."
        raise NotFoundError(message, code="unknown-page")

    def _image(self, view: SetView, item: int, asked: Parameters) -> Answer:
        sizes = [str(size) for size in drawing.SIZES]
        size = int(asked.choice("size", sizes, "320"))
        return Answer(200, "image/jpeg", self.thumbnail(view, item, size), {"Cache-Control": "private, max-age=60"})

    def thumbnail(self, view: SetView, item: int, size: int) -> bytes:
        """The image of an item as a JPEG."""
        check_number("item", item, view.reader.n_items)
        if "key" not in view.reader.items.names():
            raise NotFoundError(f"The items of {view.path} have no key.", code="image-missing")
        key = str(view.reader.items.column("key", np.array([item]))[0])
        file = find_image(view.reader, key, self.store.images)
        try:
            return self.store.thumbnails.jpeg(file, size, turned=is_turned(view.reader))
        except SaestoreError:
            raise
        except OSError as error:
            raise NotFoundError(f"The image {key!r} cannot be read.", code="image-missing") from error

    def _static(self, parts: list[str]) -> Answer:
        known = {path.name: path for path in STATIC.iterdir()}
        name = parts[0] if len(parts) == 1 else ""
        if name not in known:
            raise NotFoundError(f"There is no file {_shown('/'.join(parts))}.", code="unknown-page")
        kind = _TYPES.get(known[name].suffix, "application/octet-stream")
        return Answer(200, kind, known[name].read_bytes(), {"Cache-Control": "public, max-age=300"})

    def failure(
        self, error: Exception, path: str, query: Mapping[str, str] | None = None, *, twin: bool | None = None
    ) -> Answer:
        """An error as a page with its sentence and the mark under a condition, or as JSON."""
        twin = path.endswith(".json") if twin is None else twin
        known = isinstance(error, SaestoreError)
        code = error.code if isinstance(error, SaestoreError) else "internal"
        classes = (status for status, kinds in _STATUS_OF_CLASS if isinstance(error, kinds))
        status = _STATUS.get(code, next(classes, 503)) if known else 500
        message = str(error) if known else "There is a mistake in saestore; the terminal has the details."
        data = {"error": {"code": code, "message": message}}
        if twin:
            return Answer(status, "application/json", as_json(data))
        sentence, _, mark = message.removeprefix("where=: ").partition("\n")
        sentence = sentence[:1].upper() + sentence[1:]
        heading = _HEADINGS.get(status, "That did not work")
        more = {"sentence": sentence, "mark": mark, "status": status, "path": "/" + path.lstrip("/")}
        more["query"] = dict(query or {})
        page = Page("error.html", heading, {**data, **more}, moves=code == "being-computed")
        return Answer(status, "text/html", self.render(page, address=("", {})).encode("utf-8", "replace"))

    def _write(self, request: Request, path: str) -> Answer:
        """Change what is known of a feature, or make a concept of chosen items, and lead back to the page."""
        parts = path.strip("/").split("/")
        form = request.form
        if not secrets.compare_digest(form.get("token", "").encode("utf-8", "replace"), self.token.encode()):
            raise InvalidInputError("The form is of an earlier session; load the page again.", code="bad-token")
        if not self.store.writable:
            raise InvalidInputError("The store was opened to read only.", code="read-only")
        view = self.store.open("/".join(parts[:3]))
        match parts[3:]:
            case ["features", number]:
                self._annotate(view, _id(number, "feature"), form)
                back = self.store.links.page(view.path, "features", number)
            case ["concepts"]:
                back = self.store.links.page(view.path, "concepts", self._label(view, form))
            case _:
                raise InvalidInputError("Only features and concepts can be changed.", code="unknown-form")
        return Answer(303, "text/html", b"", {"Location": str(back)})

    def _annotate(self, view: SetView, number: int, form: Mapping[str, str]) -> None:
        check_number("feature", number, view.reader.shape[1])
        given = {name: _typed(form[name]) for name in EDITABLE if name in form}
        for name, text in given.items():
            if len(text) > _LONGEST_FIELD:
                raise InvalidInputError(f"{name} has more than {_LONGEST_FIELD:,} characters.", code="bad-parameter")
        known = view.known_of(number)
        changed = {
            name: {number: text or None} for name, text in given.items() if _typed(known.get(name) or "") != text
        }
        if changed:
            view.reader.features.annotate(changed)

    def _label(self, view: SetView, form: Mapping[str, str]) -> str:
        """A concept of the items whose numbers a form has, or of the samples."""
        name = form.get("name", "").strip()
        level: Literal["item", "sample"] = "sample" if form.get("level") == "sample" else "item"
        n_rows = view.reader.n_items if level == "item" else view.reader.shape[0]
        try:
            chosen = np.array([int(text) for text in form.get("ids", "").replace(",", " ").split()], np.int64)
        except (ValueError, OverflowError):
            raise InvalidInputError("Choose rows by their numbers.", code="bad-parameter") from None
        if not len(chosen) or chosen.min() < 0 or chosen.max() >= n_rows:
            message = f"Choose at least one {level}, numbered 0 to {n_rows - 1}."
            raise InvalidInputError(message, code="bad-parameter")
        mask = np.zeros(n_rows, bool)
        mask[chosen] = True
        Concepts(view.reader).add({name: mask}, level=level)
        return name


def _typed(text: str) -> str:
    r"""What was typed into a form: browsers send line ends as ``\r\n``."""
    return text.replace("\r\n", "\n").strip()


def _etag(state: bytes) -> str:
    return f'W/"{hashlib.sha256(state).hexdigest()[:32]}"'


def _id(text: str, what: str) -> int:
    """A number in a path."""
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise NotFoundError(f"{_shown(text)} is not the number of {what}s: write digits only.", code="unknown-page")
    return int(text)


def _shown(text: str) -> str:
    return repr(escape(text[:120], one_line=True))


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def _score(value: float | None) -> str:
    """A score of 0 to 1, so that a column of them is easy to compare."""
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else percent(value) if value else "0 %"


def _range_links(
    store: StoreView, histogram: Mapping[str, list[float]], template: str | None, log: bool = False
) -> list[str | None]:
    """The address of each bar of a histogram, by a template with LOW and HIGH in it."""
    if template is None or not store.links.live:
        return [None] * len(histogram["left"])
    edges = zip(histogram["left"], histogram["right"], strict=True)
    # Rounding a power of ten must not lose the feature at the end of a bar.
    pairs = [(10.0**low * (1 - 1e-9), 10.0**high * (1 + 1e-9)) if log else (low, high) for low, high in edges]
    return [template.replace("LOW", repr(low)).replace("HIGH", repr(high)) for low, high in pairs]


def _patch_links(store: StoreView, data: Mapping[str, Any]) -> dict[int, str | None]:
    """The address of the page of each patch of an item."""
    link = partial(store.links.page, data["set"], "items", data["item"], feature=data["feature"])
    return {position: link(position=position) for position in range(data["n_samples"])}


def _twin(address: tuple[str, Mapping[str, str]]) -> str:
    """The address of the JSON twin of a page."""
    path, query = address
    bare = path.rstrip("/")
    path = path if bare.split("/")[4:5] == ["concepts"] and bare.count("/") > 4 else bare  # a name may end with a slash
    return with_query((path or "/index") + ".json", query, quoted=False)
