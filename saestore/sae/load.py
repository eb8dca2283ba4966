"""From the name or place of an SAE to a `LoadedSAE`."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError, NotFoundError, did_you_mean, reached
from saestore.sae.checkpoints import FAMILIES, load_checkpoint, missing_family, of_family, recognise
from saestore.sae.hub import hub_file
from saestore.sae.lens_folder import CONFIG, WEIGHTS
from saestore.sae.loaded import LoadedSAE
from saestore.sae.sae_lens import download_advice, load_folder, load_object, load_release


@dataclass(frozen=True)
class Registered:
    """Place of a registered SAE on the hub."""

    # The hub's repository, and the file in it with the weights.
    repo: str
    file: str
    # Its names in sae_lens; None for a CLIP-Scope checkpoint.
    release: str | None = None
    sae_id: str | None = None
    model: str | None = None  # the hub's name of the model that it was trained on, if the SAE itself has another one


REGISTERED = {
    "clip-scope-22": Registered("lewington/CLIP-ViT-L-scope", "22_resid/1200013184.pt"),
    "gemma-scope-9b-34-16k": Registered(
        "google/gemma-scope-9b-pt-res",
        "layer_34/width_16k/average_l0_114/params.npz",
        release="gemma-scope-9b-pt-res-canonical",
        sae_id="layer_34/width_16k/canonical",
        model="google/gemma-2-9b",
    ),
}

_CHECKPOINTS = (".pt", ".pth", ".npz")
_FORMS = (
    f"Give the folder or file of an SAE (of sae_lens, {', '.join(FAMILIES)}), release:sae_id as sae_lens names it, or "
    "one of " + ", ".join(REGISTERED)
)


@reached("the SAE")
def load_sae(spec: Any, device: str = "cpu") -> LoadedSAE:
    """Load an SAE by its place or name; an existing path comes before a name. Its weights are on `device`.

    `spec` is the folder or file of an SAE, recognised by its content: of sae_lens (``cfg.json`` and
    ``sae_weights.safetensors``) or one of `saestore.sae.checkpoints.FAMILIES`; a registered name (``clip-scope-22``,
    ``gemma-scope-9b-34-16k``); ``release:sae_id`` of sae_lens's directory or of a hub repository; an SAE object of
    sae_lens, which is itself moved to the device; or any object with ``encode(x)`` and a width, see
    `saestore.sae.protocol`.
    """
    if isinstance(spec, LoadedSAE):
        return spec
    if not isinstance(spec, str | os.PathLike):
        return load_object(spec, device)
    text = os.fspath(spec)
    path = Path(text)
    if text and path.is_dir():
        return _load_folder(path, device)
    if (text and path.exists()) or path.suffix in _CHECKPOINTS:
        return _load_file(path, device)
    if text in REGISTERED:
        return _load_registered(text, REGISTERED[text], device)
    release, colon, sae_id = text.partition(":")
    if colon and release and sae_id:
        return load_release(release, sae_id, device)
    raise NotFoundError(f"no SAE {text!r}. {did_you_mean(text, REGISTERED)}{_FORMS}", code="unknown-sae")


def _load_folder(path: Path, device: str) -> LoadedSAE:
    family = recognise(path)
    if family is not None:
        return load_checkpoint(path, family, device)
    if not all((path / file).is_file() for file in (CONFIG, WEIGHTS)):
        raise missing_family(path)
    with of_family(path, "sae_lens"):
        return load_folder(path, device)


def _load_file(path: Path, device: str) -> LoadedSAE:
    family = None
    try:
        family = recognise(path)
        if family is not None:
            return load_checkpoint(path, family, device)
    except (InvalidInputError, NotFoundError) as error:
        codes = ["not-an-sae", "pickled", "no-such-file", *(["damaged-file"] if family is None else [])]
        if error.code not in codes or not path.exists():
            raise
        raise type(error)(f"{error}. {_FORMS}", code=error.code) from error
    if path.name in (CONFIG, WEIGHTS, "sae.safetensors", "params.safetensors", "hyperparams.json"):
        raise InvalidInputError(
            f"{path} is one of the files of an SAE; give the folder {path.parent}", code="not-an-sae"
        )
    raise InvalidInputError(f"{path} is not an SAE that saestore can read. {_FORMS}", code="not-an-sae")


def _load_registered(name: str, where: Registered, device: str) -> LoadedSAE:
    if where.release is not None and where.sae_id is not None:
        hub_file(where.repo, where.file, download_advice(where.release, where.sae_id, name))
        sae = load_release(where.release, where.sae_id, device)
        return replace(sae, name=name, training={**sae.training, "model": where.model})
    advice = (
        f"on a connected machine run `hf download {where.repo} {where.file} --local-dir .` and pass that file as the "
        f"SAE (--sae {where.file}), or copy its hub cache here and set HF_HOME"
    )
    sae = load_checkpoint(Path(hub_file(where.repo, where.file, advice)), "CLIP-Scope", device)
    info = {**sae.info, "release": where.repo, "sae_id": where.file}
    return replace(sae, name=name, info=info)
