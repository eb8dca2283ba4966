"""Encoding, against sae_lens itself (and torch, where sae_lens has no such SAE)."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from raising import raises

from saestore import build
from saestore.errors import InvalidInputError

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

from saestore.sae import load_sae  # noqa: E402
from saestore.sae.encode import Encoder, TruncationStats, reduce_batch  # noqa: E402
from saestore.sae.forward import AboveThreshold, top_k, top_k_by_magnitude  # noqa: E402
from saestore.sparse_rows import SparseRows  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples"
D_IN, D_SAE, K = 24, 128, 6
INFERENCE = ("standard", "topk", "abstopk", "jumprelu", "gated", "matching_pursuit")
CONFIGS = {
    "standard": "StandardSAEConfig",
    "topk": "TopKSAEConfig",
    "abstopk": "AbsTopKSAEConfig",
    "jumprelu": "JumpReLUSAEConfig",
    "gated": "GatedSAEConfig",
    "matching_pursuit": "MatchingPursuitSAEConfig",
}
TRAINING = {
    "standard": ("StandardTrainingSAEConfig", {}),
    "topk": ("TopKTrainingSAEConfig", {"k": K}),
    "batchtopk": ("BatchTopKTrainingSAEConfig", {"k": K}),
    "matryoshka_batchtopk": ("MatryoshkaBatchTopKTrainingSAEConfig", {"k": K, "matryoshka_widths": [32, 64, D_SAE]}),
    "jumprelu": ("JumpReLUTrainingSAEConfig", {}),
    "gated": ("GatedTrainingSAEConfig", {}),
}


def randomise(sae, seed=0):
    """Give every weight a value that matters: biases, thresholds, gates and unequal decoder norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            scale = {"threshold": 0.5, "b_enc": 0.3, "b_dec": 0.5, "r_mag": 0.3}.get(name, weight.shape[-1] ** -0.5)
            weight.copy_(noise * scale)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.4)
    return sae


def inference_sae(architecture, d_in=D_IN, d_sae=D_SAE, seed=0, **config):
    if not hasattr(sae_lens, CONFIGS[architecture]):
        pytest.skip(f"this sae_lens has no {architecture}")
    if architecture in ("topk", "abstopk"):
        config.setdefault("k", K)
    if architecture == "matching_pursuit":
        config.setdefault("max_iterations", 5)
    cfg = getattr(sae_lens, CONFIGS[architecture])(d_in=d_in, d_sae=d_sae, **config)
    return randomise(sae_lens.SAE.get_sae_class_for_architecture(architecture)(cfg), seed)


def training_sae(architecture, **config):
    name, needed = TRAINING[architecture]
    cfg = getattr(sae_lens, name)(d_in=D_IN, d_sae=D_SAE, **needed, **config)
    return randomise(sae_lens.TrainingSAE.get_sae_class_for_architecture(architecture)(cfg))


def embeddings(n=50, d_in=D_IN, dtype=torch.float32, seed=1, zero_rows=True):
    x = torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)) * 2
    if zero_rows:
        x[3::17] = 0
    return x.to(dtype)


def assert_is(batch, dense):
    """The batch is a valid CSR, and holds exactly the non-zeros of a dense tensor, bit by bit."""
    dense = dense.detach()
    dense = (dense if dense.itemsize >= 4 else dense.float()).numpy()
    rows, features = np.nonzero(dense)
    assert batch.indptr.dtype == np.int64
    assert batch.indices.dtype == np.uint16
    assert batch.data.dtype == dense.dtype
    np.testing.assert_array_equal(batch.rows(), rows)
    np.testing.assert_array_equal(batch.indices, features)
    np.testing.assert_array_equal(batch.data, dense[rows, features])


