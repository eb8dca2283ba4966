"""Activations for tests, small and awkward: ties, negatives, empty rows, dead features, chunks of a few values.

Hypothesis chooses the shape of a case and a seed; numpy draws the numbers, so that an example costs microseconds.
"""

import pickle
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st

import saestore
from saestore.activation_set import ActivationSet
from saestore.format import SetAttributes, feature_dtype
from saestore.sparse_rows import SparseRows
from saestore.store import Store
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import as_items
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

PATH = "Shapes/patch/sae"
SPLITS = np.array(["train", "cal", "test"])

# What the values of a case look like. "one" makes every order a matter of ties, "extreme" tries the ends of the dtype.
PALETTES = ("ties", "one", "signed", "heavy", "extreme")


@dataclass(frozen=True)
class Case:
    """An activation matrix, which rows are whose, and how it is cut into segments, chunks and shards."""

    dense: np.ndarray
    item_ptr: np.ndarray
    split: np.ndarray
    red: np.ndarray
    segment_rows: int
    codec: str = "pcodec"
    chunk: int = 1 << 13
    shard: int = 1 << 22

    @property
    def n_features(self) -> int:
        return self.dense.shape[1]

    @property
    def n_items(self) -> int:
        return len(self.item_ptr) - 1

    @property
    def csr(self) -> sp.csr_array:
        """The non-zeros; float16 as float32, because scipy has none."""
        return sp.csr_array(self.dense.astype(np.result_type(self.dense.dtype, np.float32)))

    @property
    def items(self) -> dict[str, Any]:
        return {
            "image_path": [f"images/{i:03}.png" for i in range(self.n_items)],
            "split": SPLITS[self.split].tolist(),
            "color::red": self.red.astype(int).tolist(),
            "weight": (np.arange(self.n_items) * 7 % 5 + 2).tolist(),
        }

    @property
    def item_of_sample(self) -> np.ndarray:
        return np.repeat(np.arange(self.n_items), np.diff(self.item_ptr))


def make_case(
    seed: int,
    n_rows: int,
    n_features: int,
    *,
    density: float = 0.2,
    palette: str = "ties",
    dtype: str = "float32",
    segment_rows: int | None = None,
    ragged: bool = True,
    **layout: Any,
) -> Case:
    rng = np.random.default_rng(seed)
    dense = np.zeros((n_rows, n_features), dtype)
    nnz = rng.binomial(n_rows * n_features, density) if n_rows * n_features < 1 << 16 else n_rows * 8
    places = rng.choice(n_rows * n_features, nnz, replace=False)
    dense.reshape(-1)[places] = _values(rng, palette, nnz, dtype)
    dense[rng.random(n_rows) < 0.1] = 0
    dense[:, rng.random(n_features) < 0.1] = 0
    if n_features >= 1 << 16 > n_features - 2:
        dense[rng.integers(n_rows, size=3), -1] = 1  # the last feature id is the one that must still fit
    n_items = int(rng.integers(1, n_rows + 1))
    if ragged:  # some items without a sample
        ptr = np.sort(rng.integers(0, n_rows + 1, n_items - 1))
        item_ptr = np.concatenate([[0], ptr, [n_rows]]).astype(np.int64)
    else:
        item_ptr = np.arange(n_rows + 1, dtype=np.int64)
    n_items = len(item_ptr) - 1
    return Case(
        dense,
        item_ptr,
        rng.integers(0, 3, n_items),
        rng.random(n_items) < 0.4,
        segment_rows or n_rows,
        **layout,
    )


def _values(rng: np.random.Generator, palette: str, n: int, dtype: str) -> np.ndarray:
    limits = np.finfo(dtype)
    if palette == "ties":
        return rng.choice([0.5, 1.0, 2.0, -1.0], n).astype(dtype)
    if palette == "one":
        return np.ones(n, dtype)
    if palette == "signed":
        values = rng.normal(size=n).astype(dtype)
    elif palette == "heavy":
        values = np.exp(2 * rng.normal(size=n)).astype(dtype)
    else:
        # float64 sums of the largest float64 are infinite; half its exponent is large enough.
        top = limits.max if dtype != "float64" else 1e150
        values = rng.choice([top, -top, limits.tiny, -limits.tiny, limits.smallest_subnormal, 1.0], n).astype(dtype)
    values[values == 0] = 1
    return values


