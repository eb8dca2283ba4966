"""SAEs as other libraries save them, recognised by the files and what is in them; no code of those libraries is run.

Each reader returns weights under the names of `LinearSAE`. The formulas are the published ones: of sparsify 1.3
(`SparseCoder.encode`), dictionary_learning 0.1 (`Dictionary.encode`), Gemma Scope's tutorial, CLIP-Scope, Llama Scope's
``hyperparams.json``, saev (`SparseAutoencoder.encode`) and Qwen Scope as sae_lens reads it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import damage, existing_file, load_pt
from saestore.npz import NpzFile
from saestore.sae.dictionaries import STREAMS_NDIM, read_crosscoder, read_dictionary
from saestore.sae.hub import one_line
from saestore.sae.linear import Rule, checked
from saestore.sae.loaded import LoadedSAE, invalid, name_from_path, unsupported
from saestore.sae.reading import PLAIN, RELU, Read, claimed, need, read_object, read_tensors

_CLIP_MODEL = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
_CLIP_TRANSFORM = {"resize": {"shortest_edge": 224}, "crop": [224, 224]}
_HOOK_OF_FOLDER = re.compile(r"layers[._](\d+)")
# What the paths of Gemma Scope contain, and the place in a block.
_GEMMA_PLACES = (
    ("transcoder", "hook_mlp_in"), ("resid_post", "hook_resid_post"), ("attn_out", "attn.hook_z"),
    ("mlp_out", "hook_mlp_out"), ("t-res/", "hook_resid_post"), ("t-att/", "attn.hook_z"), ("t-mlp/", "hook_mlp_out"),
)  # fmt: skip


def recognise(path: Path) -> str | None:
    """The family of a file or folder, None where it is not one of `FAMILIES`."""
    if path.is_dir():
        return next((name for name, family in FAMILIES.items() if family.is_in(path)), None)
    if path.suffix not in (".pt", ".pth") or path.name == "ae.pt":
        return {".npz": "Gemma Scope", ".pt": "dictionary_learning"}.get(path.suffix)
    with damage(path, "cannot be read"), existing_file(path).open("rb") as file:
        if file.read(1) == b"{":
            return "saev"
    loaded = load_pt(path)
    if not isinstance(loaded, dict) or not {"W_enc", "b_enc", "W_dec"} <= set(loaded):
        return "CLIP-Scope"
    return "model-diff crosscoder" if getattr(loaded["W_enc"], "ndim", 2) == STREAMS_NDIM else "Qwen Scope"


def load_checkpoint(path: Path, family: str, device: str = "cpu") -> LoadedSAE:
    """Load an SAE of a family that `recognise` named; errors name the family."""
    place = path.parent if path.name == "ae.pt" else path
    with of_family(place, family):
        read = FAMILIES[family].read(place)
        sae, rule = checked(read.rule, read.weights, str(place), transcodes=read.transcodes), read.rule
        sae.fused = read.fused
        sizes = {"d_in": sae.W_enc.shape[0], "d_sae": sae.W_enc.shape[1]}
        config = {"architecture": read.architecture, **sizes, **rule.facts}
        if family == "CLIP-Scope":  # as sets have it that were built before there were others
            config = {"architecture": "clip_scope", "k": rule.k, **sizes}
        info = {
            "architecture": read.architecture,
            "k": rule.k,
            **sizes,
            "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
            "normalize_activations": "none",
            "apply_b_dec_to_input": rule.shift,
            **dict.fromkeys(("hook_name", "model_name", "release", "sae_id")),
            "source": str(place),
            "family": family,
            **({"transcodes": True} if read.transcodes else {}),
            **read.facts,
        }
        return LoadedSAE(read.name or name_from_path(place), info, config, sae.to(device), read.training)


@contextmanager
def of_family(place: Path, family: str) -> Iterator[None]:
    """Add the family to errors of what is inside."""
    try:
        yield
    except (InvalidInputError, NotFoundError) as error:
        raise type(error)(f"{error} ({place} looks like an SAE of {family})", code=error.code) from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError, RuntimeError) as error:
        raise invalid(
            f"{place} looks like an SAE of {family}, but its configuration is incomplete: {one_line(error)}"
        ) from error


def _sparsify(folder: Path) -> Read:
    """sparsify, and Delphi: ``encoder.weight`` (d_sae, d_in), ReLU before the top k."""
    config, file = read_object(folder / "cfg.json"), folder / "sae.safetensors"
    state = read_tensors(file)
    encoder = state["W_enc"] if "W_enc" in state else need(state, file, "encoder.weight")["encoder.weight"].T
    weights = {"W_enc": encoder.contiguous(), **need(state, file, "W_dec", "b_dec")}
    bias = state.get("b_enc", state.get("encoder.bias"))
    transcodes = bool(config.get("transcode")) or "W_skip" in state
    weights |= {} if bias is None else {"b_enc": bias}
    d_in = config.get("d_in")
    claimed({"d_in": d_in, "d_sae": config.get("num_latents") or (d_in or 0) * config.get("expansion_factor", 0)},
             weights, folder / "cfg.json")  # fmt: skip
    kind = config.get("activation", "topk")
    if kind not in ("topk", "groupmax"):
        raise unsupported(f"{folder} has the activation {kind!r}; use topk or groupmax")
    layer = _HOOK_OF_FOLDER.search(folder.absolute().name)
    hook = f"blocks.{layer[1]}.hook_resid_post" if layer and folder.absolute().name.endswith(layer[0]) else None
    rule = Rule(kind, config["k"], shift=not config.get("transcode"))
    return Read(weights, rule, f"sparsify_{kind}", {"hook_name": hook}, transcodes=transcodes, fused=True)


def _gemma_scope(path: Path) -> Read:
    """Gemma Scope: ``params.npz`` with the names of `LinearSAE`; JumpReLU, and no shift."""
    file, config = path, dict[str, Any]()
    if path.is_dir():
        file = path / ("params.npz" if (path / "params.npz").is_file() else "params.safetensors")
    if file.suffix == ".npz":
        with ExitStack() as resources:
            archive = NpzFile(file, resources)
            state = {name: torch.from_numpy(archive.read(name).copy()) for name in archive.names}
    else:  # Gemma Scope 2
        state = {name.replace("w_", "W_"): tensor for name, tensor in read_tensors(file).items()}
        config = read_object(file.with_name("config.json"))
    weights, where = need(state, file, *PLAIN), str(file.absolute())
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise unsupported(f"{path} is of architecture {config['architecture']!r}; use jump_relu")
    claimed({"d_sae": config.get("width")}, weights, file.with_name("config.json"))
    layer, place = re.search(r"layer_(\d+)", where), next((p for word, p in _GEMMA_PLACES if word in where), None)
    hook = f"blocks.{layer[1]}.{place}" if layer and place else None
    transcodes = bool({"W_skip", "affine_skip_connection"} & set(state)) or "transcoder" in where
    return Read(weights, Rule("jumprelu"), "jumprelu", {"hook_name": hook}, transcodes=transcodes,
                 name=name_from_path(file.parent))  # fmt: skip


def _clip_scope(file: Path) -> Read:
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
        raise invalid(
            f"{file} has k={k!r}, n_features={d_sae!r}, d_in={d_in!r}; they must be integers, 1 <= k <= n_features"
        )
    for key, expected in {"pre_b": (d_in,), "enc": (d_in, d_sae), "dec": (d_sae, d_in)}.items():
        tensor = held[key]
        if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != expected:
            kind = type(tensor).__name__
            what = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else kind
            raise invalid(f"{file}: model_state_dict[{key!r}] is {what}; it must be a float tensor of shape {expected}")
    weights = {"W_enc": held["enc"], "W_dec": held["dec"], "b_dec": held["pre_b"]}
    layer = re.fullmatch(r"(\d+)_resid", file.absolute().parent.name)  # the hub's own folders: <layer>_resid/<steps>.pt
    known = {"hook_name": f"blocks.{layer[1]}.hook_resid_post", "model_name": _CLIP_MODEL} if layer else {}
    training = {"transform": _CLIP_TRANSFORM} if layer else {}
    name = f"clip-scope-{layer[1]}" if layer else None
    return Read(weights, Rule("topk", k, relu=False, shift=True), "clip_scope", known, training, name=name)


def _openmoss(folder: Path) -> Read:
    """OpenMOSS, Llama Scope: JumpReLU or top k on embeddings scaled to a mean norm, here folded into the weights."""
    config, file = read_object(folder / "hyperparams.json"), folder / "checkpoints" / "final.safetensors"
    state = read_tensors(file)
    encoder, b_enc, decoder = need(state, file, "encoder.weight", "encoder.bias", "decoder.weight").values()
    b_dec = state.get("decoder.bias", torch.zeros(decoder.shape[0], dtype=decoder.dtype))
    if config.get("sparsity_include_decoder_norm") and config.get("act_fn") != "jumprelu":
        raise unsupported(f"{folder} chooses by activations times decoder norms")
    norm = config.get("dataset_average_activation_norm", {}).get("in")
    factor = _scale(config, norm, folder)
    # As sae_lens folds the factor in: it also multiplies the threshold.
    weights = {"W_enc": (encoder.T * factor).contiguous(), "b_enc": b_enc, "W_dec": decoder.T.contiguous() / factor,
               "b_dec": b_dec / factor}  # fmt: skip
    threshold = config.get("jump_relu_threshold")
    if threshold is not None and config.get("act_fn") == "jumprelu":
        weights["threshold"] = torch.tensor(threshold * factor, dtype=encoder.dtype)
    return _of_openmoss(config, weights, folder / "hyperparams.json")


def _lm_saes(folder: Path) -> Read:
    """OpenMOSS's newer layout: the decoder's norms choose which activations there are, and do not scale them."""
    config, file = read_object(folder / "config.json"), folder / "sae_weights.safetensors"
    if config.get("sae_type") != "sae" or config.get("use_glu_encoder"):
        raise unsupported(
            f"{folder} is of sae_type {config.get('sae_type')!r}, which encodes otherwise than by one linear map "
            "with one activation for each feature; use sae_type 'sae'"
        )
    state = read_tensors(file)
    encoder, b_enc, decoder = need(state, file, "W_E", "b_E", "W_D").values()
    norms = decoder.norm(dim=1) if config.get("sparsity_include_decoder_norm", True) else torch.ones(len(decoder))
    if config.get("act_fn") == "topk" and not torch.allclose(norms, torch.ones_like(norms), rtol=1e-3):
        raise unsupported(f"{folder} chooses by activations times decoder norms")
    norm = state.get(f"dataset_average_activation_norm.{config.get('hook_point_in')}")
    factor = _scale(config, None if norm is None else float(norm), folder)
    b_dec = state.get("b_D", torch.zeros(decoder.shape[1], dtype=decoder.dtype))
    weights = {"W_enc": encoder * factor, "b_enc": b_enc, "W_dec": decoder / factor, "b_dec": b_dec / factor}
    if config.get("act_fn") == "jumprelu":
        name = "activation_function.log_jumprelu_threshold"
        weights["threshold"] = (need(state, file, name)[name].exp() / norms).to(encoder.dtype)
    return _of_openmoss(config, weights, folder / "config.json")


def _scale(config: Mapping[str, Any], norm: float | None, folder: Path) -> float:
    """What embeddings are multiplied by first."""
    kind = config.get("norm_activation", "dataset-wise")
    if kind not in ("dataset-wise", "inference"):
        raise unsupported(f"{folder} has norm_activation {kind!r}; use dataset-wise or inference")
    if kind == "inference":
        return 1.0
    if not norm or norm < 0:
        raise invalid(f"{folder} has norm_activation 'dataset-wise', and the mean norm of its embeddings is {norm}")
    return float(config["d_model"] ** 0.5 / norm)


def _of_openmoss(config: Mapping[str, Any], weights: dict[str, torch.Tensor], file: Path) -> Read:
    factor = config.get("expansion_factor")
    d_sae = config.get("d_sae") or (factor and int(config["d_model"] * factor))
    claimed({"d_in": config.get("d_model"), "d_sae": d_sae}, weights, file)
    kind, shift = config.get("act_fn"), bool(config.get("apply_decoder_bias_to_pre_encoder"))
    if kind not in ("topk", "jumprelu", "relu") or (kind == "jumprelu" and "threshold" not in weights):
        raise unsupported(f"{file} has act_fn {kind!r}; use relu, topk, or jumprelu with its threshold")
    rule = Rule(kind, config["top_k"] if kind == "topk" else None, shift=shift)
    return Read(weights, rule, kind, {"hook_name": config.get("hook_point_in")},
                transcodes=config.get("hook_point_in") != config.get("hook_point_out"))  # fmt: skip


def _saev(file: Path) -> Read:
    """saev: a line of JSON, then a ``.pt``; ReLU, or the top k with what is negative among them."""
    with damage(file, "cannot be read"):
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
    weights = need(state, file, *RELU)
    config = header.get("cfg", header)
    activation = config.get("activation") or {"cls": header.get("cls"), "params": config}
    kind = activation.get("cls") if "schema" in header else "Relu"
    if kind not in ("Relu", "TopK", "BatchTopK"):
        raise unsupported(f"{file} has the activation {kind!r}; use Relu, TopK or BatchTopK")
    d_in = config.get("d_vit", config.get("d_model"))
    claimed({"d_in": d_in, "d_sae": config.get("d_sae", (d_in or 0) * config.get("exp_factor", 0))}, weights, file)
    k = (activation.get("params") or {}).get("top_k")
    # Its BatchTopK takes the k largest of every row.
    rule = Rule("relu") if kind == "Relu" else Rule("topk", k or 0, relu=False)
    return Read(weights, rule, f"saev_{kind.lower()}")


def _qwen_scope(file: Path) -> Read:
    """Qwen Scope: ``W_enc`` (d_sae, d_in); k is the L0 in the name of its repository."""
    state = read_tensors(file)
    weights = need(state, file, *RELU)
    weights |= {name: weights[name].T.contiguous() for name in ("W_enc", "W_dec")}
    k = re.search(r"L0_(\d+)", str(file.absolute()))
    if k is None:
        raise invalid(
            f"{file} does not contain its number of active features: keep the name of its repository in the path, "
            "…-L0_50/layer0.sae.pt"
        )
    layer = re.search(r"layer(\d+)", file.name)
    return Read(weights, Rule("topk", int(k[1])), "topk",
                 {"hook_name": f"blocks.{layer[1]}.hook_resid_post" if layer else None})  # fmt: skip


@dataclass(frozen=True)
class _Family:
    """How a library saves an SAE: the files that show it, in a folder; how to read it."""

    read: Callable[[Path], Read]
    files: tuple[tuple[str, ...], ...] = ()

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has the files of one of its layouts; a model of transformers has the same as one of them."""
        whole = any(all((folder / file).is_file() for file in files) for files in self.files)
        model = whole and (folder / "model.safetensors").is_file() and not (folder / "ae.pt").is_file()
        return whole and (not model or "activation_dim" in read_object(folder / "config.json"))


