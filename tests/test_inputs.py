"""Embeddings as other programs leave them, and masks of what is padding."""

import errno
import json
from functools import partial

import numpy as np
import pytest
from faults import Faults
from raising import raises
from strategies import memory_store

import saestore
from saestore import files
from saestore.errors import InvalidInputError, NotFoundError, UnreachableError

torch = pytest.importorskip("torch")

from saestore.embeddings.opening import open_embeddings  # noqa: E402
from saestore.npz import load_array  # noqa: E402

N, CTX, D = 6, 5, 4
X = np.random.default_rng(0).normal(size=(N, CTX, D)).astype(np.float32)
FLAT = X.reshape(-1, D)


class Same:
    """An SAE whose activations are its embeddings, above 0."""

    name, d_in, d_sae = "same", D, D

    def __init__(self):
        self.w = np.eye(D, dtype=np.float32)

    def encode(self, x):
        return x.relu()


def build(embeddings, **how):
    return saestore.build("A", embeddings=embeddings, sae=Same(), store=memory_store(), progress=False, **how)


def npz(folder):
    np.savez(folder / "x.npz", other=np.zeros(3), acts=X)
    return folder / "x.npz"


def h5(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.h5", "w") as file:
        file["layer/3"] = X
        file["layer/4"] = X + 1
    return f"{folder / 'x.h5'}:layer/3"


def parquet(folder):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.table({"text": ["a"] * len(FLAT), "embedding": FLAT.tolist()}), folder / "x.parquet"
    )
    return folder / "x.parquet"


def nested(folder):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"sequence": X.tolist()}), folder / "n.parquet")
    return folder / "n.parquet"


def cached(folder):
    """As SAELens caches activations."""
    datasets = pytest.importorskip("datasets")
    hook = "blocks.1.hook_resid_post"
    features = {hook: datasets.Array2D((CTX, D), "float32"), "token_ids": datasets.Sequence(datasets.Value("int32"))}
    data = datasets.Dataset.from_dict(
        {hook: X.tolist(), "token_ids": [[1] * CTX] * N}, features=datasets.Features(features)
    )
    data.save_to_disk(str(folder / "cached"))
    return folder / "cached"


def saev(folder):
    """Two layers and a CLS token, in two shards."""
    shards = np.zeros((N, 2, CTX + 1, D), np.float32)
    shards[:, 1, 1:] = X
    (folder / "saev").mkdir()
    shards[:4].tofile(folder / "saev" / "acts000000.bin")
    shards[4:].tofile(folder / "saev" / "acts000001.bin")
    facts = {"layers": [3, 7], "n_patches_per_img": CTX, "cls_token": True, "d_vit": D, "n_imgs": N}
    (folder / "saev" / "metadata.json").write_text(json.dumps(facts))
    return f"{folder / 'saev'}:7"


def batches(_):
    return (lambda: iter([FLAT[:7], torch.from_numpy(FLAT[7:])]), len(FLAT))


@pytest.mark.parametrize(
    "make", [lambda _: X, lambda _: torch.from_numpy(X), npz, h5, parquet, nested, cached, saev, batches]
)
def test_every_layout_gives_the_same_set(make, tmp_path):
    how = {} if make in {parquet, batches} else {"sample_type": "token"}
    acts = build(make(tmp_path), **how)
    np.testing.assert_allclose(acts.dense(), np.maximum(FLAT, 0), rtol=1e-6)
    assert acts.n_items == (len(FLAT) if make in {parquet, batches} else N)


def test_parts_of_a_source_are_its_rows(tmp_path):
    for make in (npz, cached, saev, batches):
        source = open_embeddings(make(tmp_path))
        for start, stop in ((0, 30), (7, 8), (3, 19), (29, 30), (5, 5)):
            np.testing.assert_array_equal(source.read(start, stop).numpy(), FLAT[start:stop])


MASK = np.arange(CTX) < np.array([5, 3, 4, 1, 2, 5])[:, None]


def masks(folder):
    torch.save({"embeddings": torch.from_numpy(X), "attention_mask": torch.from_numpy(MASK).long()}, folder / "x.pt")
    np.save(folder / "mask.npy", MASK)
    np.savez(folder / "masks.npz", MASK)
    np.save(folder / "x.npy", X)
    beside = [(folder / "x.npy", "mask"), (folder / "x.npy", "masks")]
    given = [(folder / "x.pt", "attention_mask"), (X, folder / "mask.npy"), (X, MASK), (FLAT, torch.from_numpy(MASK))]
    return [*given, *beside]


