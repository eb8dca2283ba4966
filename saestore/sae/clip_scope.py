"""CLIP-Scope checkpoints: TopK SAEs on CLIP ViT-L/14, without bias and without ReLU.

A checkpoint is a dict ``k``, ``n_features``, ``d_in`` and ``model_state_dict``, which holds ``pre_b`` (d_in), ``enc``
(d_in, n_features) and ``dec`` (n_features, d_in). Activations are the k largest values of ``(x - pre_b) @ enc``,
negative ones too; the reconstruction is ``activations @ dec + pre_b``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from saestore.errors import InvalidInputError
from saestore.files import load_pt
from saestore.sae.loaded import LoadedSAE, name_from_path

MODEL_NAME = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
TRANSFORM = {"resize": {"shortest_edge": 224}, "crop": [224, 224]}
_LAYER_FOLDER = re.compile(r"(\d+)_resid")
_SHAPE = (
    "a dict with k, n_features, d_in and model_state_dict = "
    "{pre_b (d_in), enc (d_in, n_features), dec (n_features, d_in)}"
)


class ClipScopeSAE(torch.nn.Module):
    """The weights of a CLIP-Scope checkpoint.

    Parameters
    ----------
    k
        Active features of a row.
    pre_b, enc, dec
        Tensors of shapes (d_in,), (d_in, d_sae) and (d_sae, d_in).
    """

    pre_b: torch.Tensor
    enc: torch.Tensor
    dec: torch.Tensor

    def __init__(self, k: int, pre_b: torch.Tensor, enc: torch.Tensor, dec: torch.Tensor) -> None:
        super().__init__()
        self.k = k
        # Buffers, so that .to(device) and .state_dict() do what they do for any other SAE.
        self.register_buffer("pre_b", pre_b)
        self.register_buffer("enc", enc)
        self.register_buffer("dec", dec)


def load_clip_scope(path: str | os.PathLike[str], device: str = "cpu") -> LoadedSAE:
    """Load a CLIP-Scope checkpoint, memory-mapped.

    Raises
    ------
    NotFoundError
        The file does not exist.
    InvalidInputError
        The file is truncated, contains Python objects, or is not a CLIP-Scope checkpoint.
    """
    file = Path(path)
    sae = _checked(load_pt(file), file)
    d_in, d_sae = sae.enc.shape
    layer = _LAYER_FOLDER.fullmatch(file.absolute().parent.name)
    config = {"architecture": "clip_scope", "k": sae.k, "d_in": d_in, "d_sae": d_sae}
    info = {
        **config,
        "dtype": str(sae.enc.dtype).removeprefix("torch."),
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
        "hook_name": f"blocks.{layer[1]}.hook_resid_post" if layer else None,
        "model_name": MODEL_NAME if layer else None,
        "release": None,
        "sae_id": None,
        "source": str(file),
    }
    # The hub's own folders name the layer, <layer>_resid/<steps>.pt; the file's name there is a count of steps.
    name = f"clip-scope-{layer[1]}" if layer else name_from_path(file)
    return LoadedSAE(name, info, config, sae.to(device), {"transform": TRANSFORM} if layer else {})


def _checked(loaded: object, file: Path) -> ClipScopeSAE:
    if not isinstance(loaded, dict):
        raise InvalidInputError(
            f"{file} contains a {type(loaded).__name__}; a CLIP-Scope checkpoint is {_SHAPE}", code="not-an-sae"
        )
    state = loaded.get("model_state_dict", {})
    weights: dict[str, Any] = state if isinstance(state, dict) else {}
    missing = [key for key in ("k", "n_features", "d_in", "model_state_dict") if key not in loaded]
    missing += [f"model_state_dict[{key!r}]" for key in ("pre_b", "enc", "dec") if key not in weights]
    if missing:
        raise InvalidInputError(
            f"{file} lacks {', '.join(missing)}; a CLIP-Scope checkpoint is {_SHAPE}", code="not-an-sae"
        )
    k, d_sae, d_in = loaded["k"], loaded["n_features"], loaded["d_in"]
    if not all(isinstance(n, int) for n in (k, d_sae, d_in)) or not 1 <= k <= d_sae:
        raise InvalidInputError(
            f"{file} has k={k!r}, n_features={d_sae!r}, d_in={d_in!r}; they must be integers, 1 <= k <= n_features",
            code="invalid-sae",
        )
    for key, shape in {"pre_b": (d_in,), "enc": (d_in, d_sae), "dec": (d_sae, d_in)}.items():
        tensor = weights[key]
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tuple(tensor.shape) != shape:
            what = (
                f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            )
            raise InvalidInputError(
                f"{file}: model_state_dict[{key!r}] is {what}; it must be a float tensor of shape {shape}",
                code="invalid-sae",
            )
    if len({weights[key].dtype for key in ("pre_b", "enc", "dec")}) > 1:
        raise InvalidInputError(f"{file}: pre_b, enc and dec must have one dtype", code="invalid-sae")
    return ClipScopeSAE(k, *(weights[key].detach() for key in ("pre_b", "enc", "dec")))