@pytest.mark.parametrize("input_dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("architecture", INFERENCE)
def test_equals_sae_lens(architecture, input_dtype):
    sae, x = inference_sae(architecture), embeddings(dtype=getattr(torch, input_dtype))
    assert_is(Encoder(load_sae(sae)).encode(x), sae.encode(x))


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize(
    "norm", ["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale", "covariance_whitening"]
)
@pytest.mark.parametrize("architecture", INFERENCE)
@pytest.mark.filterwarnings("ignore:.*not folded into its weights:UserWarning")
def test_equals_sae_lens_with_every_normalisation(architecture, norm, apply_b_dec_to_input):
    sae = inference_sae(architecture, normalize_activations=norm, apply_b_dec_to_input=apply_b_dec_to_input)
    x = embeddings(zero_rows=norm != "constant_norm_rescale")
    assert_is(Encoder(load_sae(sae)).encode(x), sae.encode(x))


@pytest.mark.parametrize("architecture", ["topk", "abstopk"])
def test_equals_sae_lens_when_rescaled_by_decoder_norm(architecture):
    x = embeddings()
    plain = Encoder(load_sae(inference_sae(architecture))).encode(x)
    sae = inference_sae(architecture, rescale_acts_by_decoder_norm=True)
    batch = Encoder(load_sae(sae)).encode(x)
    assert_is(batch, sae.encode(x))
    assert not np.array_equal(batch.indices, plain.indices)  # the norms did choose other features


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("architecture", INFERENCE)
def test_equals_sae_lens_in_every_weight_dtype(architecture, dtype):
    sae, x = inference_sae(architecture, dtype=dtype), embeddings()
    assert_is(Encoder(load_sae(sae)).encode(x), sae.encode(x))


@pytest.mark.parametrize("architecture", INFERENCE)
def test_equals_sae_lens_on_attention_heads(architecture):
    sae, x = inference_sae(architecture, reshape_activations="hook_z"), embeddings()
    heads = x.view(-1, 4, D_IN // 4)
    encoder = Encoder(load_sae(sae))
    assert_is(encoder.encode(x), sae.encode(heads))
    assert_is(encoder.encode(heads), sae.encode(heads))


@pytest.mark.parametrize("from_what", ["inference folder", "training folder", "object"])
@pytest.mark.parametrize("architecture", TRAINING)
def test_equals_what_sae_lens_saves_of_a_training_sae(architecture, from_what, tmp_path):
    training = training_sae(architecture)
    before = {key: tensor.clone() for key, tensor in training.state_dict().items()}
    training.save_inference_model(tmp_path / "inference")
    expected = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    if from_what == "training folder":
        training.save_model(tmp_path / "training")
        if "batchtopk" not in architecture:  # sae_lens loads the others for inference as they are
            expected = sae_lens.SAE.load_from_disk(tmp_path / "training")
    spec = {"inference folder": tmp_path / "inference", "training folder": tmp_path / "training", "object": training}
    loaded = load_sae(spec[from_what])
    x = embeddings()
    assert_is(Encoder(loaded).encode(x), expected.encode(x))
    assert loaded.info["architecture"] == expected.cfg.architecture()
    assert loaded.fingerprint() == load_sae(expected).fingerprint()
    assert all(torch.equal(before[key], tensor) for key, tensor in training.state_dict().items())


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 200)),
    architecture=st.sampled_from(INFERENCE),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_equals_sae_lens_at_any_size(shape, architecture, seed, data):
    n, d_in, d_sae = shape
    config = {"k": data.draw(st.integers(1, d_sae))} if architecture in ("topk", "abstopk") else {}
    sae = inference_sae(architecture, d_in, d_sae, seed, **config)
    x = embeddings(n, d_in, seed=seed)
    assert_is(Encoder(load_sae(sae)).encode(x), sae.encode(x))


def test_follows_a_subclass_that_encodes_otherwise():
    class Negated(sae_lens.TopKSAE):
        def encode(self, x):
            return -super().encode(x)

    sae, x = randomise(Negated(sae_lens.TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K))), embeddings()
    batch = Encoder(load_sae(sae)).encode(x)
    assert_is(batch, sae.encode(x))
    assert (batch.data < 0).all()


@pytest.mark.parametrize("architecture", INFERENCE)
def test_more_rows_than_a_batch_are_encoded_in_parts(architecture):
    encoder, x = Encoder(load_sae(inference_sae(architecture))), embeddings(50)
    parts = [encoder.encode(x[start : start + 7]) for start in range(0, 50, 7)]
    encoder.batch_rows = 7
    whole = encoder.encode(x)
    np.testing.assert_array_equal(np.diff(whole.indptr), np.concatenate([np.diff(p.indptr) for p in parts]))
    np.testing.assert_array_equal(whole.indices, np.concatenate([p.indices for p in parts]))
    np.testing.assert_array_equal(whole.data, np.concatenate([p.data for p in parts]))


