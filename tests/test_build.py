"""Building a set from embeddings: what it holds, what it records, and when it refuses."""

import json
import os
import signal
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

import saestore
from saestore.errors import InvalidInputError, LockedError, NotFoundError, StoreConflictError

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

from build_helpers import (  # noqa: E402 (what follows needs torch)
    D_IN,
    assert_holds,
    clip_scope,
    clip_scope_dense,
    hashes,
    in_batches,
    near,
    sae_lens_folder,
    unexplained,
)
from embedding_files import LAYOUTS, rows, write_chunks  # noqa: E402
from raising import raises  # noqa: E402

from saestore.embeddings.opening import open_embeddings  # noqa: E402
from saestore.ingest import encoded_rows  # noqa: E402

ARCHITECTURES = ("standard", "topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated")
LOW = "ignore:.* of the variance of the first:UserWarning"  # an SAE of random weights explains nothing


@pytest.fixture(scope="module")
def saes(tmp_path_factory):
    """A folder with SAEs: ``tiny.pt`` and ``other.pt`` of CLIP-Scope's format, by their stems."""
    folder = tmp_path_factory.mktemp("saes")
    return {"tiny": clip_scope(folder / "tiny.pt"), "other": clip_scope(folder / "x" / "tiny.pt", seed=5)}


@pytest.fixture
def build(tmp_path, saes):
    """`saestore.build` into a store of the test's own, with a tiny SAE and no progress bar unless asked."""

    def call(dataset="Mine", **how):
        return saestore.build(dataset, **{"store": tmp_path / "store", "sae": saes["tiny"], "progress": False} | how)

    return call


# What is stored.


@pytest.mark.filterwarnings(LOW)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_what_sae_lens_encodes(architecture, tmp_path, build):
    pytest.importorskip("sae_lens")
    sae = sae_lens_folder(architecture, tmp_path / "mysae")
    x = rows(500, D_IN)
    acts = build(embeddings=x, sae=tmp_path / "mysae", segment_rows=200)
    dense = in_batches(sae.encode, x, 200)
    assert 0 < (dense != 0).sum() < dense.size
    assert_holds(acts, dense)
    assert acts.path == "Mine/patch/mysae"
    assert acts.attributes.sae["architecture"] == sae.cfg.architecture()
    assert acts.attributes.complete
    assert acts.attributes.dropped is None


@pytest.mark.filterwarnings(LOW)
def test_takes_a_loaded_sae(tmp_path, build):
    pytest.importorskip("sae_lens")
    sae = sae_lens_folder("topk", tmp_path / "mysae")
    x = rows(30, D_IN)
    assert_holds(build(embeddings=x, sae=sae), in_batches(sae.encode, x))


@pytest.mark.filterwarnings(LOW)
def test_clip_scope_keeps_negative_activations(tmp_path, build):
    sae = clip_scope(tmp_path / "many.pt", k=50)
    x = near(sae, 300)
    dense = clip_scope_dense(sae, x)
    assert (dense < 0).any()
    assert_holds(build(embeddings=x, sae=sae), dense)