@st.composite
def cases(draw: st.DrawFn, max_rows: int = 40, max_features: int = 20) -> Case:
    """Cases of any kind. Small ones come first, so that a failure shrinks."""
    n_rows = draw(st.integers(1, max_rows))
    chunk = draw(st.sampled_from([7, 64, 1 << 13]))
    return make_case(
        draw(st.integers(0, 2**32 - 1)),
        n_rows,
        draw(st.integers(1, max_features)),
        density=draw(st.sampled_from([0.0, 0.05, 0.3, 0.9])),
        palette=draw(st.sampled_from(PALETTES)),
        dtype=draw(st.sampled_from(["float32", "float64", "float16"])),
        segment_rows=draw(st.sampled_from([n_rows, -(-n_rows // 2), -(-n_rows // 5)])),
        ragged=draw(st.booleans()),
        codec=draw(st.sampled_from(["pcodec", "pcodec", "blosc"])),
        chunk=chunk,
        # Shards of a few chunks, or one that holds the whole array.
        shard=chunk * draw(st.sampled_from([4, 1 << 9])),
    )


@contextmanager
def layout(case: Case) -> Iterator[None]:
    """Write with the chunks and shards of a case, so that a small array has many of both."""
    with (
        mock.patch("saestore.storage.arrays.CHUNK", case.chunk),
        mock.patch("saestore.storage.arrays.SHARD", case.shard),
    ):
        yield


def write_case(store: Store, case: Case, path: str = PATH, **kwargs: Any) -> ActivationSet:
    """Write a case as a user does; compacted at the end."""
    with layout(case):
        return store.write(
            path, case.csr, case.item_ptr, case.items,
            dtype=case.dense.dtype.name, codec=case.codec, segment_rows=case.segment_rows, **kwargs,
        )  # fmt: skip


def write_segments(store: Store, case: Case, path: str = PATH, *, upto: int | None = None) -> ActivationSet:
    """Write a case, or its first `upto` rows, and leave its segments as they are, as a set that is being built."""
    with layout(case), SetWriter(store.root, path) as writer:
        append_segments(writer, case, upto)
    return store[path]


def append_segments(writer: SetWriter, case: Case, upto: int | None = None) -> None:
    """Start the set if it does not exist, and append the segments that it lacks."""
    index = ItemIndex.of(case.item_ptr)
    if writer.attributes is None:
        attributes = SetAttributes(
            n_features=case.n_features,
            dtype=case.dense.dtype.name,
            codec=case.codec,
            n_items=index.n_items,
            item_size=index.item_size,
            segment_rows=case.segment_rows,
            planned_samples=len(case.dense),
        )
        start_set(writer, attributes, as_items(case.items), index)
    n_rows = len(case.dense) if upto is None else upto
    assert writer.attributes is not None
    for start in range(writer.attributes.n_samples, n_rows, case.segment_rows):
        writer.append(csr_rows(case, start, min(start + case.segment_rows, n_rows)))


def csr_rows(case: Case, start: int, stop: int) -> SparseRows:
    """Rows as a writer gets them: int64 pointers, ids of the stored dtype, activations of the stored dtype."""
    part = case.csr[start:stop]
    part.sort_indices()
    ids = part.indices.astype(feature_dtype(case.n_features))
    return SparseRows(part.indptr.astype(np.int64), ids, part.data.astype(case.dense.dtype))


def shorter(case: Case, n_rows: int) -> Case:
    """The first rows of a case."""
    ptr = np.minimum(case.item_ptr, n_rows)
    return replace(case, dense=case.dense[:n_rows], item_ptr=ptr)


_MADE: dict[Hashable, Path] = {}


def copy_of(key: Hashable, make: Callable[[Path], object], path: Path) -> Store:
    """What `make` leaves in a folder, in another one: made once under its key, then copied, which is far quicker."""
    if key not in _MADE:
        made = Path(tempfile.mkdtemp()) / "a.zarr"
        make(made)
        _MADE[key] = made
    return saestore.open(shutil.copytree(_MADE[key], path), "a")


def written(case: Case) -> ActivationSet:
    """A case in a store of its own, as `write_case` leaves it there."""
    path = Path(tempfile.mkdtemp()) / "a.zarr"
    return copy_of(pickle.dumps(case), lambda made: write_case(saestore.open(made, "a"), case), path)[PATH]


def scratch_store() -> Store:
    """A new, empty store in a folder of its own below pytest's: three times as fast as one in memory, through zarr."""
    return saestore.open(Path(tempfile.mkdtemp()) / "a.zarr", "a")


def memory_store() -> Store:
    """A new, empty store in memory, which zarr reads; `test_queries.py` asks such a one every question."""
    from zarr.storage import MemoryStore

    return saestore.open(MemoryStore(), "a")
