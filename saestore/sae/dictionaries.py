"""SAEs and crosscoders of dictionary_learning, and crosscoders of two models: weights, and the rule of their class.

A crosscoder reads several streams, such as one hook of two models, through one encoder that adds them up. Here it is an
SAE of the streams side by side: an embedding is (streams x d_model,), and decoding gives all streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from saestore.sae.linear import Rule
from saestore.sae.loaded import invalid, unsupported
from saestore.sae.reading import PLAIN, RELU, Read, claimed, need, read_object, read_tensors

# Class of dictionary_learning -> names of its weights, and the rule without its k.
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_DICTIONARIES: dict[str, tuple[dict[str, str], Rule]] = {
    "AutoEncoder": ({**_LINEAR, "b_dec": "bias"}, Rule("relu", shift=True)),
    "AutoEncoderNew": ({**_LINEAR, "b_dec": "decoder.bias"}, Rule("relu")),
    "GatedAutoEncoder": (
        {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias", "r_mag": "r_mag",
         "b_gate": "gate_bias", "b_mag": "mag_bias"},
        Rule("gated", shift=True),
    ),
    "JumpReluAutoEncoder": (PLAIN, Rule("jumprelu")),
    "AutoEncoderTopK": ({**_LINEAR, "b_dec": "b_dec"}, Rule("topk", 1, shift=True)),
    "BatchTopKSAE": ({**_LINEAR, "b_dec": "b_dec", "threshold": "threshold"}, Rule("jumprelu", shift=True)),
    "MatryoshkaBatchTopKSAE": (PLAIN, Rule("jumprelu", shift=True)),
    "CrossCoder": ({**_LINEAR, "b_dec": "decoder.bias"}, Rule("relu")),
    "BatchTopKCrossCoder": ({**_LINEAR, "b_dec": "decoder.bias", "threshold": "threshold"}, Rule("jumprelu")),
}  # fmt: skip
STREAMS_NDIM = 3  # of the encoder of a crosscoder: (streams, d_model, d_sae)
# What a BatchTopKCrossCoder compares with its threshold, as its state numbers it: activations times these norms.
_CODE_NORMS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    1: lambda w_dec: w_dec.norm(dim=2).sum(dim=1), 2: lambda w_dec: w_dec.flatten(1).norm(dim=1),
    4: lambda w_dec: torch.ones(len(w_dec)),
}  # fmt: skip


def _side_by_side(weights: dict[str, Any], where: Path, *, norms: int | None = None) -> int:
    """Make one SAE of a crosscoder, in place: its streams are the parts of one embedding; returns their number.

    ``W_enc`` is (streams, d_model, d_sae), ``W_dec`` (d_sae, streams, d_model) or streams first, ``b_dec`` (streams,
    d_model). `norms` is a key of `_CODE_NORMS` where there is a ``threshold`` of one number.
    """
    w_enc, w_dec = weights["W_enc"], weights["W_dec"]
    if {w_enc.ndim, w_dec.ndim} != {STREAMS_NDIM}:
        raise invalid(
            f"{where}: the encoder is {tuple(w_enc.shape)} and the decoder {tuple(w_dec.shape)}; both need three "
            "dimensions, one of them the streams"
        )
    if w_dec.shape[1] == w_enc.shape[2]:
        w_dec = w_dec.transpose(0, 1)
    if norms not in (None, *_CODE_NORMS):
        raise unsupported(
            f"{where} has a threshold for each stream, or for a mixture of norms; use a crosscoder with one threshold"
        )
    if norms is not None:
        weights["threshold"] = weights["threshold"] / _CODE_NORMS[norms](w_dec).to(w_enc.dtype)
    weights["W_enc"], weights["W_dec"] = w_enc.flatten(0, 1), w_dec.flatten(1)
    weights["b_dec"] = weights["b_dec"].flatten()
    return int(w_enc.shape[0])


def read_dictionary(folder: Path) -> Read:
    """dictionary_learning: the class in ``config.json`` names which weights there are and how they are used."""
    config = read_object(folder / "config.json")
    file = next(each for name in ("ae.pt", "model.safetensors") if (each := folder / name).is_file())
    state, trainer = read_tensors(file), config.get("trainer", config)
    # On the hub the configuration is the arguments of the class, without its name.
    kind = trainer["dict_class"] if file.name == "ae.pt" else "BatchTopKCrossCoder" if "k" in state else "CrossCoder"
    if kind not in _DICTIONARIES:
        raise unsupported(f"{folder} has the dict_class {kind!r}; known are {', '.join(_DICTIONARIES)}")
    names, rule = _DICTIONARIES[kind]
    weights: dict[str, Any] = dict(zip(names, need(state, file, *names.values()).values(), strict=True))
    threshold = weights.get("threshold")
    if threshold is not None and threshold.numel() == 1 and float(threshold) < 0:
        raise unsupported(
            f"{file} has no threshold yet (training was stopped early), so that its activations depend on the batch"
        )
    streams = None
    if "CrossCoder" in kind:
        norms = int(state.get("code_normalization_id", 1)) if "threshold" in names else None
        streams = _side_by_side(weights, file, norms=norms)
    for name, stored in names.items():
        if stored.endswith("oder.weight") and streams is None:  # of torch.nn.Linear: outputs first
            weights[name] = weights[name].T.contiguous()
    stated = {"d_model" if streams else "d_in": trainer.get("activation_dim"), "d_sae": trainer.get("dict_size")}
    stated |= {"streams": trainer.get("num_layers", trainer.get("num_encoder_layers")), "k": trainer.get("k")}
    claimed(stated, weights, folder / "config.json", streams=streams, k=int(state["k"]) if "k" in state else None)
    if rule.kind == "topk":
        rule = Rule("topk", int(state["k"]) if "k" in state else trainer["k"], shift=True)
    weights = {name: tensor.to(weights["W_enc"].dtype) for name, tensor in weights.items()}
    hook = f"blocks.{trainer['layer']}.hook_resid_post" if "resid" in str(trainer.get("submodule_name")) else None
    facts = {"hook_name": hook, "model_name": trainer.get("lm_name"), **({"streams": streams} if streams else {})}
    fused = streams is None and names["W_enc"] != "W_enc"
    return Read(weights, rule, kind, facts, transcodes=_writes_elsewhere(weights, streams), fused=fused)


def _writes_elsewhere(weights: Mapping[str, Any], streams: int | None) -> bool:
    """Whether a crosscoder writes other streams than it reads: then it is a transcoder."""
    return streams is not None and weights["W_dec"].shape[-1] != weights["W_enc"].shape[0]


def read_crosscoder(path: Path) -> Read:
    """Crosscoders of two models, as ckkissane's replication saves them: ReLU, and a decoder for each model."""
    file = path / "cc_weights.pt" if path.is_dir() else path
    beside = [file.with_name("cfg.json"), file.with_name(f"{file.stem}_cfg.json")]
    config_file = next((each for each in beside if each.is_file()), beside[-1])
    config = read_object(config_file) if config_file.is_file() else {}
    state = read_tensors(file)
    weights = need(state, file, *RELU)
    streams = _side_by_side(weights, file)
    stated = {"d_model": config.get("d_in"), "d_sae": config.get("dict_size"), "streams": config.get("n_models")}
    claimed(stated, weights, config_file, streams=streams)
    if "threshold" in state:
        raise unsupported(
            f"{file} has a threshold, so it is not the ReLU crosscoder of this layout; load it with its own code and "
            "give the object (sae=)"
        )
    facts = {"hook_name": config.get("hook_point"), "streams": streams}
    return Read(weights, Rule("relu"), "crosscoder", facts, transcodes=_writes_elsewhere(weights, streams))