def test_a_mask_leaves_padding_out(tmp_path):
    for embeddings, mask in masks(tmp_path):
        acts = build(embeddings, mask=mask, sample_type="token")
        np.testing.assert_array_equal(acts.dense(), np.maximum(X[MASK], 0))
        np.testing.assert_array_equal(np.diff(acts.item_index.pointers()), MASK.sum(1))
        assert acts.attributes.source["n_masked"] == (~MASK).sum()


def test_the_shape_of_token_ids_gives_the_items_too():
    ids = np.arange(len(FLAT)).reshape(N, CTX)
    for acts in (
        build(FLAT, tokens=ids),
        saestore.import_activations("A/token/s", np.maximum(FLAT, 0), store=memory_store(), tokens=ids, progress=False),
    ):
        assert acts.attributes.item_size == CTX
        assert np.array_equal(acts.samples["token"], ids.reshape(-1))


def test_masks_and_tokens_beside_embeddings_of_every_layout(tmp_path):
    h5py, arrow = pytest.importorskip("h5py"), pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    ids = np.arange(FLAT.shape[0]) % 7
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["acts"], file["mask"], file["ids"] = X, MASK, ids
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.table({"e": FLAT.tolist(), "mask": MASK.reshape(-1), "ids": ids}), tmp_path / "x.parquet"
    )
    pytest.importorskip("pyarrow.parquet").write_table(  # lists that are a mask, and lists that are no embeddings
        arrow.table({"e": X.tolist(), "mask": MASK.astype(float).tolist(), "ids": ids.reshape(N, CTX).tolist()}),
        tmp_path / "y.parquet",
    )
    columns = {"blocks.0": X.tolist(), "mask": MASK.tolist(), "ids": ids.reshape(N, CTX).tolist()}
    for given in (
        f"{tmp_path / 'x.h5'}:acts",
        tmp_path / "x.parquet",
        tmp_path / "y.parquet",
        datasets.Dataset.from_dict(columns),
    ):
        acts = build(given, mask="mask", tokens="ids", sample_type="token")
        np.testing.assert_array_equal(acts.dense(), np.maximum(X[MASK], 0))
        assert np.array_equal(acts.samples["token"], ids[MASK.reshape(-1)])
        with raises(NotFoundError, "no-such-array", "nope"):
            build(given, mask="mask", tokens="nope", sample_type="token")


@pytest.mark.parametrize(
    "mask", [np.full(30, 2), np.ones(29), np.zeros(30, bool), MASK.T], ids=["values", "length", "nothing", "turned"]
)
def test_a_mask_that_cannot_be(mask):
    with raises(InvalidInputError, "bad-mask"):
        build(X, mask=mask, sample_type="token")
    if mask.ndim > 1:
        with raises(InvalidInputError, "bad-mask", N, CTX):
            saestore.check_import("A/token/s", np.maximum(X, 0), mask=mask)
        with raises(InvalidInputError, "bad-tokens", N, CTX):
            build(X, tokens=mask.astype(int), sample_type="token")


def test_lists_of_lists_and_batches_of_any_byte_order():
    datasets = pytest.importorskip("datasets")
    acts = build(datasets.Dataset.from_dict({"blocks.0": X.tolist(), "token_ids": [[1] * CTX] * N}), tokens=None)
    assert np.array_equal(acts.dense(), np.maximum(FLAT, 0).astype(acts.dense().dtype))
    assert acts.attributes.item_size == CTX
    assert np.array_equal(build((lambda: iter([FLAT.astype(">f4")]), N * CTX)).dense(), np.maximum(FLAT, 0))
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": X.tolist()})})
    with raises(InvalidInputError, "several-splits", "train"):
        build(splits)
    with raises(InvalidInputError, "bad-embeddings", "IterableDataset", "(batches, n_rows)"):
        build(datasets.Dataset.from_dict({"x": X.tolist()}).to_iterable_dataset())
    ragged = datasets.Dataset.from_dict({"x": [*X[:-1].tolist(), X[0, 1:].tolist()]})
    with raises(InvalidInputError, "bad-shape", "differ in length"):
        build(ragged)


