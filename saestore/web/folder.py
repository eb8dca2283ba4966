"""The explorer as a folder of pages of chosen features, with thumbnails and data, that opens without a server."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saestore.errors import SaestoreError, StoreConflictError, reached
from saestore.formats.atomic_output import write_atomically
from saestore.formats.base import Written
from saestore.query.reader import SetReader
from saestore.web.explorer import STATIC, Explorer
from saestore.web.request import Links, as_json
from saestore.web.view import Page, SetView, StoreView

_PIXELS = 240  # of the longer side of a thumbnail


class FolderLinks(Links):
    """Addresses in a folder of pages, relative to the page that has them."""

    live = False
    searchable = True

    def __init__(self, path: str, features: Sequence[int], *, single: bool) -> None:
        self.path, self.features, self.single = path, set(features), single
        self.depth = ""  # "../" on the pages of features

    def store(self) -> str | None:
        """The list of the features."""
        return "#top" if self.single else f"{self.depth}index.html"

    def static(self, name: str) -> str:
        """A style sheet or a script."""
        return f"{self.depth}{name}"

    def search(self, **query: Any) -> str | None:  # noqa: ARG002
        """The search box has no page here."""
        return None

    def page(self, path: str, *parts: Any, **query: Any) -> str | None:  # noqa: ARG002
        """The page of a feature that was chosen; None for any other."""
        if path == self.path and parts and parts[0] == "features" and parts[1:] and int(parts[1]) in self.features:
            return f"#feature-{parts[1]}" if self.single else f"{self.depth}features/{parts[1]}.html"
        return self.store() if path == self.path and not parts else None

    def image(self, path: str, item: int, size: int) -> str | None:  # noqa: ARG002
        """A thumbnail."""
        return f"{self.depth}images/{item}.jpg"


@reached("the output")
def write_folder(
    reader: SetReader,
    features: Sequence[int],
    folder: Path,
    *,
    images: Path | None = None,
    single: bool = False,
    n: int = 8,
) -> Path:
    """Write pages of some features, in the order of their list, that open without a server; return ``index.html``.

    `folder` is made; it must not exist, or be empty. `single` writes one HTML file with everything in it. A page has
    `n` examples.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreConflictError(f"{folder} is there already; name a new folder.", code="folder-exists")
    links = FolderLinks(reader.path, features, single=single)
    explorer = Explorer(StoreView(reader.root, reader.location, images, links=links))
    view = explorer.store.open(reader.path)
    links.depth = "" if single else "../"
    made = {f: explorer.page(f"/{reader.path}/features/{f}", {"n": str(n)}) for f in features}
    thumbnails = _thumbnails(explorer, view, [e for page in made.values() for e in page.data["examples"]])
    index = [
        {"text": " · ".join([str(f), *(str(v) for v in page.data["known"].values() if isinstance(v, str))]),
         "href": f"#feature-{f}" if single else f"features/{f}.html"}
        for f, page in made.items()
    ]  # fmt: skip
    script = b"globalThis.saestoreIndex = " + as_json(index).replace(b"<", b"\\u003c") + b";\n"
    rows = [{"feature": f, "name": page.data["name"], "stats": page.data["stats"]} for f, page in made.items()]
    listed = Page("index.html", reader.path, {"set": reader.path, "rows": rows, "made": made})
    links.depth = ""
    if single:
        html = explorer.render(listed, "single.html", address=("", {}), style=_text("explorer.css"),
                               script=script.decode() + _text("explorer.js"))  # fmt: skip
        for name, body in thumbnails.items():
            html = html.replace(f'"{name}"', f'"data:image/jpeg;base64,{base64.b64encode(body).decode()}"')
        return _written(folder, {"index.html": html.encode("utf-8", "xmlcharrefreplace")})
    files = {**thumbnails, "index.js": script}
    files |= {name: (STATIC / name).read_bytes() for name in ("explorer.css", "explorer.js", "icon.svg")}
    files["index.html"] = explorer.render(listed, address=("", {})).encode("utf-8", "replace")
    links.depth = "../"
    for f, page in made.items():
        files[f"features/{f}.html"] = explorer.render(page, address=("", {})).encode("utf-8", "replace")
        files[f"features/{f}.json"] = as_json(page.data)
    return _written(folder, files)


def _written(folder: Path, files: Mapping[str, bytes]) -> Path:
    def write(into: Path) -> Written:
        for name, body in files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(body)
        return Written((into.name,))

    write_atomically(folder, [], write, overwrite=False)
    return folder / "index.html"


def _thumbnails(explorer: Explorer, view: SetView, examples: Sequence[Any]) -> dict[str, bytes]:
    """The images of examples by their names; one that cannot be read is missing on its pages."""
    thumbnails: dict[str, bytes] = {}
    for picture, item in [(e["image"], e["item"]) for e in examples if e.get("image", {}).get("url")]:
        try:
            if f"images/{item}.jpg" not in thumbnails:
                thumbnails[f"images/{item}.jpg"] = explorer.thumbnail(view, item, _PIXELS)
        except SaestoreError as error:
            picture |= {"url": None, "missing": str(error)}
    return thumbnails


def _text(name: str) -> str:
    return (STATIC / name).read_text("utf-8")
