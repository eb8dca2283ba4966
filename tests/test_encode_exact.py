"""Encoding from bfloat16 candidates: the same activations as the float32 product, to the last bit, on every row."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises

from saestore.errors import InvalidInputError

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

from saestore.sae import load_sae  # noqa: E402
from saestore.sae.bf16.candidates import CandidateFilter  # noqa: E402
from saestore.sae.bf16.error_bounds import RowBounds, as_bfloat16, prepare  # noqa: E402
from saestore.sae.bf16.self_test import find_violation, is_profitable  # noqa: E402
from saestore.sae.encode import Encoder  # noqa: E402
from saestore.sae.forward import AboveThreshold, Affine, TopK, forward_of  # noqa: E402

D_IN, D_SAE, K, ROWS = 48, 1152, 4, 64
KINDS = ("topk", "topk rescaled", "jumprelu", "standard", "clip_scope")


@pytest.fixture(autouse=True, params=[1])
def threads(request):
    """One thread, unless a test asks for more: on matrices this small, threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sae_of(kind, tmp_path=None, *, d_in=D_IN, d_sae=D_SAE, k=K, seed=0):
    """An SAE with weights that all matter, some of whose features are equal, nearly equal, dead or far larger."""
    encoder = random(d_in, d_sae, seed=seed) / d_in**0.5
    many = d_sae // 8
    encoder[:, many : 2 * many] = encoder[:, :many]
    encoder[:, 2 * many : 3 * many] = encoder[:, :many] * (1 + 2.0**-22)
    encoder[:, 3 * many : 3 * many + 3] = 0
    encoder[:, 4 * many : 4 * many + 3] *= 5
    if kind == "clip_scope":
        state = {"pre_b": random(d_in, seed=seed + 1), "enc": encoder, "dec": encoder.T.contiguous()}
        path = tmp_path / "clip_scope.pt"
        torch.save({"k": k, "n_features": d_sae, "d_in": d_in, "model_state_dict": state}, path)
        return load_sae(path)
    name = {"topk": "TopK", "topk rescaled": "TopK", "jumprelu": "JumpReLU", "standard": "Standard"}[kind]
    config = {"k": k, "rescale_acts_by_decoder_norm": "rescaled" in kind} if name == "TopK" else {}
    sae = getattr(sae_lens, f"{name}SAE")(getattr(sae_lens, f"{name}SAEConfig")(d_in=d_in, d_sae=d_sae, **config))
    with torch.no_grad():
        sae.W_enc.copy_(encoder)
        sae.W_dec.copy_(random(d_sae, d_in, seed=seed + 2) / d_in**0.5)
        sae.b_dec.copy_(random(d_in, seed=seed + 1) / 2)
        # Biases and thresholds that let a few features of a random row through.
        sae.b_enc.copy_(random(d_sae, seed=seed + 3) * 0.2 - (3.3 if name == "Standard" else 0))
        if name == "JumpReLU":
            sae.threshold.copy_(random(d_sae, seed=seed + 4).abs() * 0.2 + 3)
    return load_sae(sae)


