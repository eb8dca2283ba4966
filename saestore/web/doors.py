"""Two doors to the explorer: a server on the loopback interface, and a widget of a notebook."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from saestore.errors import (
    InvalidInputError,
    NotAllowedError,
    SaestoreError,
    StoreConflictError,
    TooLargeError,
    require,
)
from saestore.progress import deadline
from saestore.query.reader import SetReader
from saestore.web.explorer import STATIC, Explorer
from saestore.web.request import Answer, Request
from saestore.web.view import StoreView

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request as WebRequest
    from starlette.responses import Response

SECONDS = 30  # after which a request is answered with an error, and its work ends at its next read
_GRACE = 2  # seconds for the work to end by itself, with a page
_THREADS = 4
_WAITING = 64  # requests at most; further ones are refused at once
_LONGEST_ADDRESS, _LARGEST_FORM = 16_384, 1 << 20
_COOKIE = "saestore_token"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")  # which are answered, with an error
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Guard:
    """Who is answered: a browser that names an expected host, and has the token where there is one.

    The name of the host is checked because a page elsewhere can make its own name lead to this machine.
    """

    hosts: tuple[str, ...]
    token: str | None

    def check(self, request: WebRequest) -> None:
        """Raise `NotAllowedError` for a request that is not answered."""
        given = request.headers.get("host", "")
        host = _split(f"//{given}").hostname if re.fullmatch(r"[\w.:\[\]-]{1,255}", given) else None
        if self.token is None and host not in self.hosts:
            message = f"This server answers at {' and '.join(self.hosts[:2])} only."
            raise NotAllowedError(message, code="unknown-host")
        sent = request.query_params.get("token") or unquote(request.cookies.get(_COOKIE) or "")
        if self.token is not None and not secrets.compare_digest(sent.encode("utf-8", "replace"), self.token.encode()):
            message = "This server needs its token: open the address that it printed when it started."
            raise NotAllowedError(message, code="bad-token")
        origin = request.headers.get("origin")
        if request.method == "POST" and origin is not None and _split(origin).netloc != given:
            raise NotAllowedError("A form of another page cannot change the store.", code="other-origin")


def _split(address: str) -> SplitResult:
    """The parts of an address of a header; none of one that is not an address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def application(explorer: Explorer, hosts: Sequence[str], token: str | None = None) -> Starlette:
    """The explorer as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response
    from starlette.routing import Route

    guard, pool = Guard(tuple(hosts), token), ThreadPoolExecutor(_THREADS, "saestore")
    waiting = 0

    async def answered(request: WebRequest) -> Response:
        nonlocal waiting
        path, end = request.scope["path"], time.monotonic() + SECONDS
        try:
            guard.check(request)
            if token is not None and "token" in request.query_params:
                return _with_cookie(request, token)
            question = await asyncio.wait_for(_question(request), SECONDS)
            if waiting >= _WAITING:
                raise TooLargeError("Too many requests wait for an answer; try again.", code="too-many")
            waiting += 1
            try:
                work = asyncio.get_running_loop().run_in_executor(pool, _answer_until, end, explorer, question)
                return _response(await asyncio.wait_for(asyncio.shield(work), end + _GRACE - time.monotonic()))
            finally:
                waiting -= 1
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except SaestoreError as error:
            return _response(explorer.failure(error, path))
        except TimeoutError:
            message = f"The answer took longer than {SECONDS} seconds. Ask for less, or load the page again."
            return _response(explorer.failure(TooLargeError(message, code="too-slow"), path))

    route = Route("/{path:path}", answered, methods=_METHODS)
    return Starlette(routes=[route], middleware=[Middleware(GZipMiddleware, minimum_size=1000)])


def _with_cookie(request: WebRequest, token: str) -> Response:
    """Lead to the same page without the token, which the browser keeps as a cookie."""
    from starlette.responses import RedirectResponse

    query = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    path = "/" + quote(request.scope["path"].lstrip("/"), safe="/", errors="replace")
    response = RedirectResponse(path + "?" * bool(query) + urlencode(query, errors="replace"), 303)
    response.set_cookie(_COOKIE, quote(token), httponly=True, samesite="strict")
    return response


def _answer_until(end: float, explorer: Explorer, question: Request) -> Answer:
    with deadline(end - time.monotonic()):
        return explorer.answer(question)


async def _question(request: WebRequest) -> Request:
    """What is asked, or `InvalidInputError` for what is too long, or not a question at all."""
    if len(request.scope["path"]) + len(request.scope["query_string"]) > _LONGEST_ADDRESS:
        raise InvalidInputError(f"An address has at most {_LONGEST_ADDRESS:,} characters.", code="address-too-long")
    if request.method not in ("GET", "HEAD", "POST"):
        raise InvalidInputError(f"{request.method} is not used here; use GET or POST.", code="unknown-method")
    form, query = dict[str, list[str]](), dict[str, str]()
    for name, value in request.query_params.multi_items():
        if query.setdefault(name, value) != value:
            message = f"{name[:80]}= is given twice, with two values; give it once."
            raise InvalidInputError(message, code="bad-parameter")
    if request.method == "POST":
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_FORM:
                raise InvalidInputError(f"A form has at most {_LARGEST_FORM:,} bytes.", code="form-too-long")
        for name, value in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True):
            form.setdefault(name, []).append(value)
    seen, method = request.headers.get("if-none-match", ""), "POST" if request.method == "POST" else "GET"
    return Request(request.scope["path"], query, method, {name: ",".join(form[name]) for name in form}, seen)


def _response(answer: Answer) -> Response:
    from starlette.responses import Response

    return Response(answer.body, answer.status, {**_HEADERS, **answer.headers}, answer.media_type)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, seen from itself only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at a host and port; port 0 takes a free one."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        message = f"{host}:{port} cannot be opened ({error}); choose another --port, or 0 for a free one."
        raise StoreConflictError(message, code="port-in-use") from error


def serve(explorer: Explorer, listening: socket.socket, token: str | None, started: Callable[[str], None]) -> None:
    """Answer at a socket until the process is interrupted; `started` receives the address when it answers."""
    import uvicorn

    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started(address)

    hosts = dict.fromkeys([host, "127.0.0.1", "localhost", "::1"])
    config = uvicorn.Config(
        application(explorer, tuple(hosts), token), log_level="warning", timeout_keep_alive=10, limit_concurrency=256,
        timeout_graceful_shutdown=3, server_header=False,
    )  # fmt: skip
    Server(config).run(sockets=[listening])


def widget(reader: SetReader, images: Path | None = None) -> Any:
    """The explorer as a notebook widget: pages travel through the connection to the kernel, without a port."""
    anywidget = require("anywidget", "notebook", "explore()")
    import traitlets

    store = StoreView(reader.root, reader.location, images, writable=not reader.root.read_only)
    explorer = Explorer(store)
    script = "globalThis.saestoreInWidget = true;\n" + "\n".join(
        (STATIC / name).read_text("utf-8") for name in ("explorer.js", "widget.js")
    )

    class ExplorerWidget(anywidget.AnyWidget):  # type: ignore[misc, name-defined]
        """Pages about a set."""

        _esm = script
        style_sheet = traitlets.Unicode((STATIC / "explorer.css").read_text("utf-8")).tag(sync=True)
        start = traitlets.Unicode(f"/{reader.path}").tag(sync=True)

        def __init__(self) -> None:
            super().__init__()
            self.explorer = explorer
            self.on_msg(self._asked)

        def _asked(self, _: Any, content: Any, __: Any) -> None:
            if not isinstance(content, dict) or "address" not in content:
                return
            parts = _split(str(content["address"])[:_LONGEST_ADDRESS])
            form = {str(name): str(value) for name, value in dict(content.get("form") or {}).items()}
            method = "POST" if content.get("method") == "POST" else "GET"
            question = Request(unquote(parts.path) or "/", dict(parse_qsl(parts.query)), method, form)
            answer = _answer_until(time.monotonic() + SECONDS, explorer, question)
            head = {"id": content.get("id"), "status": answer.status, "type": answer.media_type}
            self.send({**head, "location": answer.headers.get("Location")}, buffers=[answer.body])

    return ExplorerWidget()
