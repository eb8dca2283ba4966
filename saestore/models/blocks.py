"""The blocks of a model, and the output of one of them."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from saestore.errors import InvalidInputError
from saestore.models.pretrained import Pretrained, weights_fingerprint
from saestore.sae.hub import one_line

__all__ = ["BlockModel", "Tower", "load_text_model", "load_tower"]

_BLOCK_LISTS = ("layers", "layer", "h", "blocks", "block")


@dataclass(frozen=True)
class Tower:
    """Facts about a kind of vision model of transformers.

    Attributes
    ----------
    class_name
        Its class.
    n_before
        Rows of its hidden states before the patches: CLS, and registers.
    has_cls
        Whether the first of these rows is a CLS token.
    any_size
        Whether it takes images of another size than in its training.
    """

    class_name: str
    n_before: int
    has_cls: bool
    any_size: bool = False


_TOWERS = {
    "clip_vision_model": Tower("CLIPVisionModel", 1, has_cls=True),
    "siglip_vision_model": Tower("SiglipVisionModel", 0, has_cls=False),
    "dinov2": Tower("Dinov2Model", 1, has_cls=True, any_size=True),
    "dinov2_with_registers": Tower("Dinov2WithRegistersModel", 1, has_cls=True, any_size=True),
}


class BlockModel:
    """A model up to one of its blocks.

    The hidden state is the output of the block itself: in many models, the last entry of transformers' own list of
    hidden states went through the final norm.

    Parameters
    ----------
    model
        Of transformers.
    layer
        Number of the block, counted from 0; it is the model's last one.
    config
        Configuration of the part that the blocks belong to.
    device
        Where it runs.

    Attributes
    ----------
    width : int
        Width of the hidden state.
    fingerprint : str
        `weights_fingerprint` of the model.
    """

    def __init__(self, model: torch.nn.Module, layer: int, config: Any, device: str) -> None:
        self.width = int(config.hidden_size)
        self.fingerprint = weights_fingerprint(model, config)
        self.device = torch.device(device)
        self._model = model.to(self.device)
        self._dtype = next(model.parameters()).dtype
        self._outputs: list[torch.Tensor] = []
        _blocks(model, layer + 1)[layer].register_forward_hook(self._keep)

    def _keep(self, _block: torch.nn.Module, _given: Any, out: Any) -> None:
        self._outputs.append(out[0] if isinstance(out, tuple) else out)

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Run a batch; returns the block's output, (batch, rows, width), on the model's device."""
        self._outputs.clear()
        on_device = {
            name: x.to(self.device, self._dtype if x.is_floating_point() else None) for name, x in inputs.items()
        }
        with torch.inference_mode():
            self._model(**on_device)
        return self._outputs.pop()


def load_tower(pretrained: Pretrained, layer: int, dtype: str, device: str) -> tuple[BlockModel, Tower, Any]:
    """Load the vision part of a model up to a block; also returns its facts and its configuration."""
    config = pretrained.config()
    config = getattr(config, "vision_config", config)
    tower = _TOWERS.get(config.model_type)
    if tower is None:
        raise InvalidInputError(
            f"{pretrained.name} is of the kind {config.model_type!r}; images run through CLIP, SigLIP and DINOv2 "
            f"({', '.join(_TOWERS)}). Give the embeddings of other models as --embeddings",
            code="unsupported-model",
        )
    cut = _cut(config, layer, pretrained.name)
    if tower.has_cls:
        tower = Tower(tower.class_name, 1 + getattr(config, "num_register_tokens", 0), True, tower.any_size)
    return BlockModel(pretrained.model(tower.class_name, cut, dtype), layer, cut, device), tower, config


def load_text_model(pretrained: Pretrained, layer: int, dtype: str, device: str) -> tuple[BlockModel, Any]:
    """Load a text model up to a block, without its head, or the text part of a model of images and text."""
    whole = pretrained.config()
    config = getattr(whole, "text_config", whole)
    if whole.model_type.startswith(("clip", "siglip")) or whole.model_type in _TOWERS:
        raise InvalidInputError(
            f"{pretrained.name} is a model of images ({whole.model_type}); give it --images", code="unsupported-model"
        )
    if whole.is_encoder_decoder:
        raise InvalidInputError(
            f"{pretrained.name} ({whole.model_type}) has an encoder and a decoder; texts can be run through models of "
            "one row of blocks, such as Gemma, Llama, GPT-2 or BERT",
            code="unsupported-model",
        )
    cut = _cut(config, layer, pretrained.name)
    if config is whole:
        return _checked(BlockModel(pretrained.model("AutoModel", cut, dtype), layer, cut, device), whole), config
    both = copy.deepcopy(whole)
    both.text_config = cut
    part = getattr(pretrained.model("AutoModel", both, dtype), "language_model", None)
    if part is None:
        raise InvalidInputError(
            f"{pretrained.name} ({whole.model_type}) has no text part that saestore can find", code="unsupported-model"
        )
    return _checked(BlockModel(part, layer, cut, device), whole), config


def _checked(model: BlockModel, config: Any) -> BlockModel:
    """Run three tokens, because only a run shows whether a model can do without its last blocks."""
    ids = torch.ones((1, 3), dtype=torch.int64)
    try:
        shape = tuple(model(input_ids=ids, attention_mask=ids).shape)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"a model of the kind {config.model_type!r} cannot be run up to a block: {type(error).__name__}: "
            f"{one_line(error)}; give its embeddings as --embeddings",
            code="unsupported-model",
        ) from error
    if shape != (1, 3, model.width):
        raise InvalidInputError(
            f"a block of a {config.model_type!r} model returns an array of shape {shape} for 1 text of 3 tokens; "
            f"saestore needs (1, 3, {model.width}). Give its embeddings as --embeddings",
            code="unsupported-model",
        )
    return model


def _cut(config: Any, layer: int, name: str) -> Any:
    """The configuration of the model without the blocks after `layer`, which then are not loaded."""
    n_blocks = getattr(config, "num_hidden_layers", None)
    if not isinstance(n_blocks, int) or not hasattr(config, "hidden_size"):
        raise InvalidInputError(
            f"{name} ({config.model_type}) is not a model of blocks that saestore can run", code="unsupported-model"
        )
    if not 0 <= layer < n_blocks:
        raise InvalidInputError(
            f"{name} has no block {layer}: it has {n_blocks}, counted from 0 to {n_blocks - 1}", code="unknown-layer"
        )
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = layer + 1
    cut.use_cache = False  # nothing reads it
    # Some models list the kind of attention of each block.
    if getattr(cut, "layer_types", None):
        with suppress(AttributeError):  # a property that follows from num_hidden_layers
            cut.layer_types = list(cut.layer_types)[: layer + 1]
    return cut


def _blocks(model: torch.nn.Module, n_blocks: int) -> torch.nn.ModuleList:
    """The outermost list of `n_blocks` blocks."""
    for name, module in model.named_modules():
        if (
            isinstance(module, torch.nn.ModuleList)
            and len(module) == n_blocks
            and name.rsplit(".", 1)[-1] in _BLOCK_LISTS
        ):
            return module
    raise InvalidInputError(
        f"{type(model).__name__} has no list of {n_blocks} blocks that saestore can find", code="unsupported-model"
    )
