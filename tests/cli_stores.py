"""Tiny stores for the tests of the command line, what they hold, and asking them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from click.testing import CliRunner
from strategies import copy_of

import saestore
from saestore.cli import main
from saestore.format import SetAttributes
from saestore.sparse_rows import SparseRows
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set
from saestore.writing.plan import ItemTable

N_ITEMS, PATCHES, N_FEATURES = 6, 9, 12
SPLITS = ["train", "train", "cal", "test", "test", "train"]
RED = [1, 0, 1, 1, 0, 0]
IMAGES = [f"images/a rather long folder name/scene_{i:06}.jpg" for i in range(N_ITEMS)]

# Each text is made of its tokens, as tokenizers give them: spaces belong to the token that follows.
TEXTS = [
    ["Oh", " great", ",", " another", " Monday"],
    ["line", "\n", "break", " and", "\ttab"],
    ["🙂", " happy", " 👩\u200d👩\u200d👧", " 日本語", " naïve"],
    ["An", " endless", *[" word"] * 60, " needle", *[" straw"] * 60],
    ["\x1b[31m", "red", " alert", "\u202e", "!"],
]


@dataclass(frozen=True)
class Stored:
    """A store, one set of it, and what the set holds."""

    path: Path
    name: str
    dense: np.ndarray


def random_activations(n_rows: int, n_features: int, seed: int) -> np.ndarray:
    """Float32 with ties, negative values, and a last feature that is never active."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 9, (n_rows, n_features)).astype(np.float32) / 4
    values[rng.random(values.shape) < 0.6] = 0
    values[:, -1] = 0
    return values


def image_store(path: Path) -> Stored:
    """One set: 3 x 3 patches of images with splits and a concept."""
    dense = random_activations(N_ITEMS * PATCHES, N_FEATURES, seed=1)
    items = {"image_path": IMAGES, "split": SPLITS, "width": [640 + i % 2 for i in range(N_ITEMS)], "color::red": RED}

    def make(folder: Path) -> None:
        saestore.open(folder, mode="a").write("Toy/patch/x", sp.csr_array(dense), items=items)

    copy_of("images", make, path)
    return Stored(path, "Toy/patch/x", dense)


def several_sets(path: Path) -> Stored:
    """Three sets, all of one matrix, without items."""
    dense = random_activations(20, 8, seed=2)
    store = saestore.open(path, mode="a")
    for name in ("Toy/patch/x", "Toy/cls/x", "Other/cls/y"):
        store.write(name, sp.csr_array(dense))
    return Stored(path, "Toy/patch/x", dense)


def text_spans() -> np.ndarray:
    """First and last character of every token of `TEXTS`, int32 (n_tokens, 2)."""
    spans = []
    for tokens in TEXTS:
        ends = np.cumsum([len(token) for token in tokens])
        spans += [(end - len(token), end) for token, end in zip(tokens, ends, strict=True)]
    return np.array(spans, np.int32)


def text_store(path: Path) -> Stored:
    """One set of tokens with spans; feature 0 is active on all of them, the later the stronger."""
    n_rows = sum(map(len, TEXTS))
    dense = random_activations(n_rows, 5, seed=3)
    dense[:, 0] = np.arange(1, n_rows + 1)
    pointers = np.cumsum([0, *map(len, TEXTS)])
    items = {"text": ["".join(tokens) for tokens in TEXTS]}
    write_segments(path, "Talk/token/y", dense, [n_rows], item_ptr=pointers, items=items, spans=text_spans())
    return Stored(path, "Talk/token/y", dense)


def write_segments(path, name, dense, sizes, *, item_ptr=None, items=None, spans=None, finish=True) -> None:
    """Write a set in segments of these sizes, with the spans of its tokens; unfinished, it keeps the segments."""
    table = ItemTable.of(len(dense), items, item_ptr, spans)
    items, index = table.items, table.index
    attributes = SetAttributes(
        n_features=dense.shape[1],
        dtype=dense.dtype.name,
        n_items=index.n_items,
        item_size=index.item_size,
        planned_samples=len(dense),
    )
    store = saestore.open(path, mode="a")
    with SetWriter(store.root, name) as writer:
        start_set(writer, attributes, items, index, spans)
        start = 0
        for size in sizes:
            part = sp.csr_array(dense[start : start + size])
            writer.append(SparseRows(part.indptr.astype(np.int64), part.indices.astype(np.uint16), part.data))
            start += size
        if finish:
            writer.finish()


def invoke(*args, store=None):
    """Run a command in this process."""
    return CliRunner().invoke(main, [*map(str, args), *([] if store is None else ["--store", str(store.path)])])


def ask(*args, store):
    """What a command that succeeds prints."""
    result = invoke(*args, store=store)
    assert result.exit_code == 0, result.output
    return result.stdout


def ask_json(*args, store):
    """Its JSON document."""
    return json.loads(ask(*args, "--json", store=store))


def refused(*args, store=None, status=1):
    """The one line that a command says on stderr when it fails; on stdout nothing, or with --json its document."""
    result = invoke(*args, store=store)
    assert result.exit_code == status, result.output
    if "--json" in args:
        assert json.loads(result.stdout)["error"]["message"] in result.stderr
    else:
        assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if status == 1:
        assert result.stderr.startswith("saestore: error: ")
        assert len(result.stderr.splitlines()) == 1
    return result.stderr


def paths_in(value, prefix=""):
    """Every key of a JSON document as the documentation spells it: ``rows[].sample``."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield prefix + key
            yield from paths_in(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from paths_in(inner, prefix.removesuffix(".") + "[].")
