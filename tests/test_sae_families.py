"""SAEs as other libraries save them, and objects of the user's own: activations as their own code gives them."""

import importlib.util
import json
import pickle

import numpy as np
import pytest
from raising import raises
from strategies import memory_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from saestore.sae import load_sae  # noqa: E402
from saestore.sae.encode import Encoder  # noqa: E402

D, F, K = 12, 40, 5
X = torch.randn(60, D, generator=torch.Generator().manual_seed(1))


def weights(seed=0):
    """As most libraries have them: encoder (D, F), decoder (F, D)."""
    g = torch.Generator().manual_seed(seed)
    enc, dec = torch.randn(D, F, generator=g), torch.randn(F, D, generator=g)
    return {"W_enc": enc, "b_enc": torch.randn(F, generator=g) / 3, "W_dec": dec, "b_dec": torch.randn(D, generator=g)}


def dense_of(sae, x=X):
    rows = Encoder(sae).encode(x)
    out = np.zeros((len(x), sae.d_sae), np.float32)
    out[np.repeat(np.arange(len(x)), np.diff(rows.indptr)), rows.indices] = rows.data
    return out


def largest(p, k):
    """The k largest of each row, in place."""
    kept = np.zeros_like(p)
    ids = np.argsort(-p, axis=1)[:, :k]
    np.put_along_axis(kept, ids, np.take_along_axis(p, ids, 1), 1)
    return kept


def pre(w, *, shift=False):
    x = X.numpy() - (w["b_dec"].numpy() if shift else 0)
    return x @ w["W_enc"].numpy() + w["b_enc"].numpy()


def same(sae, expected):
    """Equal up to the order of a sum."""
    np.testing.assert_allclose(dense_of(sae), expected, rtol=1e-4, atol=1e-5)
    assert (sae.d_in, sae.d_sae) == (D, F)
    return sae


def sparsify(folder, w, **config):
    folder.mkdir(parents=True)
    held = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "W_dec": w["W_dec"],
        "b_dec": w["b_dec"],
    }
    held |= {"W_skip": torch.zeros(D, D)} if config.get("skip_connection") else {}
    safetensors.save_file(held, folder / "sae.safetensors")
    base = {"activation": "topk", "num_latents": F, "k": K, "d_in": D, "transcode": False, "expansion_factor": 32}
    (folder / "cfg.json").write_text(json.dumps({**base, **config}))
    return folder


SPARSIFY = [{}, {"activation": "groupmax"}, {"transcode": True}, {"skip_connection": True}]


@pytest.mark.parametrize("config", SPARSIFY, ids=str)
def test_sparsify(config, tmp_path):
    w = weights()
    sae = load_sae(sparsify(tmp_path / "run" / "layers.3", w, **config))
    p = np.maximum(pre(w, shift=not config.get("transcode")), 0)
    if config.get("activation") == "groupmax":
        groups = p.reshape(len(p), K, F // K)
        expected = (groups * (groups == groups.max(-1, keepdims=True))).reshape(len(p), F)
    else:
        expected = largest(p, K)
    same(sae, expected)
    assert (sae.info["family"], sae.info["hook_name"]) == ("sparsify", "blocks.3.hook_resid_post")
    assert sae.name == "run-layers.3"
    assert sae.info.get("transcodes", False) is (bool(config.get("transcode") or config.get("skip_connection")))


@pytest.mark.parametrize("config", SPARSIFY, ids=str)
def test_sparsify_as_its_own_package_encodes(config, tmp_path):
    package = pytest.importorskip("sparsify.sparse_coder", reason="needs eai-sparsify")
    folder = sparsify(tmp_path / "run" / "layers.3", weights(), **config)
    theirs = package.SparseCoder.load_from_disk(folder)
    top = theirs.encode(X)
    expected = torch.zeros(len(X), F).scatter_(1, top.top_indices, top.top_acts.detach()).numpy()
    same(load_sae(folder), expected)
    same(load_sae(theirs), expected)  # the object itself, by its encode


def dictionary(folder, kind, state, **trainer):
    folder.mkdir(parents=True)
    torch.save(state, folder / "ae.pt")
    facts = {"dict_class": kind, "activation_dim": D, "dict_size": F, "lm_name": "some/model", "layer": 2,
             "submodule_name": "resid_post_layer_2", **trainer}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"trainer": facts, "buffer": {"ctx_len": 128}}))
    return folder