@pytest.mark.parametrize("architecture", INFERENCE)
def test_no_rows(architecture):
    batch = Encoder(load_sae(inference_sae(architecture))).encode(embeddings(0))
    assert (len(batch), batch.nnz) == (0, 0)


def test_wide_sae_has_uint32_ids_and_a_batch_within_its_bound():
    sae = inference_sae("topk", 8, 65_537, k=3)
    encoder, x = Encoder(load_sae(sae)), embeddings(9, 8)
    batch, dense = encoder.encode(x), sae.encode(x).detach().numpy()
    assert batch.indices.dtype == np.uint32
    np.testing.assert_array_equal(batch.indices, np.nonzero(dense)[1])
    assert encoder.batch_rows * 65_537 * 4 <= 1 << 27


def test_embeddings_are_left_as_they_are():
    sae, x = inference_sae("topk", normalize_activations="layer_norm"), embeddings()
    before = x.clone()
    Encoder(load_sae(sae)).encode(x)
    assert torch.equal(x, before)


# CLIP-Scope: no sae_lens class, so torch's own operations are the oracle.


def clip_scope(path, d_in=D_IN, d_sae=D_SAE, k=K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    enc = torch.randn(d_in, d_sae, generator=generator) / d_in**0.5
    state = {"pre_b": torch.randn(d_in, generator=generator), "enc": enc, "dec": enc.T.contiguous()}
    torch.save({"k": k, "n_features": d_sae, "d_in": d_in, "model_state_dict": state}, path)
    return state


def test_clip_scope_keeps_negative_activations(tmp_path):
    state = clip_scope(tmp_path / "x.pt", d_sae=16, k=12)
    x = embeddings()
    encoder = Encoder(load_sae(tmp_path / "x.pt"))
    top = torch.topk((x - state["pre_b"]) @ state["enc"], 12)
    dense = torch.zeros(len(x), 16).scatter_(1, top.indices, top.values)
    batch = encoder.encode(x)
    assert_is(batch, dense)
    assert (batch.data < 0).any()
    decoded = (dense @ state["dec"] + state["pre_b"]).double()
    expected = 1 - (x - decoded).square().sum() / (x.double() - x.double().mean(0)).square().sum()
    assert encoder.explained_variance(x, batch) == pytest.approx(expected.item(), rel=1e-5)


def test_clip_scope_drops_exact_zeros(tmp_path):
    state = clip_scope(tmp_path / "x.pt")
    batch = Encoder(load_sae(tmp_path / "x.pt")).encode(state["pre_b"].unsqueeze(0))
    assert (len(batch), batch.nnz) == (1, 0)


# Exact top-k.

WIDE = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(1024)),
    elements=st.integers(-3, 3).map(float) | st.floats(-10, 10, width=32),
    fill=st.sampled_from([0.0, 1.0, -2.0]),
)


def supports(found):
    ids = found[1].sort(-1).values
    return ids.tolist()


