"""SAEs as other libraries save them, recognised by the files and what is in them; no code of those libraries is run.

Each reader returns weights under the names of `LinearSAE`. The formulas are the published ones: of sparsify 1.3
(`SparseCoder.encode`), dictionary_learning 0.1 (`Dictionary.encode`), Gemma Scope's tutorial, CLIP-Scope, Llama Scope's
``hyperparams.json``, saev (`SparseAutoencoder.encode`) and Qwen Scope as sae_lens reads it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import NpzFile, existing_file, load_pt, read_json
from saestore.sae.hub import one_line
from saestore.sae.linear import Rule, checked
from saestore.sae.loaded import LoadedSAE, name_from_path

__all__ = ["FAMILIES", "claimed", "load_checkpoint", "load_clip_scope", "missing_family", "read_tensors", "recognise"]

_CLIP_MODEL = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
_CLIP_TRANSFORM = {"resize": {"shortest_edge": 224}, "crop": [224, 224]}
_HOOK_OF_FOLDER = re.compile(r"layers[._](\d+)")


@dataclass(frozen=True)
class _Read:
    """What a reader found: weights, rule, and facts to record."""

    weights: dict[str, torch.Tensor]
    rule: Rule
    architecture: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    transcodes: bool = False
    name: str | None = None


def recognise(path: Path) -> str | None:
    """The family of a file or folder, None where it is not one of `FAMILIES`."""
    if path.is_dir():
        return next(
            (name for name, family in FAMILIES.items() if all((path / f).is_file() for f in family.files)), None
        )
    if path.suffix == ".npz":
        return "Gemma Scope"
    if path.suffix not in (".pt", ".pth"):
        return None
    if path.name == "ae.pt":
        return "dictionary_learning"
    with existing_file(path).open("rb") as file:
        if file.read(1) == b"{":
            return "saev"
    loaded = load_pt(path)
    return "Qwen Scope" if isinstance(loaded, dict) and {"W_enc", "b_enc", "W_dec"} <= set(loaded) else "CLIP-Scope"


def load_checkpoint(path: Path, family: str, device: str = "cpu") -> LoadedSAE:
    """Load an SAE of a family that `recognise` named.

    Raises
    ------
    NotFoundError
        A file is missing.
    InvalidInputError
        A file is damaged, holds Python objects, or contradicts another one; the message names the family.
    """
    place = path.parent if path.name == "ae.pt" else path
    try:
        read = FAMILIES[family].read(place)
        sae = checked(read.rule, read.weights, str(place), transcodes=read.transcodes)
    except (InvalidInputError, NotFoundError) as error:
        raise type(error)(f"{error} ({place} looks like an SAE of {family})", code=error.code) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"{place} looks like an SAE of {family}, but its configuration is incomplete: {one_line(error)}",
            code="invalid-sae",
        ) from error
    rule, (d_in, d_sae) = read.rule, sae.W_enc.shape
    config = {"architecture": read.architecture, "d_in": d_in, "d_sae": d_sae, **rule.facts}
    if family == "CLIP-Scope":  # as sets have it that were built before there were others
        config = {"architecture": "clip_scope", "k": rule.k, "d_in": d_in, "d_sae": d_sae}
    info = {
        "architecture": read.architecture,
        "k": rule.k,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "normalize_activations": "none",
        "apply_b_dec_to_input": rule.shift,
        "hook_name": None,
        "model_name": None,
        "release": None,
        "sae_id": None,
        "source": str(place),
        "family": family,
        **({"transcodes": True} if read.transcodes else {}),
        **read.facts,
    }
    return LoadedSAE(read.name or name_from_path(place), info, config, sae.to(device), read.training)


def load_clip_scope(path: str | Path, device: str = "cpu") -> LoadedSAE:
    """Load a CLIP-Scope checkpoint, memory-mapped."""
    return load_checkpoint(Path(path), "CLIP-Scope", device)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` or ``.pt`` file."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(existing_file(path)))
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(
                f"{path} is truncated or not a safetensors file ({error})", code="unreadable-weights"
            ) from error
    loaded = load_pt(path)
    if not isinstance(loaded, dict):
        raise InvalidInputError(f"{path} contains a {type(loaded).__name__}, not a dict of weights", code="not-an-sae")
    return {str(name): value for name, value in loaded.items()}


def _need(state: Mapping[str, Any], path: Path, *names: str) -> list[Any]:
    missing = [name for name in names if name not in state]
    if missing:
        raise InvalidInputError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(state)) or 'nothing'}", code="not-an-sae"
        )
    return [state[name] for name in names]


def _object(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InvalidInputError(f"{path} contains a JSON {type(config).__name__}, not an object", code="invalid-sae")
    return config


def claimed(claims: Mapping[str, Any], weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse a configuration that contradicts the shape of the weights."""
    d_in, d_sae = weights["W_enc"].shape
    for name, size in {"d_in": d_in, "d_sae": d_sae}.items():
        if claims.get(name) not in (None, 0, size):
            raise InvalidInputError(
                f"{path} states that {name} is {claims[name]}, and the weights are {d_in:,} x {d_sae:,}",
                code="invalid-sae",
            )


