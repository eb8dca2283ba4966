"""Tiny models of transformers with random weights, a folder each, and what transformers itself says they compute."""

from pathlib import Path

import numpy as np
import torch
import transformers

WIDTH, N_BLOCKS, SIZE, PATCH = 32, 3, 32, 8
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": PATCH,
}
TEXT = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": N_BLOCKS, "num_attention_heads": 4}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
GROUPED_ONLY = {**TEXT, "num_key_value_heads": 2}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 4}
# Of the last two blocks of Gemma 3n and 4, one takes keys and values of the other: which depends on how many follow.
SHARED = {
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 1,
}


def _clip(vocabulary):
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=TOWER, text_config={**TEXT, "vocab_size": 50}))


def _siglip(vocabulary):
    text = {**TEXT, "vocab_size": 50}
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=TOWER, text_config=text))


def _gemma3(vocabulary):
    config = transformers.Gemma3Config(
        text_config={**GROUPED, "vocab_size": vocabulary}, vision_config=TOWER, mm_tokens_per_image=4
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _gemma4(vocabulary):
    text = {**GROUPED, **SHARED, "vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    config = transformers.Gemma4Config(text_config={**text, "global_head_dim": 16}, vision_config=vision)
    return transformers.Gemma4ForConditionalGeneration(config)


def _qwen35(vocabulary):
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    text = {**GROUPED, **LINEAR, "vocab_size": vocabulary, "rope_parameters": rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH}
    return transformers.Qwen3_5ForConditionalGeneration(
        transformers.Qwen3_5Config(text_config=text, vision_config={**vision, "num_position_embeddings": 16})
    )


VISION = {
    "clip": _clip,
    "clip-vision": lambda _: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)),
    "siglip": _siglip,
    "dinov2": lambda _: transformers.Dinov2Model(transformers.Dinov2Config(**TOWER)),
    "dinov2-registers": lambda _: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**TOWER, num_register_tokens=4)
    ),
    "dinov3": lambda _: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**TOWER, num_register_tokens=4)),
    "vit": lambda _: transformers.ViTModel(transformers.ViTConfig(**TOWER)),
    "mae": lambda _: transformers.ViTMAEModel(transformers.ViTMAEConfig(**TOWER)),
}


def causal(name, **config):
    """Make a model for text by the name of its classes, for a vocabulary of some size."""

    def make(vocabulary):
        model = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
        kind = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        return model(kind(**{**ids, "vocab_size": vocabulary, **config}))

    return make


LANGUAGE = {
    "gemma": causal("Gemma", **GROUPED),
    "gemma2": causal("Gemma2", **GROUPED),
    "gemma3-text": causal("Gemma3", **GROUPED),
    "gemma3": _gemma3,
    "gemma3n": causal(
        "Gemma3n",
        **GROUPED,
        **SHARED,
        vocab_size_per_layer_input=50,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * N_BLOCKS,
    ),
    "gemma4-text": causal("Gemma4", **GROUPED, **SHARED, vocab_size_per_layer_input=300, global_head_dim=16),
    "gemma4": _gemma4,
    "qwen3.5-images": _qwen35,
    "qwen2.5": causal("Qwen2", **GROUPED_ONLY),
    "qwen3": causal("Qwen3", **GROUPED),
    "qwen3.5": causal("Qwen3_5", **GROUPED, **LINEAR),
    "llama": causal("Llama", **TEXT),
    "mistral": causal("Mistral", **GROUPED),
    "phi": causal("Phi", **TEXT),
    "phi3": causal("Phi3", **TEXT),
    "gpt2": causal("GPT2", n_embd=WIDTH, n_layer=N_BLOCKS, n_head=4),
    "gpt-neox": causal("GPTNeoX", **TEXT),
    "olmo": causal("Olmo", **TEXT),
    "olmo2": causal("Olmo2", **TEXT),
    "olmo3": causal("Olmo3", **TEXT),
    "mamba": causal("Mamba", hidden_size=WIDTH, num_hidden_layers=N_BLOCKS, state_size=4),
    "mamba2": causal(
        "Mamba2", hidden_size=WIDTH, num_hidden_layers=N_BLOCKS, state_size=4, num_heads=4, head_dim=16, n_groups=1
    ),
    "bamba": causal("Bamba", **GROUPED_ONLY, **MAMBA, attn_layer_indices=[1]),
    "jamba": causal("Jamba", **GROUPED_ONLY, attn_layer_offset=1, attn_layer_period=2, num_experts=2, mamba_d_state=4),
    "falcon-h1": causal("FalconH1", **GROUPED, **{**MAMBA, "mamba_d_head": 8}, mamba_d_ssm=32),
    "recurrent-gemma": causal("RecurrentGemma", **TEXT, lru_width=WIDTH, num_key_value_heads=1),
    "zamba2": causal(
        "Zamba2",
        **TEXT,
        layers_block_type=["mamba", "hybrid", "mamba"],
        mamba_d_state=4,
        n_mamba_heads=4,
        mamba_ngroups=1,
        num_mem_blocks=1,
        adapter_rank=4,
    ),
    "nemotron-h": causal(
        "NemotronH",
        **{key: value for key, value in GROUPED.items() if key != "num_hidden_layers"},
        layers_block_type=["mamba", "attention", "mlp"],
        mamba_num_heads=4,
        mamba_head_dim=8,
        n_groups=1,
        ssm_state_size=4,
    ),
    "lfm2": causal("Lfm2", **GROUPED_ONLY, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8),
    "granite-hybrid": causal(
        "GraniteMoeHybrid",
        **GROUPED_ONLY,
        **MAMBA,
        layer_types=["mamba", "attention", "mamba"],
        num_local_experts=0,
        num_experts_per_tok=0,
        shared_intermediate_size=32,
    ),
    "olmo-hybrid": causal("OlmoHybrid", **GROUPED, **LINEAR),
    "qwen3-next": causal(
        "Qwen3Next",
        **GROUPED,
        **LINEAR,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "bert": lambda v: transformers.BertModel(transformers.BertConfig(**TEXT, vocab_size=v, max_position_embeddings=64)),
    "modernbert": lambda v: transformers.ModernBertModel(
        transformers.ModernBertConfig(
            **TEXT, vocab_size=v, pad_token_id=0, cls_token_id=1, sep_token_id=1, bos_token_id=1, eos_token_id=1
        )
    ),
    "t5": lambda v: transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=WIDTH, d_kv=8, d_ff=64, num_layers=N_BLOCKS, num_heads=4, vocab_size=v)
    ),
    "t5-encoder": lambda v: transformers.T5EncoderModel(
        transformers.T5Config(d_model=WIDTH, d_kv=4, d_ff=48, num_layers=N_BLOCKS, num_heads=2, vocab_size=v)
    ),
    "esm": lambda v: transformers.EsmModel(
        transformers.EsmConfig(**TEXT, vocab_size=v, pad_token_id=0, mask_token_id=2)
    ),
}
# Rows and texts of its blocks are the other way round.
OTHER_KINDS = {
    "xlnet": lambda v: transformers.XLNetModel(
        transformers.XLNetConfig(d_model=WIDTH, d_inner=64, n_layer=N_BLOCKS, n_head=4, vocab_size=v)
    ),
}


