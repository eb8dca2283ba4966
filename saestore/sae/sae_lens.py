"""SAEs that sae_lens loads: from a folder, from its directory of releases, or already in memory."""

from __future__ import annotations

import difflib
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError, SaestoreError
from saestore.files import existing_file
from saestore.sae.hub import hub_errors, is_cached, require_hub
from saestore.sae.loaded import LoadedSAE, name_from_path, slug

if TYPE_CHECKING:
    from types import ModuleType

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# Where the SAE lies and runs, and notes about it: nothing that changes an activation.
_NOT_SEMANTICS = ("device", "metadata")


def load_folder(path: Path, device: str = "cpu") -> LoadedSAE:
    """Load a folder that holds ``cfg.json`` and ``sae_weights.safetensors``.

    A folder that a training run left, of an architecture that sae_lens has for training only (BatchTopK, Matryoshka),
    is loaded as what sae_lens saves of it for inference: a JumpReLU with the threshold that training found.

    Raises
    ------
    NotFoundError
        If one of the two files is missing.
    InvalidInputError
        If a file is damaged, the two contradict each other, or the architecture is none that saestore can encode with.
    """
    for file, holds in ((CONFIG, "the configuration"), (WEIGHTS, "the weights")):
        if not (path / file).is_file():
            raise NotFoundError(
                f"{path} has no {file} ({holds}); an SAE in sae_lens format is a folder with {CONFIG} and {WEIGHTS}"
            )
        existing_file(path / file)
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"{path / CONFIG} is not JSON ({error}); write the SAE again") from error
    if not isinstance(config, dict):
        raise InvalidInputError(
            f"{path / CONFIG} holds a JSON {type(config).__name__}; an SAE's configuration is an object"
        )
    lens = import_sae_lens()
    # Before version 6, sae_lens wrote no architecture for a standard SAE.
    architecture = str(config.get("architecture", "standard"))
    _refuse(architecture, str(path))
    loader = _loader(lens, architecture, str(path))
    module = _load(lambda: loader.load_from_disk(path, device=device), str(path))
    return _loaded(lens, module, name_from_path(path), {"source": str(path)}, str(path))


def load_release(release: str, sae_id: str, device: str = "cpu") -> LoadedSAE:
    """Load an SAE from the hub by sae_lens's names.

    Raises
    ------
    NotFoundError
        If sae_lens knows no such release or id, or the hub cannot be reached and does not lie in the cache.
    InvalidInputError
        If the SAE is of a kind that saestore cannot encode with.
    """
    lens = import_sae_lens()
    repo = _repository(release, sae_id)
    what, name = f"the SAE {release}:{sae_id}", slug(f"{release}-{sae_id}")
    advice = download_advice(release, sae_id, name)
    if not is_cached(repo):
        require_hub(what, advice)
    with hub_errors(what, advice):
        module = _load(lambda: lens.SAE.from_pretrained(release, sae_id, device=device), what)
    info = {"release": release, "sae_id": sae_id, "source": f"hub:{repo}"}
    return _loaded(lens, module, name, info, what)


def load_object(sae: Any, device: str = "cpu") -> LoadedSAE:
    """Take an SAE of sae_lens that is already in memory; it is moved to the device.

    It is named after its Neuronpedia id, else after model and hook, else after architecture and width.
    """
    if "sae_lens" not in sys.modules or not isinstance(sae, (lens := import_sae_lens()).SAE):
        raise InvalidInputError(f"an SAE is given as a path, a name or a sae_lens SAE, not as {type(sae).__name__}")
    notes = sae.cfg.metadata.to_dict()
    model, hook = notes.get("model_name"), notes.get("hook_name")
    name = notes.get("neuronpedia_id") or (
        f"{model}-{hook}" if model and hook else f"{sae.cfg.architecture()}-{sae.cfg.d_sae}"
    )
    return _loaded(lens, sae.to(device), slug(str(name)), {}, f"the SAE {name}")


def download_advice(release: str, sae_id: str, name: str) -> str:
    """What to do, in one line, where the hub cannot be reached."""
    return (
        "on a connected machine run "
        f"`python -c \"from sae_lens import SAE; SAE.from_pretrained('{release}', '{sae_id}').save_model('{name}')\"` "
        f"and pass that folder as the SAE (--sae ./{name}), or copy its hub cache here and set HF_HOME"
    )