def _sparsify(folder: Path) -> _Read:
    """sparsify, and Delphi: ``encoder.weight`` (d_sae, d_in), ReLU before the top k."""
    config, file = _object(folder / "cfg.json"), folder / "sae.safetensors"
    state = read_tensors(file)
    encoder = state["W_enc"] if "W_enc" in state else _need(state, file, "encoder.weight")[0].T
    w_dec, b_dec = _need(state, file, "W_dec", "b_dec")
    bias = state.get("b_enc", state.get("encoder.bias"))
    transcodes = bool(config.get("transcode")) or "W_skip" in state
    weights = {"W_enc": encoder.contiguous(), "W_dec": w_dec, "b_dec": b_dec}
    weights |= {} if bias is None else {"b_enc": bias}
    d_in = config.get("d_in")
    claimed({"d_in": d_in, "d_sae": config.get("num_latents") or (d_in or 0) * config.get("expansion_factor", 0)},
             weights, folder / "cfg.json")  # fmt: skip
    kind = config.get("activation", "topk")
    if kind not in ("topk", "groupmax"):
        raise InvalidInputError(f"{folder} has the activation {kind!r}; use topk or groupmax", code="unsupported-sae")
    layer = _HOOK_OF_FOLDER.search(folder.absolute().name)
    hook = f"blocks.{layer[1]}.hook_resid_post" if layer and folder.absolute().name.endswith(layer[0]) else None
    rule = Rule(kind, int(config["k"]), shift=not config.get("transcode"))
    return _Read(weights, rule, f"sparsify_{kind}", {"hook_name": hook}, transcodes=transcodes)


# Class of dictionary_learning -> names of its weights, and the rule without its k.
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
_DICTIONARIES: dict[str, tuple[dict[str, str], Rule]] = {
    "AutoEncoder": ({**_LINEAR, "b_dec": "bias"}, Rule("relu", shift=True)),
    "AutoEncoderNew": ({**_LINEAR, "b_dec": "decoder.bias"}, Rule("relu")),
    "GatedAutoEncoder": (
        {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias", "r_mag": "r_mag",
         "b_gate": "gate_bias", "b_mag": "mag_bias"},
        Rule("gated", shift=True),
    ),
    "JumpReluAutoEncoder": (_PLAIN, Rule("jumprelu")),
    "AutoEncoderTopK": ({**_LINEAR, "b_dec": "b_dec"}, Rule("topk", 1, shift=True)),
    "BatchTopKSAE": ({**_LINEAR, "b_dec": "b_dec", "threshold": "threshold"}, Rule("jumprelu", shift=True)),
    "MatryoshkaBatchTopKSAE": (_PLAIN, Rule("jumprelu", shift=True)),
}  # fmt: skip


def _dictionary_learning(folder: Path) -> _Read:
    """dictionary_learning: the class in ``config.json`` names which weights there are and how they are used."""
    trainer = _object(folder / "config.json")["trainer"]
    kind = trainer["dict_class"]
    if kind not in _DICTIONARIES:
        raise InvalidInputError(
            f"{folder} has the dict_class {kind!r}; known are {', '.join(_DICTIONARIES)}", code="unsupported-sae"
        )
    names, rule = _DICTIONARIES[kind]
    file = folder / "ae.pt"
    state = read_tensors(file)
    weights = dict(zip(names, _need(state, file, *names.values()), strict=True))
    for name, stored in names.items():
        if stored.endswith("oder.weight"):  # of torch.nn.Linear: outputs first
            weights[name] = weights[name].T.contiguous()
    claimed({"d_in": trainer.get("activation_dim"), "d_sae": trainer.get("dict_size")}, weights, folder / "config.json")
    if rule.kind == "topk":
        rule = Rule("topk", int(state["k"] if "k" in state else trainer["k"]), shift=True)
    if rule.kind == "jumprelu" and weights["threshold"].ndim == 0 and float(weights["threshold"]) < 0:
        raise InvalidInputError(
            f"{file} has no threshold yet (training was stopped early), so that its activations depend on the batch",
            code="unsupported-sae",
        )
    weights = {name: tensor.to(weights["W_enc"].dtype) for name, tensor in weights.items()}
    hook = f"blocks.{trainer['layer']}.hook_resid_post" if "resid" in str(trainer.get("submodule_name")) else None
    return _Read(weights, rule, kind, {"hook_name": hook, "model_name": trainer.get("lm_name")})