@given(values=WIDE, k=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_top_k_is_that_of_torch_also_where_values_tie(values, k):
    dense = torch.from_numpy(values)
    expected = torch.topk(dense, k, sorted=False)
    found = top_k(dense, k)
    assert supports(found) == supports(expected)
    assert torch.equal(found[0], dense.gather(1, found[1]))
    magnitudes = torch.topk(dense.abs(), k, sorted=False)
    found = top_k_by_magnitude(dense, k)
    assert supports(found) == supports(magnitudes)
    assert torch.equal(found[0], dense.gather(1, found[1]))


def test_top_k_is_that_of_torch_on_wide_rows():
    dense = torch.randn(200, 16_384, generator=torch.Generator().manual_seed(0))
    dense[50:] = dense[50:].mul(8).round()  # every row of these has ties, more rows than are copied at once
    assert supports(top_k(dense, 32)) == supports(torch.topk(dense, 32, sorted=False))


@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 4), st.sampled_from([1, 31, 32, 320, 1024])),
        elements=st.sampled_from([0.0, -0.0, 1.0, 2.0, np.nan, np.inf, -np.inf]) | st.floats(-4, 4, width=32),
        fill=st.sampled_from([-1.0, 0.0, 1.0]),
    ),
    seed=st.none() | st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_what_is_above_a_threshold_is_what_numpy_finds_there(values, seed):
    """In few blocks, in many, and where a value equals its threshold; a NaN is kept, to be refused."""
    m = values.shape[1]
    threshold = np.float32(1) if seed is None else np.random.default_rng(seed).integers(0, 3, m).astype(np.float32)
    rows, features = np.nonzero(~(values <= threshold))
    counts, ids, found = AboveThreshold(torch.from_numpy(np.asarray(threshold)))(torch.from_numpy(values))
    assert counts.tolist() == np.bincount(rows, minlength=len(values)).tolist()
    assert ids.tolist() == features.tolist()
    np.testing.assert_array_equal(found.numpy(), values[rows, features])


# What is refused.


def test_refuses_another_width():
    encoder = Encoder(load_sae(inference_sae("topk")))
    with raises(InvalidInputError, "width-mismatch", "(5, 7)", D_IN):
        encoder.encode(torch.zeros(5, 7))
    with raises(InvalidInputError, "not-float", "int64"):
        encoder.encode(torch.zeros(5, D_IN, dtype=torch.int64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("architecture", INFERENCE)
def test_refuses_what_is_not_finite(architecture, bad):
    x = embeddings()
    x[7, 2] = bad
    with raises(InvalidInputError, "not-finite", "row 1,007", "feature"):
        Encoder(load_sae(inference_sae(architecture))).encode(x, first_row=1000)


def test_refuses_a_zero_row_where_the_sae_divides_by_its_norm():
    encoder = Encoder(load_sae(inference_sae("standard", normalize_activations="constant_norm_rescale")))
    with raises(InvalidInputError, "not-finite", "row 3", "all zeros"):
        encoder.encode(embeddings())


@pytest.mark.parametrize("device", ["cuda:99", "mps", "meta", "gpu", ""])
def test_refuses_a_device_that_is_not_there(device, tmp_path):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with raises(InvalidInputError, "unusable-device", f"{device!r}", "cpu") as caught:
        Encoder(load_sae(inference_sae("topk")), device)
    assert len(str(caught.value)) < 350
    with raises(InvalidInputError, "unusable-device", f"{device!r}"):  # before the model is looked for
        build("A", store=tmp_path / "s", texts=["a"], model="no/model", sae=inference_sae("topk"), device=device)
    assert not (tmp_path / "s").exists()


# Explained variance.


@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("architecture", INFERENCE)
def test_explained_variance_is_that_of_the_reconstruction(architecture, norm, apply_b_dec_to_input):
    config = {"rescale_acts_by_decoder_norm": True} if architecture in ("topk", "abstopk") else {}
    sae = inference_sae(
        architecture, normalize_activations=norm, apply_b_dec_to_input=apply_b_dec_to_input, dtype="float64", **config
    )
    x = embeddings(zero_rows=False)
    with torch.no_grad():
        lost = x - sae.decode(sae.encode(x))
    expected = 1 - (lost.square().sum() / (x.double() - x.double().mean(0)).square().sum()).item()
    encoder = Encoder(load_sae(sae))
    assert encoder.explained_variance(x, encoder.encode(x)) == pytest.approx(expected, rel=1e-9)


def test_explained_variance_of_half_precision_and_of_rows_all_alike():
    encoder = Encoder(load_sae(inference_sae("topk", dtype="bfloat16")))
    x = embeddings()
    assert np.isfinite(encoder.explained_variance(x, encoder.encode(x)))
    alike = x[:1].expand(5, -1)
    assert np.isnan(encoder.explained_variance(alike, encoder.encode(alike)))


# Keeping less.


def sparse(dense):
    dense = np.asarray(dense, np.float32)
    rows, features = np.nonzero(dense)
    indptr = np.searchsorted(rows, np.arange(len(dense) + 1))
    return SparseRows(indptr, features.astype(np.uint16), dense[rows, features])


def dense_of(batch, shape):
    dense = np.zeros(shape, np.float64)
    dense[batch.rows(), batch.indices] = batch.data
    return dense


SMALL = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 9)),
    elements=st.integers(-3, 3).map(float) | st.floats(-60_000, 60_000, width=32),
)