FAMILIES = {
    "sparsify": _Family(_sparsify, (("cfg.json", "sae.safetensors"),)),
    "dictionary_learning": _Family(read_dictionary, (("config.json", "ae.pt"), ("config.json", "model.safetensors"))),
    "model-diff crosscoder": _Family(read_crosscoder, (("cfg.json", "cc_weights.pt"),)),
    "Gemma Scope": _Family(_gemma_scope, (("params.npz",), ("config.json", "params.safetensors"))),
    "OpenMOSS": _Family(
        lambda folder: (_openmoss if (folder / "hyperparams.json").is_file() else _lm_saes)(folder),
        (("hyperparams.json", "checkpoints/final.safetensors"), ("config.json", "sae_weights.safetensors")),
    ),
    "CLIP-Scope": _Family(_clip_scope),
    "saev": _Family(_saev),
    "Qwen Scope": _Family(_qwen_scope),
}


def missing_family(folder: Path) -> NotFoundError:
    """The error for a folder that holds no whole SAE: what is missing, or, with nothing there, what families have."""
    names = sorted(entry.name for entry in folder.iterdir())
    held = ", ".join(names[:8]) + (" and more" if len(names) > 8 else "")
    layouts = {"sae_lens": (("cfg.json", "sae_weights.safetensors"),)} | {
        name: family.files for name, family in FAMILIES.items()
    }
    each = [(name, files) for name, several in layouts.items() for files in several]
    partly = [(name, [file for file in files if not (folder / file).is_file()]) for name, files in each]
    begun = [(name, lacks) for (name, lacks), (_, files) in zip(partly, each, strict=True) if len(lacks) < len(files)]
    start = f"{folder} holds no SAE that saestore knows; it has {held or 'nothing'}."
    known = "; ".join(f"{name}: {' and '.join(files)}" for name, files in begun or each)
    return NotFoundError(f"{start} {'Missing, of ' if begun else ''}{known}", code="file-missing")