def _gemma_scope(path: Path) -> _Read:
    """Gemma Scope: ``params.npz`` with the names of `LinearSAE`; JumpReLU, and no shift."""
    file = path / "params.npz" if path.is_dir() else path
    with ExitStack() as resources:
        archive = NpzFile(file, resources)
        arrays = {name: archive.read(name) for name in archive.names}
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    weights = dict(zip(_PLAIN, _need(state, file, *_PLAIN), strict=True))
    transcodes = "W_skip" in state or "transcoder" in str(file.absolute())
    return _Read(weights, Rule("jumprelu"), "jumprelu", transcodes=transcodes, name=name_from_path(file.parent))


def _clip_scope(file: Path) -> _Read:
    """CLIP-Scope: the k largest values of ``(x - pre_b) @ enc``, negative ones too."""
    loaded = load_pt(file)
    shape = "a dict with k, n_features, d_in and model_state_dict = {pre_b, enc, dec}"
    if not isinstance(loaded, dict):
        raise InvalidInputError(f"{file} contains a {type(loaded).__name__}; it is {shape}", code="not-an-sae")
    state = loaded.get("model_state_dict", {})
    held: dict[str, Any] = state if isinstance(state, dict) else {}
    missing = [key for key in ("k", "n_features", "d_in", "model_state_dict") if key not in loaded]
    missing += [f"model_state_dict[{key!r}]" for key in ("pre_b", "enc", "dec") if key not in held]
    if missing:
        raise InvalidInputError(f"{file} lacks {', '.join(missing)}; it is {shape}", code="not-an-sae")
    k, d_sae, d_in = loaded["k"], loaded["n_features"], loaded["d_in"]
    if not all(type(n) is int for n in (k, d_sae, d_in)) or not 1 <= k <= d_sae:
        raise InvalidInputError(
            f"{file} has k={k!r}, n_features={d_sae!r}, d_in={d_in!r}; they must be integers, 1 <= k <= n_features",
            code="invalid-sae",
        )
    for key, expected in {"pre_b": (d_in,), "enc": (d_in, d_sae), "dec": (d_sae, d_in)}.items():
        tensor = held[key]
        if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != expected:
            kind = type(tensor).__name__
            what = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else kind
            raise InvalidInputError(
                f"{file}: model_state_dict[{key!r}] is {what}; it must be a float tensor of shape {expected}",
                code="invalid-sae",
            )
    weights = {"W_enc": held["enc"], "W_dec": held["dec"], "b_dec": held["pre_b"]}
    layer = re.fullmatch(r"(\d+)_resid", file.absolute().parent.name)  # the hub's own folders: <layer>_resid/<steps>.pt
    known = {"hook_name": f"blocks.{layer[1]}.hook_resid_post", "model_name": _CLIP_MODEL} if layer else {}
    training = {"transform": _CLIP_TRANSFORM} if layer else {}
    name = f"clip-scope-{layer[1]}" if layer else None
    return _Read(weights, Rule("topk", k, relu=False, shift=True), "clip_scope", known, training, name=name)


def _openmoss(folder: Path) -> _Read:
    """OpenMOSS, Llama Scope: JumpReLU or top k on embeddings scaled to a mean norm, here folded into the weights."""
    config, file = _object(folder / "hyperparams.json"), folder / "checkpoints" / "final.safetensors"
    state = read_tensors(file)
    encoder, b_enc, decoder = _need(state, file, "encoder.weight", "encoder.bias", "decoder.weight")
    b_dec = state.get("decoder.bias", torch.zeros(decoder.shape[0], dtype=decoder.dtype))
    if config.get("sparsity_include_decoder_norm") and config.get("act_fn") != "jumprelu":
        raise InvalidInputError(f"{folder} chooses by activations times decoder norms", code="unsupported-sae")
    factor = 1.0
    if config.get("norm_activation", "dataset-wise") == "dataset-wise":
        factor = config["d_model"] ** 0.5 / config["dataset_average_activation_norm"]["in"]
    elif config["norm_activation"] != "inference":
        raise InvalidInputError(
            f"{folder} has norm_activation {config['norm_activation']!r}; dataset-wise is read", code="unsupported-sae"
        )
    # As sae_lens folds the factor in: it also multiplies the threshold.
    weights = {"W_enc": (encoder.T * factor).contiguous(), "b_enc": b_enc, "W_dec": decoder.T.contiguous() / factor,
               "b_dec": b_dec / factor}  # fmt: skip
    claimed({"d_in": config.get("d_model"), "d_sae": config.get("d_sae")}, weights, folder / "hyperparams.json")
    shift = bool(config.get("apply_decoder_bias_to_pre_encoder"))
    if config.get("act_fn") == "topk":
        rule = Rule("topk", int(config["top_k"]), shift=shift)
    elif config.get("act_fn") == "jumprelu":
        rule = Rule("jumprelu", shift=shift)
        weights["threshold"] = torch.tensor(config["jump_relu_threshold"] * factor, dtype=encoder.dtype)
    else:
        raise InvalidInputError(
            f"{folder} has act_fn {config.get('act_fn')!r}; use topk or jumprelu", code="unsupported-sae"
        )
    return _Read(weights, rule, str(config["act_fn"]), {"hook_name": config.get("hook_point_in")},
                 transcodes=config.get("hook_point_in") != config.get("hook_point_out"))  # fmt: skip


