"""The SAE's record of its training, and whether model, layer and images agree with it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from saestore.errors import InvalidInputError

if TYPE_CHECKING:
    from saestore.sae import LoadedSAE

__all__ = ["SAETrainingSpec", "hook_layer"]

# Names of TransformerLens, and of the modules themselves in transformers, open_clip and timm.
_HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.hook_resid_(?P<side>pre|post)")
_MODULE = re.compile(r"(?:\w+\.)*(?:layers|layer|h|blocks|resblocks)\.(?P<layer>\d+)")
_SUPPORTED = "the output of a block: blocks.N.hook_resid_post, blocks.N.hook_resid_pre (N above 0), or …layers.N"


def hook_layer(hook: str, by: str = "the SAE was trained at") -> int:
    """Number of the block, counted from 0, whose output a hook names; `by` starts the message of an error.

    Raises
    ------
    InvalidInputError
        The hook is at another place.
    """
    match = _HOOK.fullmatch(hook) or _MODULE.fullmatch(hook)
    layer = -1 if match is None else int(match["layer"])
    if match is not None and match.groupdict().get("side") == "pre":
        layer -= 1
    if layer < 0:
        raise InvalidInputError(
            f"{by} {hook!r}, which is not the output of a block; a model can be run up to "
            f"{_SUPPORTED}. Store the activations of that hook yourself and give them as --embeddings",
            code="unsupported-hook",
        )
    return layer


@dataclass(frozen=True)
class SAETrainingSpec:
    """The activations that an SAE was trained on, as it records them; None where it has no record.

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
        For images: ``resize`` and ``crop`` as in `ImageTransform.record`.
    """

    sae: str
    d_in: int
    model: str | None = None
    hook: str | None = None
    prepend_bos: bool | None = None
    context_size: int | None = None
    transform: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, sae: LoadedSAE) -> Self:
        """Read the record of a loaded SAE."""
        info, training = sae.info, sae.training
        more = {name: training.get(name) for name in ("prepend_bos", "context_size", "transform")}
        return cls(sae.name, sae.d_in, training.get("model") or info.get("model_name"), info.get("hook_name"), **more)

    def layer(self, requested: int | None) -> int:
        """Choose the block: the requested one, which must be the SAE's own if that is known.

        Raises
        ------
        InvalidInputError
            The two differ, or neither is known.
        """
        trained = None if self.hook is None else hook_layer(self.hook)
        if requested is not None and trained is not None and requested != trained:
            raise InvalidInputError(
                f"layer {requested} was requested, but the SAE {self.sae} was trained at {self.hook}, which is the "
                f"output of block {trained}, counted from 0; pass --layer {trained}, or leave --layer out",
                code="layer-mismatch",
            )
        layer = trained if requested is None else requested
        if layer is None:
            raise InvalidInputError(
                f"the SAE {self.sae} does not record at which layer it was trained: pass --layer (layer=), the number "
                "of the block, counted from 0, whose output it takes",
                code="unknown-layer",
            )
        return layer

    def model_name(self, requested: str | None) -> str:
        """Choose the model: the requested one, else the one that the SAE was trained on."""
        if requested is not None:
            return requested
        if self.model is None or "/" not in self.model:
            raise InvalidInputError(
                f"which model to run is not known (the SAE {self.sae} records {self.model}): pass --model (model=), a "
                "folder or a name on the hub",
                code="unknown-model",
            )
        return self.model

    def check_model(self, name: str, width: int) -> None:
        """Refuse a model whose hidden state does not fit; warn if nothing shows that it is the SAE's model."""
        if width != self.d_in:
            raise InvalidInputError(
                f"the hidden state of {name} has width {width}, the SAE {self.sae} takes {self.d_in}; it was trained "
                f"on {self.model or 'another model'}",
                code="width-mismatch",
            )
        if self.model is not None and _tail(self.model) not in {_tail(name), *_names_in(Path(name))}:
            warnings.warn(
                f"the SAE {self.sae} was trained on {self.model}, and nothing shows that {name} is that model; on "
                "another one its features mean nothing.",
                stacklevel=2,
            )

    def warn_of_other_transform(self, record: Mapping[str, Any]) -> None:
        """Warn if the images are resized or cropped in another way than in training."""
        for key, trained in (self.transform or {}).items():
            if trained != record.get(key):
                warnings.warn(
                    f"the SAE {self.sae} was trained on images with {key} {json.dumps(trained)}, and the model's image "
                    f"processor has {key} {json.dumps(record.get(key))}; its preprocessor_config.json can be changed.",
                    stacklevel=2,
                )


def _tail(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()


def _names_in(folder: Path) -> set[str]:
    """Names of the model in a folder, by its configuration and by the hub's cache."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    # A snapshot in the hub's cache is …/models--owner--name/snapshots/<commit>.
    cached = [part.rsplit("--", 1)[-1] for part in folder.parts if part.startswith("models--")]
    return {_tail(str(name)) for name in (config.get("_name_or_path"), *cached) if name}
