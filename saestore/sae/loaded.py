"""What a loaded SAE is to the rest of saestore: a name, facts to record, weights, and a fingerprint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.format import canonical_json

if TYPE_CHECKING:
    import torch

# Folder and file names that say nothing of which SAE lies there; the folder above then has to tell.
_SAYS_NOTHING = re.compile(
    r"saes?|models?|weights|final|best|last|latest|checkpoints?|inference|output|out|[\d_.-]+", re.IGNORECASE
)


@dataclass(frozen=True)
class LoadedSAE:
    """An SAE, ready to encode with.

    Attributes
    ----------
    name
        Last component of the activation set's path, such as ``clip-scope-22``.
    info
        JSON-able facts for the store's attributes: ``architecture``, ``d_in``, ``d_sae``, ``k``, ``dtype``,
        ``normalize_activations``, ``apply_b_dec_to_input``, ``hook_name``, ``model_name``, ``release``, ``sae_id`` and
        ``source`` (the file or folder); None where the SAE does not say.
    config
        What besides the weights decides the activations, and so goes into the fingerprint.
    module
        A sae_lens ``SAE``, or a `ClipScopeSAE`.
    training
        What it was trained on besides ``model_name`` and ``hook_name``, where it says so: ``model`` (the model's name
        on the hub), ``prepend_bos``, ``context_size``, ``transform`` (``resize`` and ``crop`` of images).
    """

    name: str
    info: Mapping[str, Any]
    config: Mapping[str, Any]
    module: torch.nn.Module
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def d_in(self) -> int:
        """Width of the embeddings that the SAE takes."""
        return int(self.info["d_in"])

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.info["d_sae"])

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the configuration and every byte of the weights.

        Equal for equal SAEs, wherever they were loaded from and whatever they are called.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        import torch

        sha = hashlib.sha256(canonical_json(dict(self.config)))
        for key, tensor in sorted(self.module.state_dict().items()):
            sha.update(canonical_json([key, str(tensor.dtype), list(tensor.shape)]))
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            sha.update(memoryview(flat.view(torch.uint8).numpy()))
        return sha.hexdigest()


def slug(text: str) -> str:
    """Turn a text into a name that a store's path may hold: letters, digits, ``.``, ``_``, ``+`` and ``-``."""
    return re.sub(r"([^A-Za-z0-9._+-]|-)+", "-", text).strip("._+-") or "sae"


def name_from_path(path: Path) -> str:
    """Name an SAE after the folder or file that holds it.

    A name that says nothing of the SAE (``sae``, ``final``, ``checkpoint``, a mere number) gets the name of the folder
    above in front: ``examples/clevr/sae`` is ``clevr-sae``. Links are not followed: the name is the one that was given.
    """
    full = path.absolute()
    own = full.stem if full.is_file() else full.name
    return slug(f"{full.parent.name}-{own}" if _SAYS_NOTHING.fullmatch(own) else own)