def import_sae_lens() -> ModuleType:
    """Import sae_lens (ten seconds the first time).

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        # Its import warns of names that transformer_lens deprecates: nothing that a user of saestore can change.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sae_lens
    except ImportError as error:
        raise MissingDependencyError(f"sae_lens cannot be imported ({error}); pip install 'saestore[sae]'") from error
    return sae_lens  # type: ignore[no-any-return]


def _loader(lens: ModuleType, architecture: str, where: str) -> Any:
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    if architecture in SAE_CLASS_REGISTRY:
        return lens.SAE
    if architecture in SAE_TRAINING_CLASS_REGISTRY:
        return lens.TrainingSAE
    known = ", ".join(sorted({*SAE_CLASS_REGISTRY, *SAE_TRAINING_CLASS_REGISTRY}))
    raise InvalidInputError(
        f"{where} is of architecture {architecture!r}, which sae_lens {lens.__version__} does not know "
        f"(it has {known}); upgrade sae_lens"
    )


def _load(load: Any, where: str) -> Any:
    """Call sae_lens's own loader; what it raises on bad files comes out as one clear error."""
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            # It tells how to load the language model, which is not loaded here.
            warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
            return load()
    except SafetensorError as error:
        raise InvalidInputError(
            f"the weights of {where} are truncated or no safetensors file ({error}); fetch them again"
        ) from error
    # Wrong shapes and names come as RuntimeError, a bad configuration as any of the others.
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if isinstance(error, SaestoreError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise InvalidInputError(f"sae_lens cannot load {where}: {type(error).__name__}: {reason}") from error


def _repository(release: str, sae_id: str) -> str:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if release in directory:
        ids = directory[release].saes_map
        if sae_id not in ids:
            raise NotFoundError(f"release {release!r} has no SAE {sae_id!r}; {_nearest(sae_id, ids)}")
        return str(directory[release].repo_id)
    if "/" not in release:
        raise NotFoundError(
            f"sae_lens knows no release {release!r}; {_nearest(release, directory)}; "
            "a hub repository is given as owner/name:folder"
        )
    return release


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or sorted(names)[:3]
    return f"the nearest of {len(names):,} are {', '.join(near)}"


def _loaded(lens: ModuleType, module: Any, name: str, info: Mapping[str, Any], where: str) -> LoadedSAE:
    if isinstance(module, lens.TrainingSAE):
        module = _for_inference(lens, module)
    cfg = module.cfg
    architecture = str(cfg.architecture())
    _refuse(architecture, where)
    config = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name not in _NOT_SEMANTICS}
    config["architecture"] = architecture
    k = config.get("k")
    if k is not None and not 1 <= k <= cfg.d_sae:
        raise InvalidInputError(f"{where} says k={k}; want 1 to d_sae={cfg.d_sae:,}")
    notes = cfg.metadata.to_dict()
    facts = {key: config.get(key) for key in ("architecture", "d_in", "d_sae", "k", "dtype")}
    facts |= {key: config[key] for key in ("normalize_activations", "apply_b_dec_to_input")}
    facts |= {key: notes.get(key) for key in ("hook_name", "model_name")}
    facts |= {"release": None, "sae_id": None, "source": None}
    training = {key: notes[key] for key in ("prepend_bos", "context_size") if notes.get(key) is not None}
    return LoadedSAE(name, {**facts, **info}, config, module, training)


def _refuse(architecture: str, where: str) -> None:
    if "transcoder" in architecture:
        raise InvalidInputError(
            f"{where} is a {architecture}: it reconstructs another layer than the one it reads, so that nothing here "
            "could check its activations against the embeddings; saestore takes SAEs that reconstruct their own input"
        )
    if architecture == "temporal":
        raise InvalidInputError(
            f"{where} is a temporal SAE: its activations depend on the tokens before, and saestore encodes each row by "
            "itself; take an SAE that encodes single activations"
        )


def _for_inference(lens: ModuleType, training: Any) -> Any:
    """Make of a training SAE what sae_lens would save of it for inference.

    The activations of a BatchTopK SAE in training depend on the other rows of the batch; stored ones must not.
    """
    state = {key: tensor.detach().clone() for key, tensor in training.state_dict().items()}
    training.process_state_dict_for_saving_inference(state)
    sae = lens.SAE.from_dict({**training.cfg.get_inference_sae_cfg_dict(), "device": "cpu"})
    sae.load_state_dict(state)
    return sae.to(training.device)
