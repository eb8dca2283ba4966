"""Every family of models at its blocks and at the hooks inside them: what transformers and TransformerLens give."""

import copy

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import numpy as np
import torch
import transformers
from raising import raises
from safetensors.torch import save_file
from tiny_models import LANGUAGE, N_BLOCKS, SIZE, VISION, livelier, quietly, tokenizer
from transformers.cache_utils import Cache

from saestore.errors import InvalidInputError
from saestore.models.blocks import BlockModel, find_tower, load_text_model, load_tower
from saestore.models.hooks import Hook
from saestore.models.pretrained import Pretrained
from saestore.models.run import RunTexts
from saestore.models.tokens import Tokens

pytestmark = pytest.mark.once

IDS = torch.tensor([[2, 5, 7, 3, 9, 4], [8, 6, 3, 2, 0, 0]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
INNER = ("resid_mid", "z", "attn_out", "mlp_out")
# Modules of a block: whose input is between attention and MLP, the projection of the heads, and what each adds.
MODULES = {
    "bert": ("attention.output.LayerNorm", "attention.output.dense", "attention.output.dense", "output.dense"),
    "esm": ("LayerNorm", "attention.output.dense", "attention.output.dense", "output.dense"),
    "modernbert": ("mlp_norm", "attn.Wo", "attn", "mlp"),
    "t5": ("layer.1.layer_norm", "layer.0.SelfAttention.o", "layer.0.SelfAttention", "layer.1.DenseReluDense"),
    "qwen3.5": ("post_attention_layernorm", "linear_attn.out_proj", "linear_attn", "mlp"),
    "jamba": ("pre_ff_layernorm", "mamba.out_proj", "mamba", "feed_forward"),
    "bamba": ("pre_ff_layernorm", "mamba.out_proj", "mamba", "feed_forward"),
    "recurrent-gemma": ("channel_pre_norm", "temporal_block.o_proj", "temporal_block", "mlp_block"),
    "lfm2": ("ffn_norm", "conv.out_proj", "conv", "feed_forward"),
    "granite-hybrid": ("post_attention_layernorm", "mamba.out_proj", "mamba", "shared_mlp"),
    "olmo-hybrid": ("post_attention_layernorm", "linear_attn.o_proj", "linear_attn", "mlp"),
    "qwen3-next": ("post_attention_layernorm", "linear_attn.out_proj", "linear_attn", "mlp"),
    "clip-vision": ("layer_norm2", "self_attn.out_proj", "self_attn", "mlp"),
    "siglip": ("layer_norm2", "self_attn.out_proj", "self_attn", "mlp"),
    "dinov2": ("norm2", "attention.o_proj|attention.output.dense", "layer_scale1", "layer_scale2"),
    "dinov3": ("norm2", "attention.o_proj", "layer_scale1", "layer_scale2"),
    "dinov2-registers": ("norm2", "attention.o_proj|attention.output.dense", "layer_scale1", "layer_scale2"),
    "vit": ("layernorm_after", "attention.o_proj|attention.output.dense", "attention", "mlp|output.dense"),
    "mae": ("layernorm_after", "attention.o_proj|attention.output.dense", "attention", "mlp|output.dense"),
}
NO_INPUT = ("mamba", "mamba2")  # transformers' list of hidden states begins with the output of the first block
LENS = [
    "gpt2", "gemma", "gemma2", "gemma3-text", "gemma4-text", "llama", "mistral", "qwen2.5", "qwen3", "phi", "phi3",
    "gpt-neox", "olmo", "olmo2", "olmo3",
]  # fmt: skip


def made(kind, folder):
    """A model on disk, and what transformers loads from there."""
    torch.manual_seed(0)
    try:
        model = livelier({**LANGUAGE, **VISION}[kind](300))
    except AttributeError as error:
        pytest.skip(f"this transformers does not have it: {error}")
    quietly(model.save_pretrained, folder)
    loader = transformers.AutoModelForTextEncoding if kind.startswith("t5") else transformers.AutoModel
    return quietly(loader.from_pretrained, folder).eval()


def blocks_of(model):
    lists = (x for x in model.modules() if isinstance(x, torch.nn.ModuleList) and len(x) == N_BLOCKS)
    return next(x for x in lists if hasattr(x[0], "forward") and list(x[0].children()))


def kept(module, output, run):
    """What one module gets or gives in a run."""
    found = []
    if output:
        module.register_forward_hook(lambda _m, _x, out: found.append(out[0] if isinstance(out, tuple) else out))
    else:
        module.register_forward_pre_hook(
            lambda _m, x, named: found.append((x or [named.get("hidden_states")])[0]), with_kwargs=True
        )
    with torch.no_grad():
        run()
    return found[0].clone()


@pytest.mark.parametrize("kind", LANGUAGE)
def test_blocks_of_text_models(kind, tmp_path, monkeypatch):
    """The first block by transformers' own list, the last, before the final norm, by a hook on the whole model."""
    whole = made(kind, tmp_path)
    whole = getattr(whole, "language_model", whole)
    with torch.no_grad():
        states = whole(**INPUTS, output_hidden_states=True).hidden_states
    last = kept(blocks_of(whole)[-1], True, lambda: whole(**INPUTS))
    caches = []
    monkeypatch.setattr(Cache, "__init__", lambda *_, **__: caches.append(1))
    for layer, theirs in ((0, states[kind not in NO_INPUT]), (N_BLOCKS - 1, last)):
        model, _ = load_text_model(Pretrained(str(tmp_path)), Hook(layer), "float32", "cpu")
        ours = model(**INPUTS)
        active = theirs[whole.config.altup_active_idx] if theirs.ndim == 4 else theirs
        torch.testing.assert_close(ours[MASK == 1], active[MASK == 1])
        assert model.width == ours.shape[-1]
        alone = model(input_ids=IDS[1:, :4], attention_mask=MASK[1:, :4])  # padding makes no difference
        torch.testing.assert_close(ours[1, :4], alone[0], atol=1e-4, rtol=1e-4)
    assert not caches


def test_texts_of_a_model_that_mixes_padding_in_run_by_length(tmp_path):
    """MobileBERT's embedding of a token has the next token's in it, with no mask."""
    sizes = {"hidden_size": SIZE, "embedding_size": SIZE, "intra_bottleneck_size": SIZE, "num_hidden_layers": 2}
    config = transformers.MobileBertConfig(**sizes, vocab_size=300, num_attention_heads=4, intermediate_size=SIZE)
    torch.manual_seed(0)
    quietly(livelier(transformers.MobileBertModel(config)).save_pretrained, tmp_path)
    model, _ = load_text_model(Pretrained(str(tmp_path)), Hook(1), "float32", "cpu")
    lengths = [(6, 0), (3, 0), (6, 1)]
    ids = [np.arange(5, 5 + n) + add for n, add in lengths]
    texts = [Tokens(each, np.ones(len(each), bool), np.zeros((len(each), 2), np.int32), cut=False) for each in ids]
    windows = np.array([[i, 0] for i in range(3)])
    together = RunTexts(model, lambda numbers: [[texts[int(i)]] for i in numbers], list("012"), windows, mean=False)
    alone = [model(input_ids=torch.tensor(each[None])).squeeze(0) for each in ids]
    assert not model.pads
    # Of values up to 30 some processors round these products otherwise, by 2e-5; padding would make it 10.
    torch.testing.assert_close(together(0, 3), torch.cat(alone), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_hooks_are_found_in_fewer_bits(dtype, tmp_path):
    """Sums are rounded, in the whole model too."""
    made("gemma2", tmp_path)
    for place in INNER:
        full, half = (load_text_model(Pretrained(str(tmp_path)), Hook(1, place), each, "cpu")[0](**INPUTS)[MASK == 1]
                      for each in ("float32", dtype))  # fmt: skip
        assert half.dtype == getattr(torch, dtype)
        assert (full - half.float()).norm() < 0.02 * full.norm()


def test_the_text_part_is_loaded_without_the_others(tmp_path):
    """The image part of Gemma 3n needs a package of its own."""
    text = made("gemma3n", tmp_path / "text")
    transformers.Gemma3nConfig(text_config=text.config.to_dict()).save_pretrained(tmp_path / "both")
    weights = {f"model.language_model.{name}": value for name, value in text.state_dict().items()}
    save_file(weights, tmp_path / "both" / "model.safetensors", {"format": "pt"})
    theirs = kept(blocks_of(text)[1], True, lambda: text(**INPUTS))
    model, _ = load_text_model(Pretrained(str(tmp_path / "both")), Hook(1), "float32", "cpu")
    torch.testing.assert_close(model(**INPUTS)[MASK == 1], theirs[0][MASK == 1])


@pytest.mark.parametrize("kind", LENS)
def test_hooks_of_transformer_lens(kind, tmp_path):
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge.sources.transformers import boot

    model = made(kind, tmp_path)
    tokenizer("gpt2").save_pretrained(tmp_path)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    causal = quietly(transformers.AutoModelForCausalLM.from_pretrained, tmp_path)
    lens = quietly(boot, str(tmp_path), hf_model=causal, tokenizer=words, device="cpu")
    ids = IDS[:1]
    _, cache = lens.run_with_cache(ids)
    for place in ("resid_pre", "resid_post", *INNER):
        hook = Hook(N_BLOCKS - 1, place)
        if hook.name not in cache:  # attention and MLP of a block run side by side
            assert place == "resid_mid"
            with raises(InvalidInputError, "unsupported-hook", hook.name):
                BlockModel(copy.deepcopy(model), hook, model.config, "cpu", {"input_ids": ids})
            continue
        ours = BlockModel(copy.deepcopy(model), hook, model.config, "cpu", {"input_ids": ids})(input_ids=ids)
        torch.testing.assert_close(ours, cache[hook.name].reshape(ours.shape), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", MODULES)
def test_hooks_by_their_modules(kind, tmp_path):
    whole = made(kind, tmp_path)
    if kind in VISION:
        whole = getattr(whole, "vision_model", whole)
        inputs = {"pixel_values": torch.randn(2, 3, SIZE, SIZE)}
        if kind == "mae":  # else which patches it keeps is random
            inputs["noise"] = torch.arange((SIZE // 8) ** 2).expand(2, -1).float()
        probe = {name: value[:1] for name, value in inputs.items()}
    else:
        inputs, probe = INPUTS, {"input_ids": IDS[:1], "attention_mask": MASK[:1]}
    block = dict(blocks_of(whole)[-1].named_modules())
    for place, name in zip(INNER, MODULES[kind], strict=True):
        module = next(block[each] for each in name.split("|") if each in block)
        theirs = kept(module, place in ("attn_out", "mlp_out"), lambda: whole(**inputs))
        ours = BlockModel(copy.deepcopy(whole), Hook(N_BLOCKS - 1, place), whole.config, "cpu", probe)(**inputs)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kind", "place"), [("mamba", "z"), ("falcon-h1", "attn_out"), ("gemma3n", "resid_mid")])
def test_hooks_that_a_block_does_not_have(kind, place, tmp_path):
    made(kind, tmp_path)
    with raises(InvalidInputError, "unsupported-hook", Hook(1, place).name):
        load_text_model(Pretrained(str(tmp_path)), Hook(1, place), "float32", "cpu")


@pytest.mark.parametrize("kind", VISION)
def test_blocks_of_image_models(kind, tmp_path):
    whole = made(kind, tmp_path)
    whole = getattr(whole, "vision_model", whole)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    if kind == "mae":
        whole.config.mask_ratio = 0.0
    with torch.no_grad():
        out = whole(pixel_values=pixels, output_hidden_states=True)
    for layer in range(N_BLOCKS):
        theirs = out.hidden_states[layer + 1]
        if kind == "mae":  # transformers leaves the patches in random order
            order = out.ids_restore.unsqueeze(-1).expand(-1, -1, theirs.shape[-1])
            theirs = torch.cat([theirs[:, :1], theirs[:, 1:].gather(1, order)], dim=1)
        pretrained = Pretrained(str(tmp_path))
        tower, config = find_tower(pretrained)
        probe = {"pixel_values": pixels[:1]}
        model = load_tower(pretrained, tower, config, Hook(layer), dtype="float32", device="cpu", probe=probe)
        ours = model(pixel_values=pixels)
        if layer == N_BLOCKS - 1 and not torch.allclose(ours, theirs, atol=1e-5):  # in some the norm comes in between
            theirs = kept(blocks_of(whole)[-1], True, lambda: whole(pixel_values=pixels))
        torch.testing.assert_close(ours, theirs)
        assert ours.shape[1] == tower.n_before + (SIZE // config.patch_size) ** 2