def livelier(model):
    """Larger weights than transformers' own random ones, so that every part of a block matters."""
    for value in model.parameters():
        if value.ndim == 2:
            torch.nn.init.normal_(value, 0, 0.2)
    return model.eval()


def vision_model(kind, folder, **processor):
    """Save a vision model and its image processor; CLIP's own (resize the short side, crop) unless told otherwise."""
    torch.manual_seed(0)
    quietly(VISION[kind](None).save_pretrained, folder)
    how = processor or {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    image_processor(**how).save_pretrained(folder)
    return folder


def image_processor(**how):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**how)


def quietly(call, *args, **kwargs):
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return call(*args, **kwargs)
    finally:
        logging.set_verbosity(level)


def whole_vision_model(folder):
    """The vision part with all its blocks, as transformers loads it."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(config, "vision_config", config).model_type
    names = {
        "clip_vision_model": "CLIPVisionModel",
        "siglip_vision_model": "SiglipVisionModel",
        "dinov2": "Dinov2Model",
        "dinov2_with_registers": "Dinov2WithRegistersModel",
        "dinov3_vit": "DINOv3ViTModel",
        "vit": "ViTModel",
    }
    return quietly(getattr(transformers, names[kind]).from_pretrained, folder).eval()


def image_states(folder, images):
    """Of every image alone, by transformers' own list: (n_images, rows, width) for each block's output."""
    model, processor = whole_vision_model(folder), image_processor_of(folder)
    found = []
    with torch.no_grad():
        for image in images:
            pixels = processor(images=image, return_tensors="pt")["pixel_values"]
            found.append(torch.cat(model(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]))
    return torch.stack(found, dim=1).numpy()


def image_processor_of(folder):
    return quietly(transformers.AutoImageProcessor.from_pretrained, folder, backend="pil")


def pictures(folder, sizes, seed=0):
    """Save pictures of those (width, height), smooth enough that a resized one is like the original."""
    from PIL import Image

    random = np.random.default_rng(seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i, size in enumerate(sizes):
        coarse = Image.fromarray(random.integers(0, 255, (5, 5, 3), dtype=np.uint8))
        image = coarse.resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{i:02}.png")
        made.append(image)
    return made


TEXTS = [
    "The cat sat on the mat.",
    "Why, of course! I LOVE waiting for the bus in the rain…",
    "naïve café 😀 señor",
    "a",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen",
    "  two  spaces ",
]


def tokenizer(kind):
    """A fast tokenizer of `TEXTS`: ``gpt2`` adds nothing, ``llama`` a BOS in front, ``bert`` [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    if kind == "bert":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=names))
        made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
        roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **roles)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<bos>"], initial_alphabet=alphabet)
    )
    if kind == "llama":
        made.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", 1)])
    roles = {} if kind == "gpt2" else {"pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", **roles)


def text_model(kind, folder):
    """Save a text model and a tokenizer of its kind."""
    torch.manual_seed(0)
    made = tokenizer(kind if kind in ("gpt2", "bert") else "llama")
    quietly({**LANGUAGE, **OTHER_KINDS}[kind](len(made)).save_pretrained, folder)
    made.save_pretrained(folder)
    return folder


def whole_text_model(folder):
    model = quietly(transformers.AutoModel.from_pretrained, folder).eval()
    return model.language_model if hasattr(model, "language_model") else model


def text_states(folder, ids):
    """Hidden states of one text by itself, by transformers' own list, one entry a block."""
    with torch.no_grad():
        return whole_text_model(folder)(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
