"""SAEs in sae_lens's format as weights and a rule, without sae_lens: importing it takes ten seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saestore.sae.linear import LinearSAE, Rule, checked
from saestore.sae.loaded import invalid
from saestore.sae.reading import claimed, read_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# sae_lens's settings, with its defaults; what else a configuration has are notes, or settings of other architectures.
_SETTINGS = {
    "dtype": "float32",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
}
_NOT_SETTINGS = {"d_in", "d_sae", "architecture", "device", "metadata", "sae_lens_version"}
_TOPK = {"k": 100, "rescale_acts_by_decoder_norm": False}
_NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "covariance_whitening")
_DTYPES = ("float32", "float64", "float16", "bfloat16")
# Keys that sae_lens renamed in version 6.
_RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}


@dataclass(frozen=True)
class _Architecture:
    """The rule of an architecture, its own settings, and its weights besides the usual four."""

    rule: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[str, ...] = ()


_OUT = {"d_out": 768, "apply_b_dec_to_input": False}
_ARCHITECTURES = {
    "standard": _Architecture("relu"),
    "topk": _Architecture("topk", _TOPK),
    "abstopk": _Architecture("abstopk", _TOPK),
    "jumprelu": _Architecture("jumprelu", {}, ("threshold",)),
    "transcoder": _Architecture("relu", _OUT),
    "skip_transcoder": _Architecture("relu", _OUT, ("W_skip",)),
    "jumprelu_transcoder": _Architecture("jumprelu", _OUT, ("threshold",)),
    "jumprelu_skip_transcoder": _Architecture("jumprelu", _OUT, ("threshold", "W_skip")),
}


def linear_of(config: Mapping[str, Any], weights: dict[str, torch.Tensor], where: str) -> LinearSAE | None:
    """The SAE of sae_lens's settings and weights; None where its architecture is not one linear map each way."""
    known = _ARCHITECTURES.get(str(config["architecture"]))
    if known is None:
        return None
    transcodes = "d_out" in known.settings
    shift = bool(config["apply_b_dec_to_input"]) and not transcodes
    rule = Rule(known.rule, config.get("k"), relu=known.rule != "abstopk", shift=shift)
    sae = checked(rule, weights, where, transcodes=transcodes)
    sae.normalize, sae.rescale = config["normalize_activations"], bool(config.get("rescale_acts_by_decoder_norm"))
    return sae


def read_folder(path: Path, given: Mapping[str, Any]) -> tuple[LinearSAE, dict[str, Any], Mapping[str, Any]] | None:
    """An SAE from the content of its ``cfg.json`` and its weights, as sae_lens reads it, its settings, and its notes.

    The settings decide its activations, the notes are about its training. None where only sae_lens can read it: another
    architecture, or settings that are not known here.
    """
    version = given.get("sae_lens_version") or _notes(given).get("sae_lens_version")
    number = re.match(r"\d+", str(version))
    before_6 = not version or (number is not None and int(number[0]) < 6)
    notes: Mapping[str, Any] = _notes(given)
    if before_6:
        given = notes = _as_version_6(given)
    architecture = str(given.get("architecture"))
    known = _ARCHITECTURES.get(architecture)
    if known is None or (number is None and not before_6):
        return None
    settings = _SETTINGS | dict(known.settings)
    if not before_6 and set(given) - set(settings) - _NOT_SETTINGS:
        return None
    config = {name: given.get(name, default) for name, default in settings.items()}
    config |= {"architecture": architecture, **{name: given.get(name) for name in ("d_in", "d_sae")}}
    config["dtype"] = str(config["dtype"]).removeprefix("torch.")
    _check(config, known.settings, path)
    dtype = getattr(torch, config["dtype"])
    weights = {name: tensor.to(dtype) for name, tensor in read_tensors(path / WEIGHTS).items()}
    scaling = weights.pop("scaling_factor", None)  # older versions wrote one that scales nothing
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        weights["scaling_factor"] = scaling
    expected = {"W_enc", "b_enc", "W_dec", "b_dec", *known.weights}
    if set(weights) != expected:
        wrong = "; ".join(
            f"{verb} {', '.join(sorted(names))}"
            for verb, names in (("it lacks", expected - set(weights)), ("it also holds", set(weights) - expected))
            if names
        )
        raise invalid(f"{path / WEIGHTS} does not hold the weights of an SAE of architecture {architecture!r}: {wrong}")
    claimed(config, weights, path / CONFIG)
    sae = linear_of(config, weights, str(path))
    return None if sae is None else (sae, config, notes)


def _notes(given: Mapping[str, Any]) -> Mapping[str, Any]:
    notes = given.get("metadata")
    return notes if isinstance(notes, dict) else {}


def _as_version_6(given: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration from before version 6, where settings and notes were one mapping."""
    config = {_RENAMED.get(name, name): value for name, value in given.items()}
    hooked = "hook_z" in str(config.get("hook_name"))
    config = {"prepend_bos": True, "reshape_activations": "hook_z" if hooked else "none", **config}
    config.setdefault("architecture", "standard")
    arguments = config.get("activation_fn_kwargs")
    if config.get("activation_fn") == "topk" and isinstance(arguments, dict):
        config |= {"architecture": "topk", "k": arguments.get("k")}
    normalize = config.get("normalize_activations")
    if not normalize or normalize is True:
        config["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    return config


def _check(config: Mapping[str, Any], of_architecture: Mapping[str, Any], path: Path) -> None:
    allowed: dict[str, tuple[Any, ...]] = {"dtype": _DTYPES, "normalize_activations": _NORMALISATIONS}
    allowed |= dict.fromkeys(("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"), (True, False))
    allowed |= {"apply_b_dec_to_input": (False,)} if "d_out" in of_architecture else {}
    for name, values in allowed.items():
        if name in config and config[name] not in values:
            raise invalid(f"{path / CONFIG} has {name}={config[name]!r}; use {' or '.join(map(str, values))}")
    for name in ("d_in", "d_sae"):
        if type(config[name]) is not int or config[name] < 1:
            raise invalid(f"{path / CONFIG} has {name}={config[name]!r}; it must be a positive integer")