def linear(w, bias="b_dec"):
    first = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    return {**first, "decoder.weight": w["W_dec"].T, bias: w["b_dec"]}


def dictionaries():
    """Class -> its state, and its activations by its published formula."""
    w, gate = weights(), torch.randn(3, F, generator=torch.Generator().manual_seed(3)) / 3
    shifted, plain = np.maximum(pre(w, shift=True), 0), pre(w)
    standard = linear(w, "bias")
    gated = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T, "decoder_bias": w["b_dec"],
             "r_mag": gate[0], "gate_bias": gate[1], "mag_bias": gate[2]}  # fmt: skip
    product = (X - w["b_dec"]).numpy() @ w["W_enc"].numpy()
    magnitude = np.maximum(np.exp(gate[0].numpy()) * product + gate[2].numpy(), 0)
    threshold = torch.rand(F, generator=torch.Generator().manual_seed(4)) * 3
    one = torch.tensor(2.5)
    return {
        "AutoEncoder": (standard, shifted),
        "GatedAutoEncoder": (gated, magnitude * (product + gate[1].numpy() > 0)),
        "JumpReluAutoEncoder": ({**w, "threshold": threshold}, np.maximum(plain, 0) * (plain > threshold.numpy())),
        "AutoEncoderTopK": ({**linear(w), "k": torch.tensor(K), "threshold": torch.tensor(-1.0)}, largest(shifted, K)),
        "BatchTopKSAE": ({**linear(w), "k": torch.tensor(K), "threshold": one}, shifted * (shifted > 2.5)),
        "MatryoshkaBatchTopKSAE": ({**w, "k": torch.tensor(K), "threshold": one}, shifted * (shifted > 2.5)),
    }


@pytest.mark.parametrize("kind", list(dictionaries()))
def test_dictionary_learning(kind, tmp_path):
    state, expected = dictionaries()[kind]
    folder = dictionary(tmp_path / "run" / "trainer_0", kind, state)
    for spec in (folder, folder / "ae.pt"):
        sae = same(load_sae(spec), expected)
    assert sae.name == "run-trainer_0"
    assert (sae.info["hook_name"], sae.info["model_name"]) == ("blocks.2.hook_resid_post", "some/model")


