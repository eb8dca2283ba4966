"""A tiny store for the tests of the explorer: images with masks, the same samples through another SAE, and texts."""

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pytest
import scipy.sparse as sp
from cli_stores import TEXTS, text_spans

import saestore

for package in ("starlette", "jinja2", "PIL"):
    pytest.importorskip(package, reason="the extra `web`")

from saestore.web.explorer import Explorer  # noqa: E402
from saestore.web.request import Request  # noqa: E402
from saestore.web.view import StoreView  # noqa: E402

N_ITEMS, SIDE, N_FEATURES = 8, 3, 10
IMAGES, OTHER, TOKENS = "Toy/patch/x", "Toy/patch/y", "Talk/token/z"
SPLITS = ["train", "cal", "test", "test", "train", "cal", "test", "train"]
EVIL = "<script>alert('x')</script>"


def dense(seed: int, n_rows: int = N_ITEMS * SIDE**2) -> np.ndarray:
    """Activations with ties and negative values; the last feature is never active."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, 9, (n_rows, N_FEATURES)).astype(np.float32) / 4
    values[rng.random(values.shape) < 0.55] = 0
    values[:, -1] = 0
    return values


def make_store(folder: Path) -> Path:
    """Write the store and its images; one image is missing, one file is not an image."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secret.txt").write_text("TOP-SECRET")
    (folder / "pictures").mkdir()
    for i in range(N_ITEMS - 2):
        Image.new("RGB", (60, 40), (40 * i, 100, 200 - 20 * i)).save(folder / "pictures" / f"scene {i}.png")
    (folder / "pictures" / "broken.png").write_bytes(b"no image at all")
    keys = [*(f"scene {i}.png" for i in range(N_ITEMS - 2)), "broken.png", "gone.png"]
    items = {"image_path": keys, "split": SPLITS, "color::red": [1, 0, 1, 0, 1, 0, 1, 0]}
    store = saestore.open(folder / "s.zarr", mode="a")
    acts = store.write(IMAGES, sp.csr_array(dense(0)), items=items, images=folder / "pictures")
    acts.concepts.add({"middle": np.tile(np.arange(9) % 3 == 1, N_ITEMS)}, level="sample")
    acts.features.set("name", {2: EVIL, 5: "five"})
    acts.features.set("note", {5: "fires on five"})
    store.write(OTHER, sp.csr_array(dense(0)[:, ::-1]), items=items, images=folder / "pictures")
    n_tokens = sum(map(len, TEXTS))
    pointers = np.cumsum([0, *map(len, TEXTS)])
    texts = {"text": ["".join(tokens) for tokens in TEXTS]}
    store.write(TOKENS, sp.csr_array(dense(1, n_tokens)), item_ptr=pointers, items=texts, token_spans=text_spans())
    return folder / "s.zarr"


def explorer_of(path: Path, *, writable: bool = False) -> Explorer:
    root = saestore.open(path, mode="r+" if writable else "r").root
    return Explorer(StoreView(root, str(path), writable=writable))


def get(explorer: Explorer, address: str, **more):
    """The answer to an address, as a server would ask for it."""
    parts = urlsplit(address)
    return explorer.answer(Request(unquote(parts.path), dict(parse_qsl(parts.query)), **more))
