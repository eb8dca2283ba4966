"""Run `concepts.ipynb` and keep what it shows: its outputs in the notebook, its pictures in `docs/images`.

    python examples/pictures.py

A cell with the tag `picture:NAME` makes `docs/images/NAME.png`. One more, of texts, is drawn from the demo's store.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, IMAGES = ROOT / "examples" / "concepts.ipynb", ROOT / "docs" / "images"
STORE = ROOT / "demo" / "activations.zarr"
_TAG = "picture:"


def executed(folder: Path) -> Any:
    """The notebook with the outputs of a run in `folder`, which has the project's `examples` and will have `demo`."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran: another in every run
    return notebook


def pictures(notebook: Any) -> dict[str, bytes]:
    """The pictures of tagged cells, as PNG, by name."""
    found = {}
    for cell in notebook.cells:
        names = [tag.removeprefix(_TAG) for tag in cell.metadata.get("tags", []) if tag.startswith(_TAG)]
        images = [
            output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        found |= dict(zip(names, map(base64.b64decode, images), strict=True))
    return found


def draw_texts(path: Path) -> None:
    """Draw the tweets on which one feature is strongest. `make demo` builds the store."""
    import matplotlib as mpl

    import saestore

    mpl.use("agg")
    saestore.open(STORE)["iSarcasm/token"].plot.top(500, n=6).figure.savefig(path)


def main() -> None:
    """Do all of it."""
    import nbformat

    notebook = executed(ROOT)
    nbformat.write(notebook, NOTEBOOK)
    for name, png in pictures(notebook).items():
        (IMAGES / f"{name}.png").write_bytes(png)
    draw_texts(IMAGES / "texts.png")


if __name__ == "__main__":
    main()
