"""Delphi's latent cache, in and out; opened by Delphi itself where it is installed."""

import json
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from raising import raises
from strategies import cases, make_case, scratch_store, write_case

import saestore
from saestore.errors import InvalidInputError, NotFoundError

pytest.importorskip("torch", reason="these files are written with torch's help")
safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="a cache is safetensors")

from foreign_files import save_delphi, top_rows  # noqa: E402  (needs torch)

pytestmark = pytest.mark.once

CTX = 10


def imported(path, **how):
    return saestore.import_activations("Texts/token/mine", path, store=scratch_store(), **how)


def faults(acts):
    return {fault["kind"]: fault for fault in acts.attributes.source["faults"]}


def half(case):
    """The case with values as float16 has them."""
    with np.errstate(over="ignore"):
        dense = case.dense.astype(np.float16)
    return type(case)(**{**vars(case), "dense": np.clip(dense, -65504, 65504)})


# In


def test_a_cache_comes_in(tmp_path):
    dense = top_rows(120, 40, 6).astype(np.float16)
    folder = save_delphi(tmp_path / "layers.3.mlp", dense, CTX)
    for path in (folder, tmp_path):
        acts = imported(path)
        assert np.array_equal(acts.dense(), dense)
        assert acts.dtype == np.float16
        assert (acts.n_items, acts.attributes.item_size) == (12, CTX)
    sae, source = acts.attributes.sae, acts.attributes.source
    assert sae["hook_name"] == "layers.3.mlp"
    assert sae["architecture"] is sae["fingerprint"] is None  # a cache does not say which SAE it was
    assert (source["model_name"], source["dataset_repo"]) == ("some/model", "some/texts")
    assert "float16_values" in faults(acts)
    with raises(InvalidInputError, "missing-sae", "Texts/token"):
        saestore.import_activations("Texts/token", folder, store=scratch_store())


def test_wide_latents_and_many_sequences(tmp_path):
    """Beyond 65,535 a location is uint32, in files of the same cache that need it."""
    width = (1 << 17) + 2
    dense = np.zeros((6, width), np.float16)
    dense[0, 3], dense[5, -1], dense[2, 1 << 16] = 1.5, -2.0, 3.0
    acts = imported(save_delphi(tmp_path / "h", dense, 3, splits=1))
    assert acts.shape == (6, width)
    assert acts.feature(width - 1).activation.tolist() == [-2.0]
    assert acts.feature(1 << 16).sample.tolist() == [2]
    assert acts.nnz == 3


def test_padding_is_left_out_if_it_is_said_which(tmp_path):
    dense = top_rows(60, 20, 5, short=False).astype(np.float16)
    tokens = np.random.default_rng(0).integers(5, 90, (6, CTX))
    tokens[1, 7:] = tokens[4, :] = tokens[5, 2:] = 0
    keep = tokens.reshape(-1) != 0
    folder = save_delphi(tmp_path / "h", dense, CTX, tokens=tokens)
    whole = imported(folder)
    assert np.array_equal(whole.dense(), dense)
    assert faults(whole)["perhaps_padding"]["count"] == 3 + 8  # of two sequences that end in it
    assert "--pad-token 0" in faults(whole)["perhaps_padding"]["message"]
    acts = imported(folder, pad_token=0)
    assert "perhaps_padding" not in faults(acts)
    assert np.array_equal(acts.dense(), dense[keep])
    assert acts.item_index.pointers().tolist() == np.cumsum([0, 10, 7, 10, 10, 0, 2]).tolist()
    assert faults(acts)["padding_tokens"]["count"] == np.count_nonzero(dense[~keep])
    np.savez(tmp_path / "x.npz", a=1)
    with raises(InvalidInputError, "option-of-another-format", "pad_token"):
        imported(tmp_path / "x.npz", pad_token=0)


def rewrite(path, change):
    content = safetensors_numpy.load_file(path)
    change(content)
    safetensors_numpy.save_file(content, path)


def test_a_cache_without_tokens(tmp_path):
    dense = top_rows(60, 20, 5, short=False).astype(np.float16)
    folder = save_delphi(tmp_path / "h", dense, CTX)
    for path in folder.glob("*.safetensors"):
        rewrite(path, lambda content: content.pop("tokens"))
    acts = imported(folder)
    assert np.array_equal(acts.dense(), dense)
    assert "samples after sequence 5" in faults(acts)["no_tokens"]["message"]
    (folder / "config.json").unlink()
    with raises(InvalidInputError, "no-tokens", "config.json"):
        imported(folder)


def shorten(content):
    content["activations"] = content["activations"][:-1]


def out_of_sequences(content):
    content["locations"][0, 0] = 99


def out_of_file(content):
    content["locations"][0, 2] = 99


def infinite(content):
    content["activations"][0] = np.inf