def rows_of(kind, d_in=D_IN, n=ROWS, seed=5):
    x = random(n, d_in, seed=seed)
    match kind:
        case "zero":
            x[::3] = 0
        case "constant":
            x[:] = x[:1]
        case "huge":
            x[::3] *= 1e25
            x[1] *= 3e37
        case "tiny":
            x[::3] *= 1e-20
        case "subnormal":
            x[::3] *= 1e-40
        case "outliers":
            x[:, 3 % d_in] *= 100
            x[:, 7 % d_in] += 300
        case "low rank":
            x = random(n, 2, seed=seed) @ random(2, d_in, seed=seed + 1)
        case "integers":  # exact in bfloat16, with many ties
            x = x.round()
        case "nearly alike":
            x = x[:1] * (1 + random(n, 1, seed=seed) * 1e-6)
        case "cancelling":
            x[:, d_in - d_in // 2 :] = -x[:, : d_in // 2]
    return x


DATA = ("random", "zero", "constant", "huge", "tiny", "subnormal", "outliers", "low rank", "integers", "nearly alike")


def both(loaded, x, batch_rows=ROWS):
    """What the float32 product and the candidates give; and the Encoder of the latter."""
    encoders = [Encoder(loaded, matmul_precision=exact) for exact in ("float32", "bfloat16")]
    for encoder in encoders:
        encoder.batch_rows = batch_rows
    return *(encoder.encode(x) for encoder in encoders), encoders[1]


def assert_equal(batch, expected):
    np.testing.assert_array_equal(batch.indptr, expected.indptr)
    np.testing.assert_array_equal(batch.indices, expected.indices)
    np.testing.assert_array_equal(batch.data, expected.data)


# Same support, same values.


@pytest.mark.parametrize("data", [*DATA, "cancelling"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_float32_product(kind, data, tmp_path):
    expected, batch, encoder = both(sae_of(kind, tmp_path), rows_of(data))
    assert_equal(batch, expected)
    assert expected.nnz > 0
    assert encoder.encoding["mode"] == "bfloat16-candidates"
    assert encoder.encoding["rows"] == ROWS


@pytest.mark.parametrize("data", ["random", "zero", "huge", "integers"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "clip_scope"])
def test_equals_sae_lens(kind, data):
    loaded, x = sae_of(kind), rows_of(data)
    with torch.no_grad():
        dense = loaded.module.encode(x).numpy()
    batch = both(loaded, x)[1]
    rows, features = np.nonzero(dense)
    np.testing.assert_array_equal(batch.rows(), rows)
    np.testing.assert_array_equal(batch.indices, features)
    np.testing.assert_array_equal(batch.data, dense[rows, features])


def test_clip_scope_keeps_negative_activations(tmp_path):
    loaded = sae_of("clip_scope", tmp_path, k=40)
    # Every row points away from all features, but for noise.
    loaded.module.W_enc.sub_(2 * loaded.module.W_enc * (loaded.module.W_enc.sum(0) > 0))
    x = loaded.module.b_dec + 1 + rows_of("random") * 0.01
    expected, batch, _ = both(loaded, x)
    assert_equal(batch, expected)
    assert (batch.data < 0).any()


@pytest.mark.parametrize("threads", [2, 3], indirect=True)
def test_equals_the_float32_product_in_threads(threads):
    loaded = sae_of("topk", d_in=256)
    expected, batch, encoder = both(loaded, rows_of("random", 256))
    assert_equal(batch, expected)
    assert encoder.encoding["rows_fallback"] < ROWS


@given(
    d_in=st.integers(1, 80),
    blocks=st.integers(1, 20),
    groups=st.integers(1, 4),
    kind=st.sampled_from(["topk", "topk rescaled", "jumprelu", "standard"]),
    data=st.sampled_from(DATA),
    seed=st.integers(0, 2**16),
    share=st.floats(0, 1),
)
@settings(max_examples=60)
def test_equals_the_float32_product_at_any_size(*, d_in, blocks, groups, kind, data, seed, share):
    d_sae = 32 * blocks
    loaded = sae_of(kind, d_in=d_in, d_sae=d_sae, k=max(1, int(share * d_sae)), seed=seed)
    expected, batch, _ = both(loaded, rows_of(data, d_in, 16 * groups, seed), 16 * groups)
    assert_equal(batch, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("kind", KINDS)
def test_refuses_the_row_that_the_float32_product_refuses(kind, bad, tmp_path):
    x = rows_of("random")
    x[7] = bad
    messages = []
    for exact in ("float32", "bfloat16"):
        encoder = Encoder(sae_of(kind, tmp_path), matmul_precision=exact)
        encoder.batch_rows = ROWS
        with raises(InvalidInputError, "not-finite", "row 1,007", "feature") as caught:
            encoder.encode(x, first_row=1000)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("size", [3.4e38, 2.0**127, 1e-45, 1.1e-38, -3.4e38])
@pytest.mark.parametrize("kind", KINDS)
def test_one_number_that_bfloat16_does_not_hold(kind, size, tmp_path):
    """It overflows or underflows, or its square does, where no feature looks: float32 sees nothing of it."""
    loaded, x = sae_of(kind, tmp_path), rows_of("random")
    with torch.no_grad():
        weight = loaded.module.W_enc
        weight[5] = 0
    x[7, 5] = x[12, 5] = size
    expected, batch, encoder = both(loaded, x)
    assert_equal(batch, expected)
    assert expected.indptr[8] > expected.indptr[7]
    assert encoder.encoding["rows"] == ROWS


def test_features_a_last_bit_apart_are_told_apart():
    """Two hundred features whose activations are neighbouring float32 numbers; k cuts through them."""
    loaded = spread_out(k=100)
    x = rows_of("random")
    with torch.no_grad():
        steps = torch.arange(200, dtype=torch.float32).repeat_interleave(2) / 2**23
        loaded.module.W_enc[:, 300:700] = (x[5] / x[5].norm()).unsqueeze(1) * (3 + 2 * steps[torch.randperm(400)])
    expected, batch, _ = both(loaded, x)
    assert_equal(batch, expected)
    inside = expected.indices[expected.indptr[5] : expected.indptr[6]]
    assert ((inside >= 300) & (inside < 700)).sum() == 100


# Which rows take the float32 product.


def spread_out(k=K):
    """A TopK SAE without ties, without biases, and a row for each of whose k features there is no doubt."""
    sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=k))
    with torch.no_grad():
        sae.W_enc.copy_(random(D_IN, D_SAE) / D_IN**0.5)
        sae.b_dec.zero_()
        sae.b_enc.zero_()
    return load_sae(sae)


def test_few_candidates_are_computed_and_no_row_falls_back():
    expected, batch, encoder = both(spread_out(), rows_of("random"))
    assert_equal(batch, expected)
    assert encoder.encoding["rows_fallback"] == 0
    assert K * ROWS <= encoder.encoding["candidates"] < 4 * K * ROWS


@pytest.mark.parametrize("data", ["zero", "tied"])
def test_rows_without_a_guarantee_fall_back_alone(data):
    loaded, x = spread_out(), rows_of("random")
    x[[5, 40]] = 0
    if data == "tied":
        # The strongest feature of two rows, twenty times over.
        x[[5, 40]] = random(2, D_IN, seed=9)
        with torch.no_grad():
            weight = loaded.module.W_enc
            weight[:, 1000:1020] = x[5].unsqueeze(1) * 3
            weight[:, 1100:1120] = x[40].unsqueeze(1) * 3
    expected, batch, encoder = both(loaded, x)
    assert_equal(batch, expected)
    assert encoder.encoding["rows_fallback"] >= 2
    assert encoder.encoding["rows_fallback"] < ROWS // 4 or data == "tied"
    assert encoder.encoding["rows"] == ROWS


def test_a_batch_with_many_such_rows_falls_back_whole():
    expected, batch, encoder = both(spread_out(), rows_of("zero")[::3].repeat(3, 1)[:ROWS])
    assert_equal(batch, expected)
    assert encoder.encoding["rows_fallback"] == ROWS


@pytest.mark.parametrize("exact", ["auto", "bfloat16"])
def test_auto_leaves_off_where_rows_keep_falling_back(exact, monkeypatch):
    monkeypatch.setattr("saestore.sae.bf16.is_profitable", lambda _: True)  # as it would of a larger SAE
    encoder = Encoder(spread_out(), matmul_precision=exact)
    encoder.batch_rows = ROWS
    x = torch.zeros(ROWS * 40, D_IN)
    assert_equal(encoder.encode(x), Encoder(spread_out(), matmul_precision="float32").encode(x))
    rows = encoder.encoding["rows"]
    assert encoder.encoding["rows_fallback"] == rows
    assert rows == len(x) if exact == "bfloat16" else 0 < rows < len(x)


def test_incomplete_batches_take_the_float32_product():
    loaded, x = spread_out(), rows_of("random", n=100)
    expected, batch, encoder = both(loaded, x)
    assert_equal(batch, expected)
    assert encoder.encoding["rows"] == ROWS


# The bound.


@given(
    d_in=st.integers(1, 600),
    data=st.sampled_from([*DATA, "cancelling"]),
    kind=st.sampled_from(["plain", "biased", "scaled", "threshold"]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_no_value_is_further_from_exact_or_float32_than_its_bound(d_in, data, kind, seed):
    d_sae = 64
    weight, shifted = random(d_in, d_sae, seed=seed), rows_of(data, d_in, 16, seed + 1)
    weight[:, ::5] *= 1e-3
    weight[:, 1::5] = weight[:, 1::5].bfloat16().float()
    bias = None if kind == "plain" else random(d_sae, seed=seed + 2) * 10
    scale = random(d_sae, seed=seed + 3).abs() if kind == "scaled" else None
    select = AboveThreshold(random(d_sae, seed=seed + 4).abs()) if kind == "threshold" else TopK(3)
    affine = Affine(weight, None, bias, scale)
    candidates = CandidateFilter(affine, select)
    rows = RowBounds.of(shifted, candidates.bounds)
    bounds = candidates.bounds
    y = candidates.propose(shifted, torch.empty(16, d_sae)).float()
    error = rows.error(y, bounds.norm, bounds.lost, bounds.offset)[~rows.out_of_range].double()
    exact = shifted.double() @ weight.double() + (0 if bias is None else bias.double())
    exact = exact * (1 if scale is None else scale.double())
    taken = select.threshold if isinstance(select, AboveThreshold) else torch.zeros(1)
    for value in (exact, affine(shifted, torch.empty(16, d_sae)).double()):
        off = (y.double() - (value - taken.double())).abs()[~rows.out_of_range]
        assert (off <= error).all()


def test_the_bound_is_not_loose():
    """Random data reaches a tenth of it: a wider one would pass the test above, and propose too much."""
    weight, x = random(256, 4096) / 16, random(64, 256, seed=1)
    candidates = CandidateFilter(Affine(weight, None), TopK(3))
    y = candidates.propose(x, torch.empty(64, 4096)).float()
    bounds = candidates.bounds
    error = RowBounds.of(x, bounds).error(y, bounds.norm, bounds.lost, bounds.offset)
    reached = ((y.double() - x.double() @ weight.double()).abs() / error).max().item()
    assert 0.1 < reached <= 1


@pytest.mark.parametrize("size", [1.0, 1e-38, 1e-41, 1e30])
def test_bfloat16_weights_and_biases_lose_no_more_than_measured(size):
    columns, bias = random(64, 32) * size, random(64, seed=1) * size
    weight, bounds = prepare(columns, bias, None, None)
    lost = (columns.double() - weight[:32].T.double()).norm(dim=1)
    assert (lost <= bounds.lost.double()).all()
    assert (columns.double().norm(dim=1) <= bounds.norm.double()).all()
    assert ((bias.double() - weight[32:].double().sum(0)).abs() <= bounds.offset.double()).all()
    tiny = torch.finfo(torch.bfloat16).tiny
    assert ((weight == 0) | (weight.abs() >= tiny)).all()
    assert torch.equal(as_bfloat16(torch.tensor([1.0, tiny / 2, -tiny])), torch.tensor([1, 0, -tiny]).bfloat16())


# What it relies on is tried first.


class AddsUpInBfloat16(CandidateFilter):
    def propose(self, shifted, buffer):
        half = self.d_in // 2
        ways = [torch.cat([shifted[:, :half], shifted[:, half:] * 0], 1), shifted]
        ways[1] = torch.cat([shifted[:, :half] * 0, shifted[:, half:]], 1)
        return sum(super(AddsUpInBfloat16, self).propose(way, torch.empty_like(buffer)) for way in ways)


class AddsUpInAnotherOrder(CandidateFilter):
    def scores(self, shifted, keys):
        row, feature = keys // self.d_sae, keys % self.d_sae
        return torch.cat([(a * b).sum(1) for a, b in self._pairs(shifted, row, feature)])

    def _pairs(self, shifted, row, feature) -> Iterator:
        for some in torch.arange(len(row)).split(1 << 14):
            yield shifted[row[some]], self.affine.weight.T[feature[some]]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (CandidateFilter, None),
        (AddsUpInBfloat16, "does not add up in float32"),
        (AddsUpInAnotherOrder, "round otherwise than the whole"),
    ],
)
def test_trial_finds_a_product_that_is_not_as_assumed(kind, reason):
    candidates = kind(Affine(random(256, 512) / 16, None), TopK(3))
    found = find_violation(candidates, torch.empty(64, 512))
    assert found is None if reason is None else reason in found


def test_trial_finds_a_setting_that_lets_float32_products_use_fewer_bits():
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        weight, x = random(256, 512) / 16, random(64, 256, seed=1)
        error = (x @ weight - (x.double() @ weight.double())).abs().max()
        if error < 1e-3:
            pytest.skip("this processor's float32 product has no such setting")
        assert "fewer bits" in find_violation(CandidateFilter(Affine(weight, None), TopK(3)), torch.empty(64, 512))
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


# Who gets it.


def test_bfloat16_is_refused_where_it_cannot_be_had():
    cases = {
        "not one matrix product": sae_lens.GatedSAE(sae_lens.GatedSAEConfig(d_in=8, d_sae=64)),
        "are float64": sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=8, d_sae=64, k=2, dtype="float64")),
        "100 features are not a multiple of 32": sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=8, d_sae=100, k=2)),
    }
    for reason, sae in cases.items():
        assert Encoder(load_sae(sae)).encoding == {"mode": "float32"}
        with raises(InvalidInputError, "bfloat16-unsupported", "cpu", reason):
            Encoder(load_sae(sae), matmul_precision="bfloat16")
    with raises(InvalidInputError, "unknown-choice", "int8", "'auto', 'float32', 'bfloat16'"):
        Encoder(load_sae(cases["are float64"]), matmul_precision="int8")


def test_auto_takes_it_where_it_pays():
    loaded = sae_of("topk", d_in=768, d_sae=16_384, k=8)
    encoder, x = Encoder(loaded), random(64, 768)
    encoder.batch_rows = 64
    batch = encoder.encode(x)
    expected_mode = "bfloat16-candidates" if is_profitable(forward_of(loaded.module)) else "float32"
    assert encoder.encoding["mode"] == expected_mode
    assert_equal(batch, Encoder(loaded, matmul_precision="float32").encode(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_float32_product_on_a_gpu(kind, tmp_path):
    expected = Encoder(sae_of(kind, tmp_path, d_in=768, d_sae=16_384, k=8), "cuda", "float32")
    x = random(4096, 768)
    try:
        encoder = Encoder(sae_of(kind, tmp_path, d_in=768, d_sae=16_384, k=8), "cuda", "bfloat16")
    except InvalidInputError as refused:
        pytest.skip(str(refused))
    assert_equal(encoder.encode(x), expected.encode(x))