@given(dense=SMALL, n=st.none() | st.integers(1, 10), dtype=st.sampled_from([None, "float16", "float32"]))
@settings(max_examples=200, deadline=None)
def test_reduced_batch_is_numpy_on_the_dense_rows(dense, n, dtype):
    expected = dense.copy()
    for row in expected:
        active = np.flatnonzero(row)
        row[active[np.argsort(-row[active], kind="stable")[n:]] if n else []] = 0
    kept = expected.astype(dtype or np.float32).astype(np.float64)
    batch, dropped = reduce_batch(sparse(dense), n, dtype)
    np.testing.assert_array_equal(dense_of(batch, dense.shape), kept)
    assert (batch.data != 0).all()
    assert batch.data.dtype == (dtype or np.float32)
    assert batch.indices.dtype == np.uint16
    gone = (dense != 0) & (kept == 0)
    assert dropped.n_dropped == gone.sum()
    wide = np.abs(dense.astype(np.float64))
    assert dropped.sum_dropped == pytest.approx(wide[gone].sum(), rel=1e-12)
    assert dropped.sum_total == pytest.approx(wide.sum(), rel=1e-12)
    error = np.abs(kept - dense)[kept != 0] / wide[kept != 0]
    assert dropped.max_rel_error == pytest.approx(error.max(initial=0), rel=1e-12)


def test_reduced_batch_keeps_the_lower_feature_where_values_tie():
    batch, dropped = reduce_batch(sparse([[1, 2, 0, 2, 2, -9]]), top_k=2)
    np.testing.assert_array_equal(batch.indices, [1, 3])
    assert dropped == TruncationStats(n_dropped=3, sum_dropped=12, sum_total=16)


def test_dropped_adds_up():
    parts = [reduce_batch(sparse([[1.1, 2.3], [0, 1e-9]]), 1, "float16")[1], TruncationStats(2, 3.0, 10.0, 0.5)]
    assert sum(parts, TruncationStats()) == TruncationStats(4, parts[0].sum_dropped + 3, parts[0].sum_total + 10, 0.5)


def test_refuses_what_float16_cannot_hold():
    batch = sparse([[1, 0, 0], [0, 0, 65_504], [2, 65_520, 0]])
    with raises(InvalidInputError, "dtype-overflow", "row 102", "feature 1", "65,520", "float16"):
        reduce_batch(batch, dtype="float16", first_row=100)
    assert reduce_batch(batch, top_k=None, dtype="float32")[1] == TruncationStats(sum_total=131_027)
    with raises(InvalidInputError, "invalid-count", "top_k", 0):
        reduce_batch(batch, top_k=0)


# Real SAEs, and a real accelerator.


@pytest.mark.parametrize("example", ["clevr", "isarcasm"])
def test_equals_sae_lens_on_real_embeddings(example):
    folder = EXAMPLES / example
    if not (folder / "sae").is_dir():
        pytest.skip(f"this checkout has no examples/{example}")
    loaded = load_sae(folder / "sae")
    assert loaded.name == f"{example}-sae"
    rows = np.load(folder / "embeddings.npy", mmap_mode="r")
    x = torch.from_numpy(rows[:: max(1, len(rows) // 2000)][:2000].copy())
    encoder = Encoder(loaded)
    batch = encoder.encode(x)
    assert_is(batch, sae_lens.SAE.load_from_disk(folder / "sae").encode(x))
    assert encoder.explained_variance(x, batch) > 0.7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("architecture", INFERENCE)
def test_equals_sae_lens_on_a_gpu(architecture):
    sae = inference_sae(architecture)
    x = embeddings()
    encoder = Encoder(load_sae(sae), "cuda")
    batch = encoder.encode(x)
    assert_is(batch, sae.encode(x.cuda()).cpu())  # the SAE itself was moved
    assert np.isfinite(encoder.explained_variance(x, batch))
