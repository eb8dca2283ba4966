"""An S3 server on loopback, as much of S3 as a store needs, with faults on demand; needs aiohttp.

It knows the conditions of Google Cloud Storage too, whose XML interface is S3's otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape, unescape

BUCKET = "bucket"
GENERATION, GENERATION_MATCH = "x-goog-generation", "x-goog-if-generation-match"


@dataclass
class S3:
    """The objects, and how the server behaves: it may be changed while it runs.

    Attributes
    ----------
    conditions
        Headers that it honours; one that is left out is ignored, as some servers do.
    latency, late
        Seconds before each answer; seconds at most before a PUT takes effect, so that later ones overtake it.
    share_of_503, share_dropped
        Of requests answered 503; of requests that take effect and whose answer is lost.
    status
        Answer each request with this status instead.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    conditions: tuple[str, ...] = ("If-None-Match", "If-Match", GENERATION_MATCH)
    generations: dict[str, int] = field(default_factory=dict)
    latency: float = 0.0
    late: float = 0.0
    share_of_503: float = 0.0
    share_dropped: float = 0.0
    status: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    random: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def options(self) -> dict[str, str]:
        """What `storage_options` has to say to reach it."""
        return {
            "endpoint": self.url,
            "access_key_id": "test",
            "secret_access_key": "test",
            "region": "us-east-1",
            "allow_http": "true",
        }

    @property
    def google_options(self) -> dict[str, str]:
        """The same, as Google Cloud Storage."""
        nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        key = json.dumps({"gcs_base_url": self.url, "disable_oauth": True, **nobody})
        return {"service_account_key": key, "allow_http": "true"}

    @property
    def obstore_options(self) -> dict[str, Any]:
        """The same for obstore, which tries again without long waits."""
        milliseconds = timedelta(milliseconds=1), timedelta(milliseconds=10)
        backoff = {"init_backoff": milliseconds[0], "max_backoff": milliseconds[1], "base": 2}
        retries = {"max_retries": 20, "backoff": backoff, "retry_timeout": timedelta(seconds=20)}
        config = {name: value for name, value in self.options.items() if name != "allow_http"}
        return {**config, "client_options": {"allow_http": True}, "retry_config": retries}

    async def answer(self, request: Any) -> Any:
        from aiohttp import web

        key = request.match_info["key"].strip("/")
        self.requests.append((request.method, key or request.query_string))
        await asyncio.sleep(self.latency)
        if self.status is not None:
            return _error(self.status, "Refused")
        if self.random.random() < self.share_of_503:
            return _error(503, "SlowDown")
        body = await request.read()
        if request.method == "PUT":
            await asyncio.sleep(self.late * self.random.random())
        if key:
            answer = getattr(self, request.method.lower())(request, key, body)
        else:
            answer = self._delete(body) if request.method == "POST" else self._list(request.query)
        if self.random.random() < self.share_dropped:
            request.transport.abort()
            return web.Response()
        return answer

    def put(self, request: Any, key: str, body: bytes) -> Any:
        from aiohttp import web

        asked = {name: request.headers[name] for name in self.conditions if name in request.headers}
        there = self.objects.get(key)
        if asked.get("If-None-Match") == "*" and there is not None:
            return _error(412, "PreconditionFailed")
        if "If-Match" in asked and (there is None or asked["If-Match"] != _tag(there)):
            return _error(404 if there is None else 412, "NoSuchKey" if there is None else "PreconditionFailed")
        if int(asked.get(GENERATION_MATCH, self._generation(key))) != self._generation(key):
            return _error(412, "PreconditionFailed")
        self.objects[key] = body
        self.generations[key] = 1 + max(self.generations.values(), default=0)
        return web.Response(headers={"ETag": _tag(body), GENERATION: str(self._generation(key))})

    def _generation(self, key: str) -> int:
        return self.generations.get(key, 1) if key in self.objects else 0

    def get(self, request: Any, key: str, _: bytes) -> Any:
        from aiohttp import web

        value = self.objects.get(key)
        if value is None:
            return _error(404, "NoSuchKey")
        headers = {"ETag": _tag(value), "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
        headers[GENERATION] = str(self._generation(key))
        asked = request.headers.get("Range")
        if asked is None:
            return web.Response(body=value, headers=headers)
        first, last = asked.removeprefix("bytes=").split("-")
        start = int(first) if first else max(0, len(value) - int(last))
        stop = min(len(value), int(last) + 1) if first and last else len(value)
        if start >= len(value):
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(value)}"
        return web.Response(status=206, body=value[start:stop], headers=headers)

    head = get

    def delete(self, _: Any, key: str, __: bytes) -> Any:
        from aiohttp import web

        return web.Response(status=204 if self.objects.pop(key, None) is not None else 404)

    def _delete(self, body: bytes) -> Any:
        from aiohttp import web

        keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
        for key in keys:
            self.objects.pop(unescape(key), None)
        done = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return web.Response(text=f"<DeleteResult>{done}</DeleteResult>", content_type="application/xml")

    def _list(self, query: Any) -> Any:
        from aiohttp import web

        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        found, folders = [], {}
        for key in sorted(k for k in self.objects if k.startswith(prefix)):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders[prefix + rest.split(delimiter)[0] + delimiter] = None
            else:
                found.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-02T10:00:00.000Z</LastModified>"
                    f"<ETag>{escape(_tag(self.objects[key]))}</ETag><Size>{len(self.objects[key])}</Size></Contents>"
                )
        folds = (f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in folders)
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(itertools.chain(found, folds))}"
        return web.Response(text=f"{text}</ListBucketResult>", content_type="application/xml")


@lru_cache(512)  # a server keeps the tag of an object; that of a shard takes longer to make than a range to send
def _tag(value: bytes) -> str:
    return f'"{hashlib.md5(value).hexdigest()}"'


def _error(status: int, code: str) -> Any:
    from aiohttp import web

    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


@contextmanager
def serve() -> Iterator[S3]:
    """Serve an empty bucket on a free port of 127.0.0.1, in a thread."""
    from aiohttp import web

    s3, loop, ready = S3(), asyncio.new_event_loop(), threading.Event()

    async def start() -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", f"/{BUCKET}{{key:.*}}", s3.answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        s3.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stopped.wait()
        await runner.cleanup()

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(start(),), daemon=True)
    thread.start()
    if not ready.wait(20):
        raise RuntimeError("the server did not start")
    try:
        yield s3
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
        loop.close()