@pytest.mark.filterwarnings(LOW)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout, tmp_path, build):
    x = rows(11, 6)
    sae = clip_scope(tmp_path / "six.pt", d_in=6)
    name, write = LAYOUTS[layout]
    acts = build(embeddings=write(tmp_path, x), sae=sae, segment_rows=5)
    assert_holds(acts, in_batches(lambda part: clip_scope_dense(sae, part), x, 5))
    assert acts.attributes.source["layout"] == name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_of_embeddings(dtype, tmp_path, build, saes):
    x = near(saes["tiny"], 100).to(getattr(torch, dtype))
    torch.save(x, tmp_path / "x.pt")
    acts = build(embeddings=tmp_path / "x.pt")
    assert_holds(acts, clip_scope_dense(saes["tiny"], x))
    assert (acts.attributes.source["dtype"], acts.attributes.dtype) == (dtype, "float32")


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_float64_sae_is_stored_as_float64_or_recorded(dtype, tmp_path, build, saes):
    loaded = torch.load(saes["tiny"], weights_only=True)
    loaded["model_state_dict"] = {name: weight.double() for name, weight in loaded["model_state_dict"].items()}
    torch.save(loaded, tmp_path / "wide.pt")
    x = near(saes["tiny"], 100)
    dense = clip_scope_dense(tmp_path / "wide.pt", x)
    acts = build(embeddings=x, sae=tmp_path / "wide.pt", dtype=dtype)
    assert dense.dtype == np.float64
    assert_holds(acts, dense.astype(dtype or np.float64))
    if dtype is None:
        assert acts.attributes.dropped is None
    else:
        error = np.abs(dense - dense.astype(np.float32))[dense != 0] / np.abs(dense[dense != 0])
        assert acts.attributes.dropped["max_relative_error"] == pytest.approx(error.max(), rel=1e-6)


@pytest.mark.parametrize("n_rows", [1, 2, 63, 64, 65, 128, 193])
def test_segments_that_do_not_divide(n_rows, build, saes):
    x = near(saes["tiny"], 200)[:n_rows]
    with unexplained():
        acts = build(embeddings=x, segment_rows=64)
    assert_holds(acts, in_batches(lambda part: clip_scope_dense(saes["tiny"], part), x, 64))
    assert [s.name for s in acts.attributes.segments] == [f"0-{n_rows}"]


def test_one_row_a_segment(build, saes):
    x = near(saes["tiny"], 7)
    acts = build(embeddings=x, segment_rows=1)
    assert_holds(acts, in_batches(lambda part: clip_scope_dense(saes["tiny"], part), x, 1))


def test_segments_of_several_batches(build, saes):
    """4,096 rows are a batch: neither the segments nor the rows are a multiple of it."""
    x = near(saes["tiny"], 9500)
    acts = build(embeddings=x, segment_rows=5000)
    assert_holds(acts, in_batches(lambda part: clip_scope_dense(saes["tiny"], part), x, 5000))
    assert len(acts) == 9500


def test_rows_where_nothing_is_active(tmp_path, build):
    pytest.importorskip("sae_lens")
    sae = sae_lens_folder("jumprelu", tmp_path / "mysae")
    x = rows(100, D_IN)
    x[20:70] = float(sae.b_dec.detach()[0]) * 0  # segments in the middle hold no entry at all
    with torch.no_grad():
        sae.threshold.fill_(0.9)
        sae.b_enc.fill_(-0.5)
    with unexplained():
        acts = build(embeddings=x, sae=sae, segment_rows=10)
    dense = in_batches(sae.encode, x, 10)
    assert (dense[20:70] == 0).all()
    assert dense.any()
    assert_holds(acts, dense)


@pytest.mark.parametrize("codec", ["pcodec", "blosc"])
def test_verify_finds_nothing_wrong(codec, tmp_path, build, saes):
    build(embeddings=near(saes["tiny"], 300), segment_rows=64, codec=codec)
    report = saestore.open(tmp_path / "store").verify()
    assert report.ok, report.problems


def test_the_same_build_gives_the_same_bytes(tmp_path, build, saes):
    x = near(saes["tiny"], 300)
    for name in ("a", "b"):
        build(embeddings=x, segment_rows=64, store=tmp_path / name)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_into_an_open_store_and_into_memory(tmp_path, build, saes):
    import zarr

    x = near(saes["tiny"], 100)
    dense = clip_scope_dense(saes["tiny"], x)
    for location in (tmp_path / "other", zarr.storage.MemoryStore()):
        store = saestore.open(location, mode="a")
        assert_holds(build(embeddings=x, store=store, segment_rows=64), dense)
        assert list(store) == ["Mine/patch/tiny"]


# Items.


