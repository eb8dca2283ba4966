"""SAEs that sae_lens loads: from a folder, from its directory of releases, or already in memory."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, NotFoundError, SaestoreError, did_you_mean, require
from saestore.files import existing_file
from saestore.sae.hub import hub_errors, is_cached, one_line, require_hub
from saestore.sae.lens_folder import CONFIG, WEIGHTS, read_folder
from saestore.sae.linear import LinearSAE
from saestore.sae.loaded import LoadedSAE, invalid, name_from_path, slug, unsupported
from saestore.sae.protocol import load_encoder
from saestore.sae.reading import read_object

if TYPE_CHECKING:
    from types import ModuleType

_SCALER = "activation_scaler.json"
# A module, the settings that decide its activations, and the notes about its training.
_Parts = tuple[Any, dict[str, Any], Mapping[str, Any]]
# Normalisations that training does outside of the SAE, until it folds them into the weights.
_UNFOLDED = ("expected_average_only_in", "covariance_whitening")
# Notes that decide how a model is run, or what is warned of.
_NOTES: dict[str, Any] = {
    "hook_name": str, "model_name": str, "prepend_bos": int, "context_size": int, "seqpos_slice": list | tuple,
    "model_from_pretrained_kwargs": dict,
}  # fmt: skip
# Keys for where the SAE is and runs, and notes about it: they change no activation.
_NOT_SEMANTICS = ("device", "metadata")


def load_folder(path: Path, device: str = "cpu") -> LoadedSAE:
    """Load a folder that holds ``cfg.json`` and ``sae_weights.safetensors``.

    An SAE of a training architecture (BatchTopK, Matryoshka) is converted as sae_lens does it to save one for
    inference: to a JumpReLU with the trained threshold. The scaling factor that a checkpoint keeps in
    ``activation_scaler.json`` is folded into the weights.
    """
    for file in (CONFIG, WEIGHTS):
        existing_file(path / file)
    given = read_object(path / CONFIG)
    # Before version 6, sae_lens wrote no architecture for a standard SAE.
    architecture = str(given.get("architecture", "standard"))
    _refuse(architecture, str(path))
    _check_activation(given, architecture, str(path))
    read = read_folder(path, given)
    if read is None:
        lens = import_sae_lens()
        loader = _loader(lens, architecture, str(path))
        _warn_of_unknown(given, path)
        read = _taken_apart(lens, _load(lambda: loader.load_from_disk(path, device=device), str(path)))
    module, config, notes = read
    if config["normalize_activations"] == "expected_average_only_in" and (path / _SCALER).is_file():
        factor = read_object(path / _SCALER).get("scaling_factor")
        if isinstance(factor, int | float) and factor > 0:
            _fold(module, factor)
            config["normalize_activations"] = "none"
    return _loaded((module.to(device), config, notes), name_from_path(path), {"source": str(path)}, str(path))


def load_release(release: str, sae_id: str, device: str = "cpu") -> LoadedSAE:
    """Load an SAE from the hub by sae_lens's names."""
    lens = import_sae_lens()
    repo = _repository(release, sae_id)
    what, name = f"the SAE {release}:{sae_id}", slug(f"{release}-{sae_id}")
    advice = download_advice(release, sae_id, name)
    if not is_cached(repo):
        require_hub(what, advice)
    with hub_errors(what, advice):
        module = _load(lambda: lens.SAE.from_pretrained(release, sae_id, device=device), what)
    info = {"release": release, "sae_id": sae_id, "source": f"hub:{repo}"}
    return _loaded(_taken_apart(lens, module), name, info, what)


def load_object(sae: Any, device: str = "cpu") -> LoadedSAE:
    """Take an SAE that is already in memory, of sae_lens or any with ``encode``; it is moved to the device.

    One of sae_lens is named after its Neuronpedia id. Else the name is made of model and hook, or architecture and
    width, and of the first digits of its fingerprint: other SAEs of the same hook have other names.
    """
    if "sae_lens" not in sys.modules or not isinstance(sae, (lens := import_sae_lens()).SAE):
        return load_encoder(sae, device)
    notes = sae.cfg.metadata.to_dict()
    model, hook = notes.get("model_name"), notes.get("hook_name")
    kind = f"{model}-{hook}" if model and hook else f"{sae.cfg.architecture()}-{sae.cfg.d_sae}"
    name = notes.get("neuronpedia_id") or kind
    loaded = _loaded(_taken_apart(lens, sae.to(device)), slug(str(name)), {}, f"the SAE {name}")
    return loaded if name != kind else replace(loaded, name=f"{loaded.name}-{loaded.fingerprint()[:8]}")


