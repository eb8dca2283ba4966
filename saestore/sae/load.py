"""Turn what a user names an SAE by into a `LoadedSAE`."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError, NotFoundError
from saestore.sae.clip_scope import load_clip_scope
from saestore.sae.hub import hub_file
from saestore.sae.loaded import LoadedSAE
from saestore.sae.registered import REGISTERED, Registered
from saestore.sae.sae_lens import download_advice, load_folder, load_object, load_release

_CHECKPOINTS = (".pt", ".pth")
_FORMS = (
    "give a folder in sae_lens format, a CLIP-Scope .pt file, release:sae_id as sae_lens names it, or one of "
    + ", ".join(REGISTERED)
)


def load_sae(spec: Any, device: str = "cpu") -> LoadedSAE:
    """Load an SAE.

    Parameters
    ----------
    spec
        A folder in sae_lens format (``cfg.json`` and ``sae_weights.safetensors``), a CLIP-Scope checkpoint (``.pt``), a
        registered name (``clip-scope-22``, ``gemma-scope-9b-34-16k``), ``release:sae_id`` of sae_lens's directory or of
        a hub repository, or an SAE object of sae_lens. A path that exists is taken as a path before anything else.
    device
        Where the weights go. An SAE object is moved there itself, not copied.

    Raises
    ------
    NotFoundError
        If there is no such file, name, release or id, or the hub cannot be reached.
    InvalidInputError
        If the files are damaged or incomplete, or the SAE is of a kind that saestore cannot encode with.
    MissingDependencyError
        If sae_lens is needed and not installed.
    """
    if isinstance(spec, LoadedSAE):
        return spec
    if not isinstance(spec, str | os.PathLike):
        return load_object(spec, device)
    text = os.fspath(spec)
    path = Path(text)
    if text and path.is_dir():
        return load_folder(path, device)
    if (text and path.exists()) or path.suffix in _CHECKPOINTS:
        return _load_file(path, device)
    if text in REGISTERED:
        return _load_registered(text, REGISTERED[text], device)
    release, colon, sae_id = text.partition(":")
    if colon and release and sae_id:
        return load_release(release, sae_id, device)
    near = difflib.get_close_matches(text, REGISTERED, n=1)
    raise NotFoundError(f"no SAE {text!r}{f', did you mean {near[0]}?' if near else ''}; {_FORMS}")


def _load_file(path: Path, device: str) -> LoadedSAE:
    if path.suffix in _CHECKPOINTS:
        return load_clip_scope(path, device)
    if path.name in ("cfg.json", "sae_weights.safetensors"):
        raise InvalidInputError(
            f"{path} is one of the two files of an SAE in sae_lens format; give the folder {path.parent}"
        )
    raise InvalidInputError(f"{path} is no SAE that saestore can read; {_FORMS}")


def _load_registered(name: str, where: Registered, device: str) -> LoadedSAE:
    if where.release is not None and where.sae_id is not None:
        hub_file(where.repo, where.file, download_advice(where.release, where.sae_id, name))
        found = load_release(where.release, where.sae_id, device)
        return replace(found, name=name, training={**found.training, "model": where.model})
    advice = (
        f"on a connected machine run `hf download {where.repo} {where.file} --local-dir .` and pass that file as the "
        f"SAE (--sae {where.file}), or copy its hub cache here and set HF_HOME"
    )
    sae = load_clip_scope(hub_file(where.repo, where.file, advice), device)
    info = {**sae.info, "release": where.repo, "sae_id": where.file}
    return replace(sae, name=name, info=info)
