"""The explorer's doors: a real server and what it refuses, the folder of pages, the widget of a notebook."""

import gzip
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from raising import raises
from web_stores import EVIL, IMAGES, TOKENS, dense, explorer_of, make_store

import saestore
from saestore.cli import main
from saestore.errors import StoreConflictError
from saestore.web.doors import application, bind, is_loopback
from saestore.web.folder import write_folder

pytestmark = pytest.mark.once

pytest.importorskip("uvicorn", reason="the extra `web`")

X = f"/{IMAGES}"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("doors"))


def start(path, *options):
    """A real `saestore serve`, and the address that it prints."""
    command = [sys.executable, "-m", "saestore", "serve", str(path), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = process.stdout.readline()
    return process, address


@pytest.fixture(scope="module")
def served(path):
    process, address = start(path)
    yield address
    process.terminate()
    rest, log = process.communicate(timeout=20)
    assert rest == ""
    assert "Traceback" not in log


def ask(served, target, method="GET", body=None, **headers):
    """Status, headers and body that the server sends."""
    connection = http.client.HTTPConnection(urlsplit(served).netloc, timeout=60)
    connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
    headers = {**({"Content-Length": str(len(body))} if body is not None else {}), **headers}
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    response = connection.getresponse()
    result = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return result


def test_the_address_is_one_line_and_answers(served):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", served)
    status, headers, body = ask(served, "/")
    assert (status, IMAGES in body.decode()) == (200, True)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert ask(served, "/index.json")[1]["content-type"].startswith("application/json")


def test_a_server_starts_without_what_takes_seconds_to_import():
    code = "import sys, saestore.store, saestore.web.doors; print([m for m in sys.argv[1:] if m in sys.modules])"
    command = [sys.executable, "-c", code, "torch", "xarray", "pandas", "matplotlib", "sklearn", "scipy.stats"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_name_of_another_host_is_refused(served):
    """A page elsewhere can make its own name lead to this machine."""
    port = urlsplit(served).port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "",
        "@127.0.0.1",
        "[",
        "[::1",
        "[1]:80",
    ):
        assert ask(served, "/", Host=host)[0] in (400, 403), host
    for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
        assert ask(served, "/", Host=host)[0] == 200, host


def test_a_form_of_another_page_changes_nothing(served, path):
    page = ask(served, f"{X}/features/4")[2].decode()
    token = re.search(r'name="token" value="([\w-]+)"', page)[1]
    body = f"token={token}&name=four".encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ask(served, f"{X}/features/4", "POST", body, Origin="http://evil.example", **form)[0] == 403
    assert ask(served, f"{X}/features/4", "POST", b"name=four", Origin=served.strip().rstrip("/"), **form)[0] == 403
    assert "four" not in saestore.open(path)[IMAGES].features["name"].filled("").tolist()
    assert ask(served, f"{X}/features/4", "POST", body, Origin=served.strip().rstrip("/"), **form)[0] == 303
    assert saestore.open(path)[IMAGES].features["name"][4] == "four"
    assert ask(served, f"{X}/features/4", "POST", b"x" * (1 << 20) + b"x", **form)[0] == 413


def test_answers_are_compressed_and_tagged(served):
    status, headers, body = ask(served, f"{X}/features/1", Accept_Encoding="gzip")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert b"Feature 1" in gzip.decompress(body)
    assert ask(served, f"{X}/features/1", If_None_Match=headers["etag"])[0] == 304
    assert ask(served, f"{X}/features/1", "HEAD")[2] == b""
    store = ask(served, "/index.json")
    assert ask(served, "/index.json", If_None_Match=f'"x", {store[1]["etag"]}')[0] == 304


def test_what_the_server_refuses_has_the_shape_of_all_errors(served):
    refused = [
        (405, "unknown-method", ask(served, f"{X}/features/1.json", "PUT", b"")),
        (414, "address-too-long", ask(served, f"{X}/features/1.json?where=" + "x" * 20_000)),
        (400, "bad-parameter", ask(served, f"{X}/features.json?sort=max&sort=name")),
        (403, "unknown-host", ask(served, "/index.json", Host="evil.example")),
        (413, "form-too-long", ask(served, f"{X}/features/4.json", "POST", b"a=1&" * (1 << 18) + b"a")),
    ]
    for status, code, (given, _, body) in refused:
        assert (given, json.loads(body)["error"]["code"]) == (status, code)
    assert "problem" in ask(served, f"{X}/features/1", "PUT", b"")[2].decode()
    assert ask(served, f"{X}/features.json?sort=max&sort=max")[0] == 200
    with socket.create_connection((urlsplit(served).hostname, urlsplit(served).port)) as stalled:
        stalled.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na")  # and goes away
    assert ask(served, "/")[0] == 200


def test_paths_that_lead_out_are_not_here(served):
    for target in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/-/..%2fexplorer.py", "//etc/passwd", f"{X}/%00"):
        assert ask(served, target)[0] == 404, target


def test_many_clients_at_once(served):
    statuses = []

    def client(number):
        statuses.extend(ask(served, f"{X}/features/{(number + i) % 9}.json")[0] for i in range(4))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 48


def test_another_host_needs_a_token(path):
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["serve", str(path), "--host", "0.0.0.0"])
    assert result.exit_code == 1
    assert "--token" in result.output
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_token_is_asked_for(path):
    app = application(explorer_of(path), (), token="key")

    def call(target, cookie=""):
        import asyncio

        sent = []
        head, _, query = target.partition("?")
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": head, "raw_path": head.encode(),
                 "query_string": query.encode(), "headers": [(b"host", b"any.example"), (b"cookie", cookie.encode())],
                 "scheme": "http", "server": ("127.0.0.1", 80), "client": None, "root_path": ""}  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(app(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"])

    assert call("/")[0] == 403
    assert call("/?token=kez")[0] == 403
    status, headers = call("/?token=key")
    assert (status, headers[b"location"]) == (303, b"/")
    assert b"HttpOnly" in headers[b"set-cookie"]
    assert call("/", "saestore_token=key")[0] == 200
    assert call("//evil.example/a b?token=key&q=1%2B1")[1][b"location"] == b"/evil.example/a%20b?q=1%2B1"


def test_a_port_in_use_and_a_store_that_is_not_there(path, served):
    with raises(StoreConflictError, "port-in-use", urlsplit(served).port):
        bind("127.0.0.1", urlsplit(served).port)
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["serve", str(path) + "-not"])
    assert result.exit_code == 1
    assert "s.zarr-not" in result.output


# A folder of pages.


def test_a_folder_of_pages_is_whole(path, tmp_path):
    acts = saestore.open(path)[IMAGES]
    first = write_folder(acts, [2, 5, 9], tmp_path / "out")
    assert first == tmp_path / "out/index.html"
    for page in tmp_path.rglob("*.html"):
        html = page.read_text()
        assert EVIL not in html
        for link in re.findall(r'(?:href|src)="([^"#:]+)"', html):
            assert (page.parent / link).is_file(), f"{page.name}: {link}"
    twin = json.loads((tmp_path / "out/features/2.json").read_text())
    assert twin["stats"]["n_active"] == int((dense(0)[:, 2] != 0).sum())
    index = (tmp_path / "out/index.js").read_text()
    assert "fires on five" in index
    assert "<script" not in index
    with raises(StoreConflictError, "folder-exists", "out"):
        write_folder(acts, [2], tmp_path / "out")


def test_a_single_file_has_everything_in_it(path, tmp_path):
    html = write_folder(saestore.open(path)[TOKENS], [0, 1], tmp_path / "one", single=True).read_text()
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["index.html"]
    assert set(re.findall(r'href="(#[^"]+)"', html)) >= {"#feature-0", "#feature-1", "#top"}
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]+"', html)
    pictures = write_folder(saestore.open(path)[IMAGES], [2], tmp_path / "two", single=True).read_text()
    assert "data:image/jpeg;base64," in pictures
    assert "images/" not in re.sub(r"base64,[\w+/=]+", "", pictures).split("</style>")[1]