def download_advice(release: str, sae_id: str, name: str) -> str:
    """What to do, in one line, if the hub cannot be reached."""
    return (
        "on a connected machine run "
        f"`python -c \"from sae_lens import SAE; SAE.from_pretrained('{release}', '{sae_id}').save_model('{name}')\"` "
        f"and pass that folder as the SAE (--sae ./{name}), or copy its hub cache here and set HF_HOME"
    )


def import_sae_lens() -> ModuleType:
    """Import sae_lens (ten seconds the first time)."""
    # Its import warns of names that transformer_lens deprecates, which no user of saestore can change.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require("sae_lens", "sae", "this SAE")  # type: ignore[no-any-return]


def _loader(lens: ModuleType, architecture: str, where: str) -> Any:
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    if architecture in SAE_CLASS_REGISTRY:
        return lens.SAE
    if architecture in SAE_TRAINING_CLASS_REGISTRY:
        return lens.TrainingSAE
    known = ", ".join(sorted({*SAE_CLASS_REGISTRY, *SAE_TRAINING_CLASS_REGISTRY}))
    raise unsupported(
        f"{where} is of architecture {architecture!r}, which sae_lens {lens.__version__} does not know "
        f"(it has {known}); upgrade sae_lens"
    )


def _warn_of_unknown(given: Mapping[str, Any], path: Path) -> None:
    """Warn of keys that sae_lens would leave out; before version 6, notes had any names beside the settings."""
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    classes = [config for _, config in (*SAE_CLASS_REGISTRY.values(), *SAE_TRAINING_CLASS_REGISTRY.values())]
    known = {"architecture", "sae_lens_version", *(each.name for config in classes for each in fields(config))}
    if "metadata" in given and set(given) - known:
        warnings.warn(
            f"{path / CONFIG} has {', '.join(sorted(set(given) - known))}, which sae_lens does not know; where that "
            "changes the encoding, the activations are wrong.",
            stacklevel=2,
        )


def _check_activation(config: Mapping[str, Any], architecture: str, where: str) -> None:
    """Refuse an activation function that sae_lens would replace by a ReLU or by a default, without a word."""
    name = config.get("activation_fn_str", config.get("activation_fn", architecture))
    arguments = config.get("activation_fn_kwargs")
    k = config.get("k", arguments.get("k") if isinstance(arguments, dict) else None)
    if "topk" in (name, architecture) and k is None:
        raise unsupported(f"{where} has a topk activation without its number of features: add k to {CONFIG}")
    if architecture == "standard" and name != "topk" and k is not None:
        raise invalid(f"{where} has k={k} and the architecture 'standard', which keeps all: one of them is wrong")
    if name not in (architecture, "relu", "topk"):
        raise unsupported(f"{where} has the activation function {name!r}, which sae_lens would replace by a ReLU")


def _load(load: Any, where: str) -> Any:
    """Call sae_lens's own loader; what it raises on bad files comes out as one clear error."""
    from safetensors import SafetensorError

    try:
        with _kwargs_unspoken():
            return load()
    except SafetensorError as error:
        raise InvalidInputError(
            f"the weights of {where} are truncated or not a safetensors file ({error}); fetch them again",
            code="damaged-file",
        ) from error
    # Wrong shapes and names come as RuntimeError, a bad configuration as any of the others.
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if isinstance(error, SaestoreError):
            raise
        raise invalid(f"sae_lens cannot load {where}: {type(error).__name__}: {one_line(error)}") from error


