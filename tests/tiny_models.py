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


VISION = {
    "clip": _clip,
    "clip-vision": lambda _: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)),
    "siglip": _siglip,
    "dinov2": lambda _: transformers.Dinov2Model(transformers.Dinov2Config(**TOWER)),
    "dinov2-registers": lambda _: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**TOWER, num_register_tokens=4)
    ),
}
LANGUAGE = {
    "gemma": lambda v: transformers.GemmaForCausalLM(transformers.GemmaConfig(**GROUPED, vocab_size=v)),
    "gemma2": lambda v: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**GROUPED, vocab_size=v)),
    "gemma3-text": lambda v: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**GROUPED, vocab_size=v)),
    "gemma3": _gemma3,
    "llama": lambda v: transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, vocab_size=v)),
    "gpt2": lambda v: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=WIDTH, n_layer=N_BLOCKS, n_head=4, vocab_size=v, bos_token_id=1, eos_token_id=1)
    ),
    "qwen3.5": lambda v: transformers.Qwen3_5ForCausalLM(
        transformers.Qwen3_5TextConfig(
            **GROUPED,
            vocab_size=v,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        )
    ),
    "bert": lambda v: transformers.BertModel(transformers.BertConfig(**TEXT, vocab_size=v, max_position_embeddings=64)),
}
# Mamba lists its hidden states in another way; saestore cannot run the others up to a block.
OTHER_KINDS = {
    "mamba": lambda v: transformers.MambaForCausalLM(
        transformers.MambaConfig(hidden_size=WIDTH, num_hidden_layers=N_BLOCKS, state_size=4, vocab_size=v)
    ),
    "xlnet": lambda v: transformers.XLNetModel(
        transformers.XLNetConfig(d_model=WIDTH, d_inner=64, n_layer=N_BLOCKS, n_head=4, vocab_size=v)
    ),
    "esm": lambda v: transformers.EsmModel(
        transformers.EsmConfig(**TEXT, vocab_size=v, pad_token_id=0, mask_token_id=2)
    ),
}


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