def test_a_folder_names_images_that_cannot_be_read(tmp_path):
    path = make_store(tmp_path / "w")
    broken = tmp_path / "w/pictures/scene 1.png"
    broken.write_bytes(broken.read_bytes()[:60])  # its head says how large it is
    write_folder(saestore.open(path)[IMAGES], [2], tmp_path / "out")
    assert "no image: scene 1.png" in (tmp_path / "out/features/2.html").read_text()
    assert {p.name for p in (tmp_path / "out/images").iterdir()} & {"0.jpg", "1.jpg"} == {"0.jpg"}


def test_site_chooses_features(path, tmp_path):
    from click.testing import CliRunner

    options = ["--store", str(path), "--out", str(tmp_path / "s")]
    result = CliRunner().invoke(main, ["site", IMAGES, "--features", 'name == "five"', *options])
    assert result.exit_code == 0, result.output
    assert Path(result.output.strip()) == tmp_path / "s/index.html"
    assert {p.name for p in (tmp_path / "s/features").iterdir()} == {"5.html", "5.json"}
    most = np.argsort(-(dense(0) != 0).sum(axis=0), kind="stable")[:2]
    result = CliRunner().invoke(
        main, ["site", IMAGES, "--top", "2", "--store", str(path), "--out", str(tmp_path / "t")]
    )
    assert {int(p.stem) for p in (tmp_path / "t/features").glob("*.html")} == set(most.tolist())
    nothing = CliRunner().invoke(main, ["site", IMAGES, "--features", "feature > 99", *options])
    assert nothing.exit_code == 1


# A notebook.


def test_a_widget_answers_through_its_connection(path, monkeypatch):
    pytest.importorskip("anywidget", reason="the extra `notebook`")
    widget = saestore.open(path)[IMAGES].explore()
    sent = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append((content, buffers)))
    assert widget.start == X
    widget._handle_custom_msg({"id": 7, "address": f"{X}/features/2.json?level=sample&n=1"}, [])
    ((content, (body,)),) = sent
    assert (content["id"], content["status"]) == (7, 200)
    assert json.loads(body)["examples"][0]["activation"] == dense(0)[:, 2].max()
    widget._handle_custom_msg({"id": 8, "address": f"{X}/items/0/image?size=160"}, [])
    assert sent[1][1][0][:3] == b"\xff\xd8\xff"
    widget._handle_custom_msg({"id": 9, "address": f"{X}/features/99"}, [])
    assert sent[2][0]["status"] == 404
    widget._handle_custom_msg("nonsense", [])
    assert len(sent) == 3


def test_a_widget_changes_names_where_the_store_is_open_for_writing(path, monkeypatch):
    pytest.importorskip("anywidget", reason="the extra `notebook`")
    acts = saestore.open(path, mode="r+")[TOKENS]
    widget, sent = acts.explore(), []
    monkeypatch.setattr(widget, "send", lambda content, **_: sent.append(content))
    form = {"token": widget.explorer.token, "name": "zero"}
    widget._handle_custom_msg({"id": 1, "method": "POST", "address": f"/{TOKENS}/features/0", "form": form}, [])
    assert sent[0]["location"] == f"/{TOKENS}/features/0"
    assert saestore.open(path)[TOKENS].features["name"][0] == "zero"