def twice(content):
    content["locations"][1] = content["locations"][0]


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (shorten, "bad-shape", "locations"),
        (out_of_sequences, "damaged-file", "sequence 99"),
        (out_of_file, "damaged-file", "latent 99"),
        (infinite, "errors-in-file", "65,504"),
        (twice, "errors-in-file", "more than once"),
        (lambda content: content.pop("locations"), "no-such-tensor", "'locations'"),
        (lambda content: content.update(tokens=np.zeros((3, 3), np.int64)), "bad-shape", "(3, 3)"),
    ],
)
def test_damage(tmp_path, change, code, named):
    folder = save_delphi(tmp_path / "h", top_rows(60, 20, 5, short=False), CTX)
    rewrite(folder / "6_12.safetensors", change)
    with raises(InvalidInputError, code, named):
        imported(folder)


def test_files_that_are_missing(tmp_path):
    folder = save_delphi(tmp_path / "a" / "h", top_rows(60, 20, 5), CTX)
    (folder / "6_12.safetensors").rename(tmp_path / "gone")
    with raises(InvalidInputError, "incomplete-cache", "6", "12"):
        imported(folder)
    save_delphi(tmp_path / "a" / "g", top_rows(60, 20, 5), CTX)
    with raises(NotFoundError, "ambiguous-path"):
        imported(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with raises(NotFoundError, "no-cache", "empty"):
        imported(tmp_path / "empty", format="delphi")
    (folder / "6_12.safetensors").write_bytes(b"\0" * 100)
    with raises(InvalidInputError, "damaged-file", "6_12.safetensors"):
        imported(folder)


# Out


def exported(case, tmp_path, **how):
    """A cache of a case, and the folder of its one hookpoint."""
    acts = write_case(scratch_store(), case)
    done = saestore.export(acts, tmp_path / "cache", format="delphi", **how)
    (folder,) = (tmp_path / "cache").iterdir()
    return done, folder


def edges(folder):
    return sorted(tuple(map(int, path.stem.split("_"))) for path in folder.glob("*.safetensors"))


@settings(max_examples=6)
@given(case=cases())
def test_out_and_in_again(case, tmp_path_factory):
    """Ragged items are padded, and with the padding left out they are ragged again."""
    case = half(case)
    if not case.dense.any():
        return
    tokens = np.arange(1, len(case.dense) + 1)
    _, folder = exported(case, tmp_path_factory.mktemp("out"), tokens=tokens, pad_token=0)
    acts = imported(folder, pad_token=0)
    assert np.array_equal(acts.dense(), case.dense)
    assert np.array_equal(acts.item_index.pointers(), case.item_ptr)


def test_the_layout_is_the_one_that_delphi_wants(tmp_path, monkeypatch):
    monkeypatch.setattr("saestore.formats.selection.BLOCK", 23)
    case = half(make_case(4, 70, 23, density=0.2, palette="signed"))
    case.dense[:, 5:14] = 0  # what would be an empty file
    tokens = np.arange(100, 170)
    _, folder = exported(case, tmp_path, tokens=tokens, pad_token=7)
    assert folder.name == "sae"  # its hookpoint is not known
    found = edges(folder)
    assert found[0][0] == 0
    assert found[-1][1] == 22
    assert all(b[0] == a[1] + 1 for a, b in pairwise(found))
    ctx = np.diff(case.item_ptr).max()
    expected = np.full((case.n_items, ctx), 7)
    for item, (a, b) in enumerate(zip(case.item_ptr[:-1], case.item_ptr[1:], strict=True)):
        expected[item, : b - a] = tokens[a:b]
    dense = np.zeros_like(case.dense)
    for start, end in found:
        content = safetensors_numpy.load_file(folder / f"{start}_{end}.safetensors")
        places = content["locations"].astype(int)
        assert len(places)
        assert content["locations"].dtype == np.uint16
        assert content["activations"].dtype == np.float16
        assert np.array_equal(places, places[np.lexsort(places.T[::-1])])
        assert np.array_equal(content["tokens"], expected)
        assert places[:, 2].max() <= end - start
        dense[case.item_ptr[places[:, 0]] + places[:, 1], start + places[:, 2]] = content["activations"]
    assert np.array_equal(dense, case.dense)
    config = json.loads((folder / "config.json").read_text())
    assert (config["cache_ctx_len"], config["n_tokens"], config["n_splits"]) == (ctx, 70, len(found))


def test_more_latents_than_16_bits(tmp_path):
    case = half(make_case(1, 12, (1 << 16) + 3, ragged=False))
    _, folder = exported(case, tmp_path)
    assert np.array_equal(imported(folder).dense(), case.dense)


def test_a_part(tmp_path):
    case = half(make_case(8, 60, 15, density=0.4))
    train = np.flatnonzero((case.split == 0) & (np.diff(case.item_ptr) > 0))
    tokens = np.arange(1, 61)
    _, folder = exported(case, tmp_path, where={"split": "train"}, features=[3, 11], tokens=tokens)
    acts = imported(folder, pad_token=0)
    rows = np.concatenate([np.arange(case.item_ptr[i], case.item_ptr[i + 1]) for i in train])
    expected = np.zeros_like(case.dense[rows])
    expected[:, [3, 11]] = case.dense[rows][:, [3, 11]]
    assert np.array_equal(acts.dense(), expected)
    assert acts.n_items == len(train)


def test_what_float16_cannot_hold(tmp_path):
    case = make_case(2, 12, 9, density=0.5)
    case.dense[3, 4], case.dense[5, 6] = -70_000, 1e-9
    with raises(InvalidInputError, "too-large-for-float16", "3", "4", "-70000", "float16"):
        exported(case, tmp_path)
    assert list(tmp_path.iterdir()) == []
    done, folder = exported(case, tmp_path, clip=True)
    assert done.notes == (
        "1 activations beyond 65,504 were written as that",
        "1 activations are too small for float16 and were left out",
    )
    dense = imported(folder).dense()
    assert dense.reshape(-1, dense.shape[1]).min() == -65504
    case.dense[:] = 0
    with raises(InvalidInputError, "nothing-selected"):
        exported(case, tmp_path / "empty")
    with raises(InvalidInputError, "bad-tokens", "12"):
        exported(half(make_case(2, 12, 9)), tmp_path / "tokens", tokens=np.arange(11))


def test_delphi_itself_loads_it(tmp_path):
    """With the real package: every latent's places and activations, as its loader gives them to what explains them."""
    for name in ("asyncer", "faiss", "sentence_transformers", "simple_parsing", "blobfile", "orjson", "jaxtyping"):
        pytest.importorskip(name, reason="delphi needs it")
    pytest.importorskip("delphi.latents", reason="delphi is not installed: pip install eai-delphi==0.1.3")
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset

    case = half(make_case(4, 70, 23, density=0.2, palette="signed"))
    case.dense[:, 5:14] = 0
    tokens = np.arange(100, 170)
    _, folder = exported(case, tmp_path, tokens=tokens)
    # Any tokenizer but None, which would fetch one; it is of no use to us.
    dataset = LatentDataset(folder.parent, SamplerConfig(), ConstructorConfig(), tokenizer=object())
    assert dataset.modules == [folder.name]
    assert dataset.tokens.shape == (case.n_items, np.diff(case.item_ptr).max())
    seen = {}
    for buffer in dataset.buffers:
        for data in buffer:
            places = data.activation_data.locations.numpy()
            rows = case.item_ptr[places[:, 0]] + places[:, 1]
            seen[data.latent.latent_index] = rows, data.activation_data.activations.numpy()
    assert sorted(seen) == np.flatnonzero(case.dense.any(axis=0)).tolist()
    for latent, (rows, activations) in seen.items():
        expected = np.flatnonzero(case.dense[:, latent])
        assert rows.tolist() == expected.tolist()
        assert np.array_equal(activations, case.dense[expected, latent])


def test_token_ids_come_in_and_go_out_again(tmp_path):
    dense = top_rows(120, 40, 6).astype(np.float16)
    tokens = np.random.default_rng(1).integers(5, 900, (12, CTX))
    tokens[3, 6:] = 0
    folder = save_delphi(tmp_path / "h", dense, CTX, tokens=tokens)
    acts = imported(folder)
    assert np.array_equal(acts.samples["token"], tokens.ravel())
    written = saestore.export(acts, tmp_path / "out", format="delphi")
    assert written.notes == ()
    assert np.array_equal(cache_tokens(tmp_path / "out"), tokens)
    padded = imported(folder, pad_token=0)
    assert np.array_equal(padded.samples["token"], tokens[tokens != 0])
    saestore.export(padded, tmp_path / "padded", format="delphi")
    assert np.array_equal(cache_tokens(tmp_path / "padded"), tokens)


def test_an_export_without_token_ids_says_so(tmp_path):
    acts = scratch_store().write("Texts/token/mine", sp.csr_array(top_rows(60, 40, 6)), item_ptr=CTX)
    written = saestore.export(acts, tmp_path / "out", format="delphi")
    assert "no token ids" in written.notes[0]


@pytest.mark.parametrize("bad", [-1, 2**32, 40])
def test_places_outside_of_the_cache_are_refused(tmp_path, bad):
    folder = save_delphi(tmp_path / "h", top_rows(60, 40, 6).astype(np.float16), CTX, splits=1)
    file = next(folder.glob("*.safetensors"))
    tensors = {name: array.copy() for name, array in safetensors_numpy.load_file(file).items()}
    tensors["locations"] = tensors["locations"].astype(np.int64)
    tensors["locations"][3, 2] = bad
    safetensors_numpy.save_file(tensors, file)
    with raises(InvalidInputError, "damaged-file", f"{bad:,}"):
        imported(folder)


def cache_tokens(path):
    """The tokens that an export wrote."""
    return safetensors_numpy.load_file(min(path.rglob("*.safetensors")))["tokens"]


@pytest.mark.parametrize("ctx", [10**12, 10**30])
def test_a_cache_without_tokens_that_claims_rows_without_measure(tmp_path, ctx):
    folder = save_delphi(tmp_path / "h", top_rows(60, 20, 5, short=False).astype(np.float16), CTX)
    for path in folder.glob("*.safetensors"):
        rewrite(path, lambda content: content.pop("tokens"))
    (folder / "config.json").write_text(json.dumps({"cache_ctx_len": ctx}))
    with raises(InvalidInputError, "too-large", "h"):
        imported(folder)