@pytest.mark.parametrize("kind", ["AutoEncoder", "GatedAutoEncoder", "JumpReluAutoEncoder"])
def test_dictionaries_as_their_own_package_encodes(kind, tmp_path):
    found = importlib.util.find_spec("dictionary_learning")
    if found is None:
        pytest.skip("needs dictionary-learning")
    # Its package imports nnsight, which these classes do not need.
    spec = importlib.util.spec_from_file_location("dl", f"{found.submodule_search_locations[0]}/dictionary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state, _ = dictionaries()[kind]
    theirs = getattr(module, kind)(D, F)
    theirs.load_state_dict(state)
    expected = theirs.encode(X).detach().numpy()
    same(load_sae(dictionary(tmp_path / "a", kind, state)), expected)
    same(load_sae(theirs), expected)


def test_a_dictionary_of_an_early_checkpoint_depends_on_its_batch(tmp_path):
    state = {**linear(weights()), "k": torch.tensor(K), "threshold": torch.tensor(-1.0)}
    with raises(InvalidInputError, "unsupported-sae", "threshold", "dictionary_learning"):
        load_sae(dictionary(tmp_path / "a", "BatchTopKSAE", state))
    with raises(InvalidInputError, "unsupported-sae", "Unknown", "AutoEncoderTopK"):
        load_sae(dictionary(tmp_path / "b", "Unknown", state))


L, M = 3, D // 3  # streams of a crosscoder, and the width of each


def crosscoders():
    """How each library has the weights of a crosscoder, and its activations by its published formula."""
    g = torch.Generator().manual_seed(7)
    enc, dec, b_enc, b_dec = (torch.randn(*shape, generator=g) for shape in ((L, M, F), (F, L, M), (F,), (L, M)))
    p = np.maximum(np.einsum("nlm,lmf->nf", X.view(-1, L, M).numpy(), enc.numpy()) + b_enc.numpy(), 0)
    norms = np.linalg.norm(dec.numpy(), axis=2)
    theirs = {"encoder.weight": enc, "encoder.bias": b_enc, "decoder.weight": dec.transpose(0, 1).contiguous(),
              "decoder.bias": b_dec}  # fmt: skip
    batch = {**theirs, "k": torch.tensor(K), "threshold": torch.tensor(9.0)}
    back = np.einsum("nf,flm->nlm", p, dec.numpy()) + b_dec.numpy()
    return {
        "two models": ({"W_enc": enc, "b_enc": b_enc, "W_dec": dec, "b_dec": b_dec}, p, back),
        "CrossCoder": (theirs, p, back),
        "BatchTopKCrossCoder": ({**batch, "code_normalization_id": torch.tensor(1)}, p * (p * norms.sum(1) > 9), None),
        "BatchTopKCrossCoder, norms of SAEs": (
            {**batch, "code_normalization_id": torch.tensor(2)}, p * (p * np.linalg.norm(norms, axis=1) > 9), None
        ),
    }  # fmt: skip


def crosscoder(folder, kind, state, **config):
    """Save it as its library does."""
    if kind == "two models":
        folder.mkdir()
        torch.save(state, folder / "cc_weights.pt")
        facts = {"d_in": M, "dict_size": F, "n_models": L, "hook_point": "blocks.14.hook_resid_pre", **config}
        (folder / "cfg.json").write_text(json.dumps(facts))
        return folder
    facts = {"activation_dim": M, "num_layers": L, **config}
    return dictionary(folder, kind.partition(",")[0], state, **facts)


@pytest.mark.parametrize("kind", list(crosscoders()))
def test_crosscoders(kind, tmp_path):
    state, expected, _ = crosscoders()[kind]
    sae = same(load_sae(crosscoder(tmp_path / "c", kind, state)), expected)
    assert (sae.info["streams"], sae.info["family"]) == (
        L,
        "model-diff crosscoder" if kind == "two models" else "dictionary_learning",
    )
    if kind != "two models":  # as their hub has it: the arguments of the class, and safetensors
        (tmp_path / "hub").mkdir()
        safetensors.save_file(
            {name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "hub" / "model.safetensors"
        )
        (tmp_path / "hub" / "config.json").write_text(
            json.dumps({"activation_dim": M, "dict_size": F, "num_layers": L})
        )
        same(load_sae(tmp_path / "hub"), expected)


@pytest.mark.filterwarnings("ignore:c explains")  # random weights explain nothing
def test_a_crosscoder_decodes_all_streams_where_it_writes_what_it_reads(tmp_path):
    state, expected, back = crosscoders()["two models"]
    folder = crosscoder(tmp_path / "c", "two models", state)
    acts = saestore.build("A", embeddings=X.view(-1, L, M), sae=folder, store=memory_store(), progress=False)
    np.testing.assert_allclose(acts.dense(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(acts.decode(slice(None)), back.reshape(-1, D), rtol=1e-4, atol=1e-4)
    with raises(InvalidInputError, "wrong-width", D, M):
        saestore.build("B", embeddings=X[:, :M], sae=folder, store=memory_store(), progress=False)
    fewer = {**state, "W_dec": state["W_dec"][:, :1], "b_dec": state["b_dec"][:1]}
    folder = crosscoder(tmp_path / "d", "two models", fewer)
    acts = saestore.build("A", embeddings=X.numpy(), sae=folder, store=memory_store(), progress=False)
    with raises(InvalidInputError, "cannot-decode", "transcoder"):
        acts.decode([0], sae=folder)


@pytest.mark.parametrize(("change", "code"), [({"n_models": 2}, "invalid-sae"), ({"d_in": D}, "invalid-sae")], ids=str)
def test_a_crosscoder_whose_config_lies(change, code, tmp_path):
    state = crosscoders()["two models"][0]
    with raises(InvalidInputError, code, "crosscoder", *change.values()):
        load_sae(crosscoder(tmp_path / "c", "two models", state, **change))


def test_gemma_scope(tmp_path):
    w = {**weights(), "threshold": torch.rand(F) * 3}
    file = tmp_path / "layer_9" / "width_16k" / "average_l0_51" / "params.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, **{name: value.numpy() for name, value in w.items()})
    p = pre(w)
    for spec in (file, file.parent):
        sae = same(load_sae(spec), np.maximum(p, 0) * (p > w["threshold"].numpy()))
        assert sae.name.endswith("layer_9-width_16k-average_l0_51")
    second = tmp_path / "resid_post" / "layer_9_width_16k_l0_small"  # Gemma Scope 2
    second.mkdir(parents=True)
    safetensors.save_file({name.lower(): value for name, value in w.items()}, second / "params.safetensors")
    (second / "config.json").write_text("{}")
    sae = same(load_sae(second), np.maximum(p, 0) * (p > w["threshold"].numpy()))
    assert sae.info["hook_name"] == "blocks.9.hook_resid_post"


@pytest.mark.parametrize("activation", ["Relu", "TopK", "BatchTopK"])
def test_saev(activation, tmp_path):
    w, p = weights(), pre(weights())
    header = {"schema": 2, "lib": "0.1", "cfg": {"d_vit": D, "activation": {"cls": activation, "params": {"top_k": K}}}}
    with (tmp_path / "sae.pt").open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save(w, file)
    same(load_sae(tmp_path / "sae.pt"), np.maximum(p, 0) if activation == "Relu" else largest(p, K))


def test_qwen_scope(tmp_path):
    w = weights()
    file = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5" / "layer7.sae.pt"
    file.parent.mkdir()
    torch.save({**w, "W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T}, file)
    sae = same(load_sae(file), np.maximum(largest(pre(w), 5), 0))
    assert sae.info["hook_name"] == "blocks.7.hook_resid_post"
    file.rename(tmp_path / "layer7.sae.pt")
    with raises(InvalidInputError, "invalid-sae", "L0_50", "Qwen Scope"):
        load_sae(tmp_path / "layer7.sae.pt")


def test_openmoss_in_its_newer_layout(tmp_path):
    w, logarithm = weights(), torch.randn(F, generator=torch.Generator().manual_seed(9)) / 2
    norms, factor = w["W_dec"].norm(dim=1).numpy(), D**0.5 / 3
    state = {"W_E": w["W_enc"], "b_E": w["b_enc"], "W_D": w["W_dec"], "b_D": w["b_dec"],
             "activation_function.log_jumprelu_threshold": logarithm,
             "dataset_average_activation_norm.blocks.3.hook_resid_post": torch.tensor(3.0)}  # fmt: skip
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu",
              "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}  # fmt: skip

    def saved(**change):
        safetensors.save_file(state, tmp_path / "sae_weights.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        return tmp_path

    p = np.maximum((X.numpy() * factor) @ w["W_enc"].numpy() + w["b_enc"].numpy(), 0)
    same(load_sae(saved()), p * (p * norms > np.exp(logarithm.numpy())))
    for change in ({"sae_type": "crosscoder"}, {"act_fn": "topk", "top_k": 3}, {"act_fn": "batchtopk"}):
        with raises(InvalidInputError, "unsupported-sae", "OpenMOSS"):
            load_sae(saved(**change))
    with raises(InvalidInputError, "invalid-sae", D + 1, "OpenMOSS"):
        load_sae(saved(d_model=D + 1, expansion_factor=F / (D + 1)))


@pytest.mark.filterwarnings("ignore:L3 explains")  # random weights explain nothing
def test_openmoss(tmp_path):
    w, factor = weights(), D**0.5 / 2.0
    (tmp_path / "L3" / "checkpoints").mkdir(parents=True)
    held = {name: value.contiguous() for name, value in linear(w, "decoder.bias").items()}
    safetensors.save_file(held, tmp_path / "L3" / "checkpoints" / "final.safetensors")
    config = {"d_model": D, "d_sae": F, "act_fn": "jumprelu", "jump_relu_threshold": 0.5,
              "dataset_average_activation_norm": {"in": 2.0}, "hook_point_in": "blocks.3.hook_resid_post",
              "hook_point_out": "blocks.3.hook_resid_post"}  # fmt: skip
    (tmp_path / "L3" / "hyperparams.json").write_text(json.dumps(config))
    p = (X.numpy() * factor) @ w["W_enc"].numpy() + w["b_enc"].numpy()
    sae = same(load_sae(tmp_path / "L3"), np.maximum(p, 0) * (p > 0.5 * factor))
    acts = saestore.build("A", embeddings=X.numpy(), sae=sae, store=memory_store(), progress=False)
    back = dense_of(sae) @ w["W_dec"].numpy() / factor + w["b_dec"].numpy() / factor
    np.testing.assert_allclose(acts.decode(slice(None), sae=sae), back, rtol=1e-4, atol=1e-4)


# What cannot be right is refused, with the family that was recognised.


def test_nothing_and_half_of_it(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.md").write_text("")
    with raises(NotFoundError, "file-missing", "readme.md", "sparsify", "dictionary_learning", "params.npz"):
        load_sae(tmp_path / "none")
    folder = sparsify(tmp_path / "s", weights(), d_in=D + 1)
    with raises(InvalidInputError, "invalid-sae", D + 1, "sparsify"):
        load_sae(folder)
    (folder / "sae.safetensors").rename(folder / "gone")
    with raises(NotFoundError, "file-missing", "sparsify: sae.safetensors"):
        load_sae(folder)
    (folder / "gone").rename(folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk"}))
    with raises(InvalidInputError, "invalid-sae", "sparsify", "'k'"):
        load_sae(folder)
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": None}))
    with raises(InvalidInputError, "invalid-sae", "k=None", "sparsify"):
        load_sae(folder)
    content = (folder / "sae.safetensors").read_bytes()
    (folder / "sae.safetensors").write_bytes(content[: len(content) // 2])
    with raises(InvalidInputError, "damaged-file", "truncated", "sparsify"):
        load_sae(folder)


@pytest.mark.parametrize("content", ["pickle", "half", "shapes", "nan"])
def test_a_dictionary_that_cannot_be_read(content, tmp_path):
    state, _ = dictionaries()["AutoEncoderTopK"]
    if content == "shapes":
        state["encoder.bias"] = torch.zeros(F + 1)
    if content == "nan":
        state["b_dec"] = torch.full((D,), float("nan"))
    folder = dictionary(tmp_path / "d", "AutoEncoderTopK", state)
    if content == "pickle":
        (folder / "ae.pt").write_bytes(pickle.dumps(state["k"].item()))
    if content == "half":
        (folder / "ae.pt").write_bytes((folder / "ae.pt").read_bytes()[:500])
    code = {"pickle": "pickled", "half": "damaged-file"}.get(content, "invalid-sae")
    store = memory_store()
    with raises(InvalidInputError, code, "dictionary_learning"):
        saestore.build("A", embeddings=X.numpy(), sae=folder, store=store, progress=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_as_in_its_library(dtype, tmp_path):
    """torch.nn.Linear adds the bias before it rounds; then a ReLU, and the k largest of what may be ties."""
    w = {name: value.to(dtype) for name, value in weights().items()}
    p = torch.nn.functional.linear(X.to(dtype) - w["b_dec"], w["W_enc"].T, w["b_enc"]).relu()
    top = p.topk(K, sorted=False)
    expected = torch.zeros_like(p).scatter_(1, top.indices, top.values).float().numpy()
    state = {**linear(w), "k": torch.tensor(K)}
    for folder in (sparsify(tmp_path / "s", w, k=float(K)), dictionary(tmp_path / "d", "AutoEncoderTopK", state)):
        np.testing.assert_array_equal(dense_of(load_sae(folder)), expected)


def test_numbers_that_no_sae_has(tmp_path):
    with raises(InvalidInputError, "invalid-sae", "k=7 groups", "sparsify"):
        load_sae(sparsify(tmp_path / "a", weights(), activation="groupmax", k=7))
    with raises(InvalidInputError, "invalid-sae", "k=5.5", "sparsify"):
        load_sae(sparsify(tmp_path / "b", weights(), k=5.5))
    state = {**linear(weights()), "k": torch.tensor(K), "threshold": torch.tensor(float("nan"))}
    with raises(InvalidInputError, "invalid-sae", "threshold holds NaN", "dictionary_learning"):
        load_sae(dictionary(tmp_path / "c", "BatchTopKSAE", state))
    second = tmp_path / "layer_9_mlp_out"
    second.mkdir()
    safetensors.save_file({**{name.lower(): value for name, value in weights().items()}, "threshold": torch.ones(F)},
                          second / "params.safetensors")  # fmt: skip
    for config, code in (({"width": F + 1}, "invalid-sae"), ({"architecture": "topk"}, "unsupported-sae")):
        (second / "config.json").write_text(json.dumps(config))
        with raises(InvalidInputError, code, *config.values(), "Gemma Scope"):
            load_sae(second)
    (second / "config.json").write_text(json.dumps({"width": F, "architecture": "jump_relu"}))
    assert load_sae(second).info["hook_name"] == "blocks.9.hook_mlp_out"


# Objects of the user's own.


class MyEncoder(torch.nn.Module):
    d_in, d_sae, k = D, F, 3
    provenance = {"trained_by": "me"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(D, F)
        self.back = torch.nn.Linear(F, D)

    def encode(self, x):
        p = self.map(x)
        values, ids = p.topk(self.k)
        return torch.zeros_like(p).scatter_(1, ids, values.relu())

    def decode(self, f):
        return self.back(f)


def test_an_object_may_give_sparse_tensors_and_numpy_widths():
    class Sparse:
        d_in = d_sae = np.int64(D)

        def encode(self, x):
            return x.relu().to_sparse()

    rows, dense = Encoder(load_sae(Sparse())).encode(X), X.relu().numpy()
    assert np.array_equal(rows.rows(), np.nonzero(dense)[0])
    assert np.array_equal(rows.data, dense[np.nonzero(dense)])


@pytest.mark.filterwarnings("ignore:my-encoder")  # random weights explain nothing
def test_any_object_that_encodes():
    torch.manual_seed(0)
    mine, store = MyEncoder(), memory_store()
    acts = saestore.build("A", embeddings=X.numpy(), sae=mine, store=store, progress=False)
    np.testing.assert_array_equal(acts.dense(), mine.encode(X).detach().numpy())
    record = acts.attributes.sae
    assert acts.path == f"A/patch/my-encoder-{record['fingerprint'][:8]}"
    assert (record["provenance"], record["k"], record["d_in"]) == ({"trained_by": "me"}, 3, D)
    expected = mine.decode(mine.encode(X)).detach().numpy()
    np.testing.assert_allclose(acts.decode(slice(None), sae=mine), expected, rtol=1e-5, atol=1e-6)
    other = MyEncoder()
    with raises(InvalidInputError, "wrong-sae"):
        acts.decode([0], sae=other)


def test_objects_with_arrays_and_with_top_indices():
    class Arrays:
        name, activation_dim, dict_size = "My arrays", D, F

        def __init__(self):
            self.w = weights()["W_enc"].numpy()

        def encode(self, x):
            return np.maximum(np.asarray(x) @ self.w, 0)

    class Pairs(Arrays):
        def encode(self, x):
            from types import SimpleNamespace

            top = torch.as_tensor(super().encode(x)).topk(4)
            return SimpleNamespace(top_acts=top.values, top_indices=top.indices)

    dense = Arrays().encode(X)
    acts = saestore.build("A", embeddings=X.numpy(), sae=Arrays(), store=memory_store(), progress=False)
    np.testing.assert_array_equal(acts.dense(), dense)
    assert acts.path == "A/patch/My-arrays"
    with raises(InvalidInputError, "cannot-decode", "Arrays"):
        acts.decode([0], sae=Arrays())
    pairs = saestore.build("A", embeddings=X.numpy(), sae=Pairs(), store=memory_store(), progress=False)
    np.testing.assert_array_equal(pairs.dense(), largest(dense, 4))


def test_objects_that_cannot_serve():
    class OfBatch(MyEncoder):
        def encode(self, x):  # the strongest of the batch, as BatchTopK in training
            p = self.map(x).relu()
            return p * (p >= p.flatten().topk(self.k * len(x)).values[-1])

    class Narrow(MyEncoder):
        d_sae = F + 1

    class Fails(MyEncoder):
        d_in = D + 1

    cases = ((OfBatch, "unsupported-sae", "batch"), (Narrow, "invalid-sae", F), (Fails, "invalid-sae", "encode"))
    for kind, code, named in cases:
        with raises(InvalidInputError, code, named, kind.__name__):
            load_sae(kind())
    with raises(InvalidInputError, "not-an-sae", "encode(x)"):
        load_sae(object())