def test_batches_that_are_read_again_and_batches_that_are_read_once(monkeypatch):
    monkeypatch.setattr("saestore.embeddings.batches.REMAP_BYTES", 4 * D * 7)  # several blocks of a temporary file
    loader = torch.utils.data.DataLoader(torch.from_numpy(FLAT), batch_size=7)
    rows, of_items = [FLAT[:7], FLAT[7:]], [X[i : i + 2] for i in range(0, N, 2)]
    for given, size in ((rows, 1), (iter(rows), 1), (loader, 1), (of_items, CTX), ((each for each in of_items), CTX)):
        acts = build((given, np.int64(len(FLAT))))
        assert np.array_equal(acts.dense(), np.maximum(FLAT, 0))
        assert acts.attributes.item_size == size
    with raises(InvalidInputError, "wrong-row-count", 30, 31):
        build((iter([FLAT]), 31))
    with raises(InvalidInputError, "wrong-width", 4, 3):
        build((iter([FLAT[:, :3]]), len(FLAT)))
    with raises(InvalidInputError, "unequal-chunks", "(5, 4, 4)"):
        build(([X, X[:5, 1:]], 50))
    for count in (0, -1, True, 24.0, None):
        with raises(InvalidInputError, "wrong-row-count", count):
            build(([FLAT], count))
    with raises(InvalidInputError, "bad-embeddings", "generator", "(batches, n_rows)"):
        build(batch for batch in [FLAT])


def test_arrays_of_other_libraries_and_mappings():
    pandas, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    named = {"hidden": X, "attention_mask": np.ones((N, CTX), int)}
    for given in (pandas.DataFrame(FLAT), xarray.DataArray(X), X.reshape(N, 1, CTX, D), named):
        acts = build(given, mask="attention_mask" if given is named else None)
        assert np.array_equal(acts.dense(), np.maximum(FLAT, 0))
        assert acts.n_items == (N * CTX if isinstance(given, pandas.DataFrame) else N)
    with raises(InvalidInputError, "no-embeddings", "hidden", "other"):
        build({"hidden": X, "other": X})


@pytest.mark.parametrize(
    ("batches", "code", "named"),
    [
        (lambda: 3, "bad-embeddings", "int"),
        (lambda: iter([FLAT, FLAT]), "wrong-row-count", "go on"),
        (lambda: iter([np.concatenate([FLAT, FLAT])]), "wrong-row-count", "go on"),
        (lambda: iter(["rows"]), "bad-embeddings", "str"),
    ],
)
def test_a_function_that_keeps_its_word_is_needed(batches, code, named):
    with raises(InvalidInputError, code, named):
        build((batches, N * CTX))


def test_gaps_in_arrays_and_files_are_named(tmp_path):
    with raises(InvalidInputError, "masked-array", "filled"):
        build(np.ma.masked_greater(FLAT, 1))
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"e": [*FLAT[1:].tolist(), None]}), tmp_path / "x.parquet")
    with raises(InvalidInputError, "bad-shape", "missing"):
        build(tmp_path / "x.parquet")
    with raises(InvalidInputError, "no-such-tensor", "'z'", "it has e"):
        build(f"{tmp_path / 'x.parquet'}:z")
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["empty"], file["rows"] = h5py.Empty("f4"), FLAT
    assert np.array_equal(build(tmp_path / "x.h5").dense(), np.maximum(FLAT, 0))


def test_what_cannot_be_is_refused(tmp_path):
    with raises(InvalidInputError, "wrong-row-count", 30, 31):
        build((batches(None)[0], 31))
    with raises(InvalidInputError, "unknown-layer", 3, 7):
        build(saev(tmp_path).removesuffix(":7"))
    (tmp_path / "saev" / "acts000001.bin").write_bytes(b"1234")
    with raises(InvalidInputError, "damaged-file", "acts000001.bin"):
        build(f"{tmp_path / 'saev'}:7")
    with raises(InvalidInputError, "wrong-width", 4, 3):
        build(np.zeros((6, 3), np.float32))


def test_a_file_that_cannot_be_reached_is_not_called_damaged(tmp_path):
    """The same of every reader: the place fails, and nothing is known of the file."""
    np.save(tmp_path / "x.npy", np.eye(3))
    np.savez(tmp_path / "x.npz", x=np.eye(3))
    torch.save(torch.eye(3), tmp_path / "x.pt")
    (tmp_path / "x.json").write_text("{}")
    for name, read in {"npy": files.load_npy, "npz": partial(load_array, ndim=2), "pt": files.load_pt,
                       "json": files.read_json}.items():  # fmt: skip
        read(tmp_path / f"x.{name}")
        for error in (errno.EIO, errno.EMFILE):
            with Faults(tmp_path, error, 1).active(), raises(UnreachableError, "unreachable", f"x.{name}"):
                read(tmp_path / f"x.{name}")