def metadata(folder, n_items, key="image_path", **columns):
    split = [("train", "cal", "test")[i % 3] for i in range(n_items)]
    table = {key: [f"{i}.x" for i in range(n_items)], "split": split, "color::red": [i % 2 for i in range(n_items)]}
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        ",".join(table | columns),
        *(",".join(map(str, row)) for row in zip(*(table | columns).values(), strict=True)),
    ]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder / "metadata.csv"


def test_patches_per_item_are_inferred(tmp_path, build, saes):
    acts = build(embeddings=near(saes["tiny"], 90), items=metadata(tmp_path, 10), segment_rows=32)
    assert (acts.n_items, acts.attributes.item_size) == (10, 9)
    assert list(acts.items.column("key")) == [f"{i}.x" for i in range(10)]
    assert list(acts.items.column("split"))[:4] == ["train", "cal", "test", "train"]
    np.testing.assert_array_equal(acts.items.column("color::red"), np.arange(10) % 2 == 1)
    best = acts.top_samples(int(acts.top_features(0, n=1).feature[0]), n=90)
    np.testing.assert_array_equal(best.item, best.sample // 9)
    np.testing.assert_array_equal(best.position, best.sample % 9)
    np.testing.assert_array_equal(acts.group["item"][:], np.repeat(np.arange(10), 9))
    np.testing.assert_array_equal(acts.group["position"][:], np.tile(np.arange(9), 10))


def test_samples_per_item_are_given(build, saes):
    x = near(saes["tiny"], 90)
    acts = build(embeddings=x, item_ptr=30)
    assert (acts.n_items, acts.attributes.item_size) == (3, 30)
    acts = build("Other", embeddings=x)
    assert (acts.n_items, acts.attributes.item_size) == (90, 1)


COUNTS = [[1, 2], [], [4], [1, 1, 1, 17], [3]]
POINTERS = np.array([0, 3, 3, 7, 27, 30])


def pointer_file(kind, folder):
    if kind == "npy":
        np.save(folder / "ptr.npy", POINTERS)
        return folder / "ptr.npy"
    if kind == "npz":
        np.savez(folder / "tokens.npz", other=np.arange(3), text_ptr=POINTERS)
        return f"{folder / 'tokens.npz'}:text_ptr"
    if kind == "pt":
        torch.save(COUNTS, folder / "token_counts.pt")
        return folder / "token_counts.pt"
    return POINTERS


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "array"])
def test_tokens_of_texts(kind, tmp_path, build, saes):
    begin = np.arange(30) % 7
    np.savez(tmp_path / "spans.npz", offsets=np.stack([begin, begin + 2], axis=1))
    acts = build(
        embeddings=near(saes["tiny"], 30),
        sample_type="token",
        items=metadata(tmp_path, 5, key="text_path"),
        item_ptr=pointer_file(kind, tmp_path),
        token_spans=f"{tmp_path / 'spans.npz'}:offsets",
        segment_rows=8,
    )
    assert acts.path == "Mine/token/tiny"
    assert (acts.n_items, acts.attributes.item_size) == (5, None)
    np.testing.assert_array_equal(acts.group["item"][:], np.repeat(np.arange(5), np.diff(POINTERS)))
    np.testing.assert_array_equal(acts.samples["token_start"], begin)
    np.testing.assert_array_equal(acts.samples["token_stop"], begin + 2)
    items, positions = acts.item_index.locate(np.array([2, 3, 6, 7, 29]))
    np.testing.assert_array_equal(items, [0, 2, 2, 3, 4])
    np.testing.assert_array_equal(positions, [2, 0, 3, 0, 2])


def test_cls_is_one_sample_an_item(tmp_path, build, saes):
    acts = build(embeddings=near(saes["tiny"], 12), sample_type="cls", items=metadata(tmp_path, 12))
    assert acts.path == "Mine/cls/tiny"
    assert (acts.n_items, acts.attributes.item_size) == (12, 1)