def _saev(file: Path) -> _Read:
    """saev: a line of JSON, then a ``.pt``; ReLU, or the top k with what is negative among them."""
    content = existing_file(file).read_bytes()
    line, _, body = content.partition(b"\n")
    try:
        header = json.loads(line)
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidInputError(
            f"{file} is truncated, or holds Python objects, which are not unpickled ({one_line(error)[:80]})",
            code="damaged-file",
        ) from error
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    weights = dict(zip(names, _need(state, file, *names), strict=True))
    config = header.get("cfg", header)
    activation = config.get("activation") or {"cls": header.get("cls"), "params": config}
    kind = activation.get("cls") if "schema" in header else "Relu"
    if kind not in ("Relu", "TopK", "BatchTopK"):
        raise InvalidInputError(
            f"{file} has the activation {kind!r}; use Relu, TopK or BatchTopK", code="unsupported-sae"
        )
    d_in = config.get("d_vit", config.get("d_model"))
    claimed({"d_in": d_in, "d_sae": config.get("d_sae", (d_in or 0) * config.get("exp_factor", 0))}, weights, file)
    k = (activation.get("params") or {}).get("top_k")
    # Its BatchTopK takes the k largest of every row.
    rule = Rule("relu") if kind == "Relu" else Rule("topk", int(k or 0), relu=False)
    return _Read(weights, rule, f"saev_{kind.lower()}")


def _qwen_scope(file: Path) -> _Read:
    """Qwen Scope: ``W_enc`` (d_sae, d_in); k is the L0 in the name of its repository."""
    state = read_tensors(file)
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    weights = dict(zip(names, _need(state, file, *names), strict=True))
    weights |= {name: weights[name].T.contiguous() for name in ("W_enc", "W_dec")}
    k = re.search(r"L0_(\d+)", str(file.absolute()))
    if k is None:
        raise InvalidInputError(
            f"{file} does not contain its number of active features: keep the name of its repository in the path, "
            "…-L0_50/layer0.sae.pt",
            code="invalid-sae",
        )
    layer = re.search(r"layer(\d+)", file.name)
    return _Read(weights, Rule("topk", int(k[1])), "topk",
                 {"hook_name": f"blocks.{layer[1]}.hook_resid_post" if layer else None})  # fmt: skip


@dataclass(frozen=True)
class _Family:
    """How a library saves an SAE: the files that show it, in a folder; how to read it; a description."""

    read: Callable[[Path], _Read]
    description: str
    files: tuple[str, ...] = (".",)


FAMILIES = {
    "sparsify": _Family(_sparsify, "cfg.json and sae.safetensors", ("cfg.json", "sae.safetensors")),
    "dictionary_learning": _Family(_dictionary_learning, "config.json and ae.pt", ("config.json", "ae.pt")),
    "Gemma Scope": _Family(_gemma_scope, "params.npz", ("params.npz",)),
    "OpenMOSS": _Family(
        _openmoss,
        "hyperparams.json and checkpoints/final.safetensors",
        ("hyperparams.json", "checkpoints/final.safetensors"),
    ),
    "CLIP-Scope": _Family(_clip_scope, "a .pt file"),
    "saev": _Family(_saev, "a .pt file"),
    "Qwen Scope": _Family(_qwen_scope, "a .pt file"),
}


def missing_family(folder: Path) -> NotFoundError:
    """The error for a folder that holds no SAE: what every family has, and what is there."""
    names = sorted(entry.name for entry in folder.iterdir())
    held = ", ".join(names[:8]) + (" and more" if len(names) > 8 else "")
    known = "; ".join(f"{name}: {family.description}" for name, family in FAMILIES.items() if family.files != (".",))
    return NotFoundError(
        f"{folder} holds no SAE that saestore knows; it has {held or 'nothing'}. sae_lens: cfg.json and "
        f"sae_weights.safetensors; {known}",
        code="file-missing",
    )
