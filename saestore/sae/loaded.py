"""A loaded SAE: its name, facts to record, weights, and a fingerprint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError
from saestore.format import canonical_json

if TYPE_CHECKING:
    import torch

# Folder and file names that do not identify an SAE; the name of the folder above is then added.
_GENERIC = re.compile(
    r"(saes?|ae|params|trainers?|trained|layers|width|average_l0|models?|weights|final|best|last|latest|checkpoints?|"
    r"ckpts?|global|steps?|epochs?|iter|tokens?|inference|outputs?|out|[\d_.=-][kmb]?)*",
    re.IGNORECASE,
)


def invalid(message: str) -> InvalidInputError:
    """The error for an SAE that contradicts itself."""
    return InvalidInputError(message, code="invalid-sae")


def unsupported(message: str) -> InvalidInputError:
    """The error for an SAE that saestore cannot encode with."""
    return InvalidInputError(message, code="unsupported-sae")


@dataclass(frozen=True)
class LoadedSAE:
    """An SAE, ready to encode with."""

    name: str  # last component of the activation set's path, such as ``clip-scope-22``
    # JSON-able facts for the store's attributes: ``architecture``, ``d_in``, ``d_sae``, ``k``, ``dtype``,
    # ``normalize_activations``, ``apply_b_dec_to_input``, ``hook_name``, ``model_name``, ``release``, ``sae_id`` and
    # ``source`` (the file or folder), None where unknown; and, where the SAE was trained in a special way,
    # ``model_from_pretrained_kwargs``, ``seqpos_slice`` and ``exclude_special_tokens``
    info: Mapping[str, Any]
    config: Mapping[str, Any]  # settings that decide the activations besides the weights; part of the fingerprint
    module: torch.nn.Module  # a sae_lens ``SAE``, a `LinearSAE`, or an `ObjectSAE`
    # Known facts about its training data besides ``model_name`` and ``hook_name``: ``model`` (the model's name on the
    # hub), ``prepend_bos``, ``context_size``, ``transform`` (``resize`` and ``crop`` of images)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("hook_name", "model_name"):
            value = self.info.get(name)
            if not isinstance(value, str | None):
                raise invalid(f"the SAE {self.name} has {name} {value!r}; it is a name")

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

        Equal for equal SAEs, independent of their place and name.
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

    A generic name (``sae``, ``final_122880``, ``checkpoint-500``, a number) gets the names of the folders above in
    front, up to one that is not generic: ``examples/clevr/sae`` is ``clevr-sae``. Links are not followed.
    """
    full = path.absolute()
    name = full.stem if full.is_file() else full.name
    parts = [name]
    for folder in full.parents:
        if not _GENERIC.fullmatch(parts[-1]) or not folder.name:
            break
        parts.append(folder.name)
    return slug("-".join(reversed(parts)))
