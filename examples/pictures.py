"""Run the notebooks and keep what they show: outputs in the notebook, pictures in `docs/images`.

    python examples/pictures.py

A cell with the tag `picture:NAME` makes `docs/images/NAME.png`. One more is a page of texts from the demo's store, as
a browser shows it; without chromium it stays as it is.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, IMAGES = ROOT / "examples" / "concepts.ipynb", ROOT / "docs" / "images"
DISCOVERY = ROOT / "examples" / "discovery.ipynb"
STORE = ROOT / "demo" / "activations.zarr"
_TAG = "picture:"


def executed(folder: Path, *paths: Path) -> list[Any]:
    """Notebooks with the outputs of a run in `folder`, which has the project's `examples` and will have `demo`.

    They run in one kernel, which forgets between them all but what it has imported.
    """
    import nbformat
    from nbclient import NotebookClient

    new = nbformat.v4
    forget = new.new_notebook(cells=[new.new_code_cell("get_ipython().reset(new_session=True)")])
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    client = NotebookClient(forget, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
    try:
        for notebook in notebooks:
            client.execute(cleanup_kc=False)
            client.nb = notebook
            client.execute(cleanup_kc=False)
            client.nb = forget
    finally:
        client.execute()
    for cell in (cell for notebook in notebooks for cell in notebook.cells):
        cell.metadata.pop("execution", None)  # when each cell ran: another in every run
    return notebooks


def pictures(notebook: Any) -> dict[str, bytes]:
    """The pictures of tagged cells, as PNG, by name."""
    found = {}
    for cell in notebook.cells:
        names = [tag.removeprefix(_TAG) for tag in cell.metadata.get("tags", []) if tag.startswith(_TAG)]
        images = [
            output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        if names:
            found |= dict(zip(names, map(base64.b64decode, images), strict=True))
    return found


def show_texts(path: Path, browser: str) -> None:
    """Save the picture of the tweets on which one feature is strongest. `make demo` builds the store."""
    import saestore

    with tempfile.TemporaryDirectory() as folder:
        page = saestore.open(STORE)["iSarcasm/token"].plot.tokens(500, n=6).save(Path(folder) / "texts.html")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
        ]
        options += ["--force-device-scale-factor=2", "--window-size=1000,460", f"--screenshot={path}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True, cwd=folder)  # noqa: S603


def main() -> None:
    """Do all of it."""
    import nbformat

    paths = (NOTEBOOK, DISCOVERY)
    for path, notebook in zip(paths, executed(ROOT, *paths), strict=True):
        nbformat.write(notebook, path)
        for name, png in pictures(notebook).items():
            (IMAGES / f"{name}.png").write_bytes(png)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is not None:
        show_texts(IMAGES / "texts.png", browser)


if __name__ == "__main__":
    main()
