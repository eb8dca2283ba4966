"""What an SAE was trained on, as it says itself, and whether that is what it is given."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError

__all__ = ["SAETrainingSpec", "hook_layer"]

# TransformerLens's names, and those of the modules themselves as transformers, open_clip and timm call them.
_HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.hook_resid_(?P<side>pre|post)")
_MODULE = re.compile(r"(?:\w+\.)*(?:layers|layer|h|blocks|resblocks)\.(?P<layer>\d+)")
_SUPPORTED = "the output of a block: blocks.N.hook_resid_post, blocks.N.hook_resid_pre (N above 0), or …layers.N"


def hook_layer(hook: str) -> int:
    """Number of the block, counted from 0, whose output a hook names.

    Raises
    ------
    InvalidInputError
        If it names something else.
    """
    found = _HOOK.fullmatch(hook) or _MODULE.fullmatch(hook)
    layer = -1 if found is None else int(found["layer"])
    if found is not None and found.groupdict().get("side") == "pre":
        layer -= 1
    if layer < 0:
        raise InvalidInputError(
            f"the SAE was trained at {hook!r}, which is not the output of a block; a model can be run up to "
            f"{_SUPPORTED}. Store the activations of that hook yourself and give them as --embeddings"
        )
    return layer


@dataclass(frozen=True)
class SAETrainingSpec:
    """What an SAE says of the activations it was trained on; None where it says nothing.

    Attributes
    ----------
    sae
        Its name, for messages.
    d_in
        Width of the embeddings that it takes.
    model
        Name of the model.
    hook
        Where in the model.
    prepend_bos
        Whether each text had the model's first token, BOS, in front.
    context_size
        Tokens of a text, BOS included.
    transform
        Of images: ``resize`` and ``crop`` as `ImageTransform.record` has them.
    """

    sae: str
    d_in: int
    model: str | None = None
    hook: str | None = None
    prepend_bos: bool | None = None
    context_size: int | None = None
    transform: Mapping[str, Any] | None = None

    def check_width(self, model: str, width: int) -> None:
        """Refuse a model whose hidden state does not fit."""
        if width != self.d_in:
            raise InvalidInputError(
                f"the hidden state of {model} has width {width}, the SAE {self.sae} takes {self.d_in}; it was trained "
                f"on {self.model or 'another model'}"
            )

    def layer(self, asked: int | None) -> int:
        """Choose the block: what was asked for, if the SAE does not want another, else what it wants.

        Raises
        ------
        InvalidInputError
            If the two differ, or nobody says.
        """
        wanted = None if self.hook is None else hook_layer(self.hook)
        layer = wanted if asked is None else asked
        if layer is None:
            raise InvalidInputError(
                f"the SAE {self.sae} does not say at which layer it was trained: pass --layer (layer=), the number of "
                "the block, counted from 0, whose output it takes"
            )
        if asked is not None and wanted is not None and asked != wanted:
            raise InvalidInputError(
                f"layer {asked} was asked for, but the SAE {self.sae} was trained at {self.hook}, which is the output "
                f"of block {wanted}, counted from 0; pass --layer {wanted}, or leave --layer out"
            )
        return layer

    def model_name(self, asked: str | None) -> str:
        """Choose the model: what was asked for, else what the SAE was trained on."""
        if asked is not None:
            return asked
        if self.model is None or "/" not in self.model:
            raise InvalidInputError(
                f"which model to run is not known (the SAE {self.sae} says {self.model}): pass --model (model=), a "
                "folder or a name on the hub"
            )
        return self.model

    def warn_of_other_model(self, name: str) -> None:
        """Warn if nothing says that the model is the one that the SAE was trained on."""
        if self.model is None:
            return
        names = {_tail(name), *_names_in(Path(name))}
        if _tail(self.model) not in names:
            warnings.warn(
                f"the SAE {self.sae} was trained on {self.model}, and nothing says that {name} is that model; on "
                "another one its features mean nothing.",
                stacklevel=2,
            )

    def warn_of_other_transform(self, record: Mapping[str, Any]) -> None:
        """Warn if images are resized or cropped otherwise than the SAE's were."""
        differ = {key: (value, record.get(key)) for key, value in (self.transform or {}).items()}
        differ = {key: pair for key, pair in differ.items() if pair[0] != pair[1]}
        for key, (there, here) in differ.items():
            warnings.warn(
                f"the SAE {self.sae} was trained on images with {key} {json.dumps(there)}, and the model's image "
                f"processor has {key} {json.dumps(here)}; its preprocessor_config.json can be changed.",
                stacklevel=2,
            )


def _tail(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()


def _names_in(folder: Path) -> set[str]:
    """What a model's folder, if it is one, says that it holds."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    # A snapshot in the hub's cache is …/models--owner--name/snapshots/<commit>.
    cached = [part.rsplit("--", 1)[-1] for part in folder.parts if part.startswith("models--")]
    return {_tail(str(name)) for name in (config.get("_name_or_path"), *cached) if name}
