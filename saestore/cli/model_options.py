"""The options of `saestore build` that run a model on images or texts."""

from __future__ import annotations

from saestore.cli.options import all_of, option
from saestore.vocabulary import MODEL_DTYPES

model_options = all_of(
    option(
        "--images DIR",
        "Folder of images to run through a model, in place of embeddings; --items selects and orders them.  "
        "[default order: by name]",
    ),
    option(
        "--texts FILE",
        "Texts to run through a model, in place of embeddings: .txt (one per line), .csv or .jsonl with `text`.",
    ),
    option(
        "--model, --model-type MODEL",
        "Folder or hub name of a model: CLIP, SigLIP, DINOv2; Gemma, Llama, GPT-2, BERT and the like.  [default: "
        "the SAE's]  Without --images and --texts, clip or gemma: the known datasets of images or of texts.",
        to="model",
    ),
    option("--layer N", "Block, counted from 0, whose output is encoded.  [default: the SAE's]", at_least=0),
    option(
        "--hook HOOK",
        "In place of --layer, a hook as sae_lens names it: blocks.N. with hook_resid_post, hook_resid_pre, "
        "hook_resid_mid, attn.hook_z, hook_attn_out or hook_mlp_out.  [default: the SAE's]",
    ),
    option(
        "--model-dtype DTYPE",
        "Dtype of the model's weights: float32, bfloat16 or float16.",
        choices=MODEL_DTYPES,
        default="float32",
    ),
    option(
        "--batch-size N", "Images or texts that run through the model together.  [default: 16, on a GPU 64]", at_least=1
    ),
    option("--max-tokens N", "Cut longer texts.  [default: as in training, else the model's limit]", at_least=1),
    option("--window N", "Run longer texts in windows of N tokens instead of cutting them.", at_least=1),
    option(
        "--stride N", "Windows begin N tokens apart; every token is stored once.  [default: no overlap]", at_least=1
    ),
    option("--chat", "Put texts into the tokenizer's chat template; .jsonl may have lists of `messages`."),
    option("--bos TOKEN", "First token of every text, or none.  [default: as in training, else as the tokenizer does]"),
    option(
        "--skip-bad",
        "Leave out images that cannot be read and texts without tokens; the set records which.",
    ),
)