@contextmanager
def _kwargs_unspoken() -> Iterator[None]:
    """Without sae_lens's warning of any model_from_pretrained_kwargs: `_warn_of_training` names those that matter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        yield


def _repository(release: str, sae_id: str) -> str:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if release in directory:
        ids = directory[release].saes_map
        if sae_id not in ids:
            raise NotFoundError(
                f"release {release!r} has no SAE {sae_id!r}. {did_you_mean(sae_id, ids)}It has {len(ids):,}, such as "
                f"{min(ids)}.",
                code="unknown-sae",
            )
        return str(directory[release].repo_id)
    if "/" not in release:
        raise NotFoundError(
            f"sae_lens knows no release {release!r}. {did_you_mean(release, directory)}A hub repository is given "
            "as owner/name:folder.",
            code="unknown-sae",
        )
    return release


def _taken_apart(lens: ModuleType, module: Any) -> _Parts:
    """An object of sae_lens made for inference, its settings, and the notes about its training."""
    if isinstance(module, lens.TrainingSAE):
        module = _for_inference(lens, module)
    cfg = module.cfg
    config = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name not in _NOT_SEMANTICS}
    return module, {**config, "architecture": str(cfg.architecture())}, cfg.metadata.to_dict()


def _fold(module: Any, factor: float) -> None:
    """Fold the scale of embeddings into the weights, as sae_lens does."""
    if not isinstance(module, LinearSAE):
        module.fold_activation_norm_scaling_factor(factor)
        return
    module.W_enc *= factor
    module.W_dec /= factor
    module.b_dec /= factor


def _loaded(parts: _Parts, name: str, info: Mapping[str, Any], where: str) -> LoadedSAE:
    module, config, notes = parts
    architecture, k, d_sae = config["architecture"], config.get("k"), config["d_sae"]
    _refuse(architecture, where)
    for note, kind in _NOTES.items():
        if not isinstance(notes.get(note), kind | None):
            raise invalid(f"{where} has {note}={notes[note]!r}, which it cannot be")
    if k is not None and not 1 <= k <= d_sae:
        raise invalid(f"{where} has k={k}; it must be 1 to d_sae={d_sae:,}")
    facts = {key: config.get(key) for key in ("architecture", "d_in", "d_sae", "k", "dtype")}
    facts |= {key: config[key] for key in ("normalize_activations", "apply_b_dec_to_input")}
    facts |= {key: notes.get(key) for key in ("hook_name", "model_name")}
    if notes.get("is_transcoder"):  # as configurations before version 6 have it
        module.transcodes = True
    facts |= {"transcodes": True} if "transcoder" in architecture or notes.get("is_transcoder") else {}
    facts |= {"release": None, "sae_id": None, "source": None, **_special_training(notes)}
    _warn_of_training(name, facts)
    training = {key: notes[key] for key in ("prepend_bos", "context_size", "l0") if notes.get(key) is not None}
    return LoadedSAE(name, {**facts, **info}, config, module, training)


def _special_training(notes: Mapping[str, Any]) -> dict[str, Any]:
    """How training differed from every token of the raw model, JSON-able; only what did differ."""
    special: dict[str, Any] = {}
    processing = {key: value for key, value in (notes.get("model_from_pretrained_kwargs") or {}).items() if value}
    if processing:
        special["model_from_pretrained_kwargs"] = json.loads(json.dumps(processing, default=str))
    if any(bound is not None for bound in notes.get("seqpos_slice") or ()):
        special["seqpos_slice"] = list(notes["seqpos_slice"])
    if notes.get("exclude_special_tokens"):
        special["exclude_special_tokens"] = notes["exclude_special_tokens"]
    return special


def _warn_of_training(name: str, facts: Mapping[str, Any]) -> None:
    """Warn of facts in the configuration that make activations wrong for ordinary embeddings."""
    normalize = facts["normalize_activations"]
    if normalize in _UNFOLDED:
        warnings.warn(
            f"the SAE {name} was trained with normalize_activations={normalize!r}, which is not folded into its "
            "weights: its activations are right only for embeddings that are normalised in the same way. Fold it in "
            "with sae_lens (fold_activation_norm_scaling_factor) and save the SAE again.",
            stacklevel=2,
        )
    if "model_from_pretrained_kwargs" in facts:
        warnings.warn(
            f"the SAE {name} was trained on a model with model_from_pretrained_kwargs="
            f"{facts['model_from_pretrained_kwargs']}; its activations are right only for embeddings of a model "
            "processed in the same way, and saestore runs models as they are.",
            stacklevel=2,
        )
    if "seqpos_slice" in facts:
        warnings.warn(
            f"the SAE {name} was trained only on tokens at the positions seqpos_slice={facts['seqpos_slice']}; its "
            "features may mean nothing at others.",
            stacklevel=2,
        )


def _refuse(architecture: str, where: str) -> None:
    if architecture == "temporal":
        raise unsupported(
            f"{where} is a temporal SAE: its activations depend on the tokens before, and saestore encodes each row by "
            "itself; use an SAE that encodes single rows"
        )


def _for_inference(lens: ModuleType, training: Any) -> Any:
    """Convert a training SAE as sae_lens does it to save one for inference.

    The activations of a BatchTopK SAE in training depend on the other rows of the batch; stored ones must not.
    """
    state = {key: tensor.detach().clone() for key, tensor in training.state_dict().items()}
    training.process_state_dict_for_saving_inference(state)
    with _kwargs_unspoken():
        sae = lens.SAE.from_dict({**training.cfg.get_inference_sae_cfg_dict(), "device": "cpu"})
    sae.load_state_dict(state)
    return sae.to(training.device)