# Known datasets, found by name.


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A scratch folder as the pipeline that embeds leaves it, with nothing in it yet."""
    monkeypatch.setenv("SAESTORE_SCRATCH", str(tmp_path / "scratch"))

    def folder(*names):
        found = tmp_path.joinpath("scratch", *names)
        found.mkdir(parents=True, exist_ok=True)
        return found

    return folder


def test_images_are_found_by_name(scratch, build, saes):
    x = near(saes["tiny"], 768)
    base = "CLIP_SAE_{}_embeddings_percentthrumodel_92"
    write_chunks(scratch("Embeddings", "CLEVR"), x, [300, 468], base=base.format("patch"))
    write_chunks(scratch("Embeddings", "CLEVR"), x[:3], [3], base=base.format("cls"), wrap=lambda t: {"embeddings": t})
    metadata(scratch("Data", "CLEVR"), 3, **{"class": ["a", "b", "c"]})
    acts = build("clevr", segment_rows=500)
    assert acts.path == "CLEVR/patch/tiny"
    assert (acts.n_items, acts.attributes.item_size) == (3, 256)
    assert acts.attributes.source["items"] == str(scratch("Data", "CLEVR") / "metadata.csv")
    assert list(acts.items.column("class")) == ["a", "b", "c"]
    assert_holds(acts, in_batches(lambda part: clip_scope_dense(saes["tiny"], part), x, 500))
    with unexplained():
        cls = build("CLEVR", sample_type="cls")
    assert (len(cls), cls.n_items, cls.attributes.item_size) == (3, 3, 1)


def test_texts_are_found_by_name(scratch, build, saes):
    x = near(saes["tiny"], 30).half()
    torch.save(x, scratch("Embeddings", "Sarcasm") / "Gemma_SAE_patch_embeddings_percentthrumodel_81.pt")
    metadata(scratch("Data", "Sarcasm"), 5, key="text_path")
    with raises(InvalidInputError, "missing-item-ptr", "30 tokens", "5 texts", "--item-ptr"):
        build("Sarcasm")
    torch.save(COUNTS, scratch("GT_Samples", "Sarcasm") / "token_counts_inputsize_('text', 'text2').pt")
    acts = build("Sarcasm")
    assert acts.path == "Sarcasm/token/tiny"
    np.testing.assert_array_equal(acts.group["item"][:], np.repeat(np.arange(5), np.diff(POINTERS)))
    assert_holds(acts, clip_scope_dense(saes["tiny"], x))


def test_patches_of_known_images_without_metadata(scratch, build, saes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no Data/ here either
    torch.save(
        near(saes["tiny"], 512), scratch("Embeddings", "Coco") / "CLIP_SAE_patch_embeddings_percentthrumodel_92.pt"
    )
    acts = build("Coco")
    assert (acts.n_items, acts.attributes.item_size) == (2, 256)


def test_the_sae_of_a_known_dataset_comes_from_the_hub(scratch, build, saes, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(scratch("hub")))
    torch.save(
        near(saes["tiny"], 512), scratch("Embeddings", "Coco") / "CLIP_SAE_patch_embeddings_percentthrumodel_92.pt"
    )
    with raises(NotFoundError, "hub-offline", "22_resid/1200013184.pt", "lewington/CLIP-ViT-L-scope", "--sae"):
        build("Coco", sae=None)


# What is recorded.


def dropped_by_numpy(dense, top_k, dtype):
    """What ``top_k`` and a dtype leave of a dense matrix, and the record of what they drop."""
    kept = dense.copy()
    if top_k is not None:
        for row in kept:
            active = np.flatnonzero(row)
            order = active[np.lexsort((active, -row[active]))]
            row[order[top_k:]] = 0
    narrow = kept.astype(dtype)
    exact = kept[narrow != 0].astype(np.float64)
    error = np.abs(narrow[narrow != 0].astype(np.float64) - exact) / np.abs(exact)
    gone = np.abs(dense[(dense != 0) & (narrow == 0)]).sum(dtype=np.float64)
    record = {
        "n_dropped": int((dense != 0).sum() - (narrow != 0).sum()),
        "share_of_sum": gone / np.abs(dense).sum(dtype=np.float64),
        "max_relative_error": error.max(),
    }
    return narrow, record


@pytest.mark.parametrize(("top_k", "dtype"), [(2, None), (None, "float16"), (3, "float16"), (99, None)])
def test_what_was_dropped_is_recorded(top_k, dtype, build, saes):
    x = near(saes["tiny"], 300)
    whole = build("Whole", embeddings=x, segment_rows=64).dense()
    acts = build(embeddings=x, segment_rows=64, top_k=top_k, dtype=dtype)
    kept, record = dropped_by_numpy(whole, top_k, dtype or "float32")
    assert acts.attributes.dtype == (dtype or "float32")
    np.testing.assert_array_equal(acts.dense(), kept)
    told = acts.attributes.dropped
    assert (told["top_k"], told["dtype"]) == (top_k, dtype or "float32")
    assert told["n_dropped"] == record["n_dropped"]
    assert told["share_of_sum"] == pytest.approx(record["share_of_sum"], rel=1e-12)
    assert told["max_relative_error"] == record["max_relative_error"]
    assert acts.info()["dropped"] == told


def test_float16_counts_what_it_rounds_to_zero(tmp_path, build, saes):
    loaded = torch.load(saes["tiny"], weights_only=True)
    loaded["model_state_dict"]["enc"] *= 1e-7
    torch.save(loaded, tmp_path / "faint.pt")
    x = near(saes["tiny"], 300)
    with pytest.warns(UserWarning, match="of the variance"):
        whole = build("Whole", embeddings=x, sae=tmp_path / "faint.pt").dense()
    with pytest.warns(UserWarning, match="of the variance"):
        acts = build(embeddings=x, sae=tmp_path / "faint.pt", dtype="float16")
    kept, record = dropped_by_numpy(whole, None, "float16")
    assert record["n_dropped"] > 0
    np.testing.assert_array_equal(acts.dense(), kept)
    assert acts.attributes.dropped["n_dropped"] == record["n_dropped"]


def test_explained_variance_of_the_first_batch(build, saes):
    x = near(saes["tiny"], 5000)
    acts = build(embeddings=x)
    state = torch.load(saes["tiny"], weights_only=True)["model_state_dict"]
    first = x[:4096].numpy().astype(np.float64)
    decoded = (
        clip_scope_dense(saes["tiny"], x[:4096]).astype(np.float64) @ state["dec"].numpy() + state["pre_b"].numpy()
    )
    expected = 1 - ((first - decoded) ** 2).sum() / ((first - first.mean(axis=0)) ** 2).sum()
    assert acts.attributes.summary["explained_variance"] == pytest.approx(expected, rel=1e-5)
    assert expected > 0.6


@pytest.mark.once
def test_every_batch_is_encoded_once(build, saes, monkeypatch):
    """The first one too, of which the explained variance is measured, unless a segment begins with fewer rows."""
    from saestore.sae.encode import Encoder

    x, encode, encoded = near(saes["tiny"], 9500), Encoder.encode, []
    monkeypatch.setattr(Encoder, "encode", lambda self, x, *first: encoded.append(len(x)) or encode(self, x, *first))
    acts = build(embeddings=x)
    assert encoded == [4096, 4096, 1308]
    assert_holds(acts, in_batches(lambda part: clip_scope_dense(saes["tiny"], part), x, 4096))
    encoded.clear()
    build("Other", embeddings=x[:150], segment_rows=64)
    assert encoded == [150, 64, 64, 22]


def test_low_explained_variance_warns_the_caller(build, saes):
    with pytest.warns(
        UserWarning, match=r"tiny explains -\d+\.\d\d of the variance of the first 50 .*wrong layer"
    ) as all_:
        build(embeddings=near(saes["tiny"], 50) + 10)
    (told,) = [warning for warning in all_ if "explains" in str(warning.message)]
    assert told.filename == __file__


def test_rows_all_alike_have_no_explained_variance(build, saes):
    acts = build(embeddings=torch.ones(5, D_IN))
    assert acts.attributes.summary["explained_variance"] is None
    json.dumps(acts.info())


def test_provenance(tmp_path, build, saes):
    x = near(saes["tiny"], 20).half()
    np.save(tmp_path / "x.npy", x.numpy())
    source = build(embeddings=tmp_path / "x.npy", items=metadata(tmp_path, 10)).attributes.source
    assert source["path"] == str(tmp_path / "x.npy")
    assert source["items"] == str(tmp_path / "metadata.csv")
    assert [source[name] for name in ("kind", "layout", "n_rows", "d_in", "dtype")] == [
        "embeddings",
        "npy",
        20,
        8,
        "float16",
    ]


# Building again.


def test_a_complete_set_is_left_as_it_is(tmp_path, build, saes, capsys):
    x = near(saes["tiny"], 100)
    build(embeddings=x, segment_rows=64)
    before = hashes(tmp_path / "store")
    modified = {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("*.json")}
    acts = build(embeddings=x, segment_rows=64, progress=True)
    assert "Mine/patch/tiny is complete already (100 samples); nothing to do." in capsys.readouterr().err
    assert hashes(tmp_path / "store") == before
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("*.json")} == modified
    assert_holds(acts, in_batches(lambda part: clip_scope_dense(saes["tiny"], part), x, 64))
    build(embeddings=x)  # segment_rows not said: not another build


@pytest.fixture
def different(tmp_path, saes):
    """What makes a build another one, by the name that the refusal gives it."""
    return {
        "SAE": {"sae": saes["other"]},
        "embeddings": {"embeddings": near(saes["tiny"], 60, seed=9)},
        "items": {"items": metadata(tmp_path / "new", 10, **{"color::red": [1] * 10})},
        "token_spans": {"token_spans": np.zeros((60, 2), int)},
        "dtype": {"dtype": "float16"},
        "top_k": {"top_k": 2},
        "codec": {"codec": "blosc"},
        "segment_rows": {"segment_rows": 33},
    }


CAN_DIFFER = ("SAE", "embeddings", "items", "token_spans", "dtype", "top_k", "codec", "segment_rows")


@pytest.mark.parametrize("what", CAN_DIFFER)
def test_another_build_is_refused_and_overwrites_when_told(what, different, tmp_path, build, saes):
    how = {"embeddings": near(saes["tiny"], 60), "items": metadata(tmp_path, 10), "segment_rows": 32}
    build(**how)
    before = hashes(tmp_path / "store")
    other = how | different[what]
    with raises(StoreConflictError, "different-content", f"differ: {what} (", "--overwrite") as error:
        build(**other)
    assert "\n" not in str(error.value)
    assert hashes(tmp_path / "store") == before
    with unexplained():
        build(**other, overwrite=True)
        build(**other, store=tmp_path / "fresh")
    # Names of the new segments and columns differ, what they hold does not.
    there, fresh = saestore.open(tmp_path / "store"), saestore.open(tmp_path / "fresh")
    assert list(there) == list(fresh)
    for path in fresh:
        np.testing.assert_array_equal(there[path].dense(), fresh[path].dense())
        assert there[path].items.to_pandas().equals(fresh[path].items.to_pandas())
        assert there[path].attributes.source == fresh[path].attributes.source
    assert there.verify().ok


def test_all_that_differs_is_named(tmp_path, build, saes):
    build(embeddings=near(saes["tiny"], 60))
    with raises(
        StoreConflictError, "different-content", "embeddings (", "dtype (float32 there, float16 now)", "top_k (None"
    ):
        build(embeddings=near(saes["tiny"], 61), dtype="float16", top_k=1)


def test_sets_side_by_side(tmp_path, build, saes):
    x = near(saes["tiny"], 40)
    build(embeddings=x)
    build(embeddings=x, sample_type="cls")
    build("Other", embeddings=x)
    store = saestore.open(tmp_path / "store")
    assert list(store) == ["Mine/cls/tiny", "Mine/patch/tiny", "Other/patch/tiny"]
    assert store.verify().ok


@pytest.mark.parametrize("there", [False, True])
def test_the_store_is_opened_once(there, tmp_path, build, saes, monkeypatch):
    """Where there is none, it is looked for once, and created by the first write."""
    if there:
        build("Other", embeddings=near(saes["tiny"], 40))
    attempts, opened, open_group = [], [], zarr.open_group

    def counting(store, *args, **kwargs):
        if str(store) == str(tmp_path / "store"):
            attempts.append(kwargs.get("mode"))
            group = open_group(store, *args, **kwargs)
            opened.append(group)
            return group
        return open_group(store, *args, **kwargs)

    monkeypatch.setattr(zarr, "open_group", counting)
    with pytest.raises(InvalidInputError):
        build(embeddings=torch.full((5, D_IN), float("nan")))
    assert (len(attempts), len(opened)) == (1, int(there))
    assert (tmp_path / "store").exists() == there
    assert build(embeddings=near(saes["tiny"], 40)).attributes.complete
    assert len(opened) == 2 * there
    build(embeddings=near(saes["tiny"], 40))
    assert len(opened) == 2 * there + 1


def test_a_second_builder_is_refused_while_the_first_lives(tmp_path, build, saes, processes):
    np.save(tmp_path / "x.npy", near(saes["tiny"], 200).numpy())
    how = {"embeddings": tmp_path / "x.npy", "segment_rows": 64}
    first = processes.start({"dataset": "Mine", "store": tmp_path / "store", "sae": saes["tiny"]} | how, stop_at=400)
    _wait_until_stopped(first)
    with raises(LockedError, "locked", "Mine/patch/tiny", f"process {first}", "since"):
        build(**how)
    with raises(LockedError, "locked", f"process {first}"):
        build(**how, overwrite=True)
    build("Other", **how)  # another set is not locked
    os.kill(first, signal.SIGKILL)
    assert processes.result()["exit"] == -signal.SIGKILL
    acts = build(**how)  # the lock of a dead process is taken over
    assert acts.attributes.complete
    assert not (tmp_path / "store" / acts.path / "lock").exists()


def _wait_until_stopped(pid):
    """Wait until a process that is not our child is stopped."""
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.01)


def test_identical_rows_are_reported_and_recorded(build, saes, monkeypatch):
    """Padding that was not left out makes features look frequent."""
    x = near(saes["tiny"], 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "identical_rows" not in build(embeddings=x).attributes.summary
    x[50:90] = 0
    with pytest.warns(UserWarning, match="40 of 200 embeddings are identical"):
        acts = build(embeddings=x, overwrite=True)
    assert acts.attributes.summary["identical_rows"] == 40
    monkeypatch.setattr(encoded_rows, "_COMPARED", 85)
    monkeypatch.setattr(encoded_rows, "_CHECK_BYTES", 4 * 4 * x.shape[1])  # whole blocks come after the last of these
    with pytest.warns(UserWarning, match="35 of the first 85 embeddings are identical"):
        build(embeddings=x[:180], overwrite=True)


@pytest.mark.parametrize("n", [1, 2, 200_000])
def test_looking_for_identical_rows_takes_ten_bytes_a_row(monkeypatch, n):
    """Also of whole numbers, whose floats have zeros in most of their bits."""
    monkeypatch.setattr(encoded_rows, "_CHECK_BYTES", 1 << 16)
    x = np.random.default_rng(n).integers(0, 30, (n, 4)).astype(np.float32)
    rows = encoded_rows.EncodedRows(open_embeddings(x), None, "float32", None, {})
    tracemalloc.start()
    try:
        rows.check(0, lambda *_: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    counts = np.unique(x, axis=0, return_counts=True)[1]
    assert rows.n_identical == counts[counts > 1].sum()
    assert peak < 11 * n + (1 << 20)
    rows.check(n, lambda *_: None)  # nothing is appended
    assert rows.n_identical == 0
