"""The blocks of a model, and the hidden state at a place in one of them."""

from __future__ import annotations

import copy
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from saestore.errors import InvalidInputError
from saestore.models.hooks import Hook, find_tap
from saestore.models.pretrained import Pretrained, unsupported, weights_fingerprint
from saestore.sae.hub import one_line

# Names of the weights of the text part, in models of images and texts.
_TEXT_PART = {r"^(?:model\.)?(?:language_model|text_model)\.(?:model\.)?": ""}
_BLOCK_LISTS = ("layers", "layer", "h", "blocks", "block", "resblocks")


@dataclass(frozen=True)
class Tower:
    """Facts about a kind of vision model of transformers."""

    class_name: str  # its class
    n_before: int  # rows of its hidden states before the patches: CLS, and registers
    has_cls: bool  # whether the first of these rows is a CLS token
    any_size: bool = False  # whether it takes images of another size than in its training
    naflex: bool = False  # whether its images keep their proportions, each with a grid of its own


_TOWERS = {
    "clip_vision_model": Tower("CLIPVisionModel", 1, has_cls=True),
    "siglip_vision_model": Tower("SiglipVisionModel", 0, has_cls=False),
    "siglip2_vision_model": Tower("Siglip2VisionModel", 0, has_cls=False, any_size=True, naflex=True),
    "dinov2": Tower("Dinov2Model", 1, has_cls=True, any_size=True),
    "dinov2_with_registers": Tower("Dinov2WithRegistersModel", 1, has_cls=True, any_size=True),
    "dinov3_vit": Tower("DINOv3ViTModel", 1, has_cls=True, any_size=True),
    "vit": Tower("ViTModel", 1, has_cls=True),
    "vit_mae": Tower("ViTMAEModel", 1, has_cls=True),
}


class _Reached(Exception):
    """The model has run up to the hook; the rest of it is not needed."""


class BlockModel:
    """A model of transformers up to a hook in one of its blocks; nothing after the hook runs.

    The hidden state is taken from the block itself: in many models, the last entry of transformers' own list of hidden
    states went through the final norm. `config` is of the part that the blocks belong to, `probe` the inputs of a run
    that shows whether the model has the hook. It has the `width` of the hidden state, and its `weights_fingerprint`;
    `pads` is whether padding beside a text leaves its hidden states as they are.
    """

    def __init__(
        self, model: torch.nn.Module, hook: Hook, config: Any, device: str, probe: dict[str, torch.Tensor]
    ) -> None:
        self.fingerprint = weights_fingerprint(model, config)
        self.device = torch.device(device)
        self._model = model.to(self.device)
        self._dtype = next(model.parameters()).dtype
        self._stream: int | None = getattr(config, "altup_active_idx", None)
        self._kept: list[torch.Tensor] = []
        kind = config.model_type
        try:
            tap = find_tap(_blocks(model, hook.layer + 1)[hook.layer], hook.place, lambda: self._run(probe))
            if tap is None:
                raise InvalidInputError(
                    f"the blocks of a {kind!r} model have no {hook.name!r} that saestore can find; give the embeddings "
                    "of that hook as --embeddings",
                    code="unsupported-hook",
                )
            tap.attach(self._keep)
            shape = tuple(self(**probe).shape)
            # Whether texts of several lengths may run together, the shorter ones padded.
            self.pads = "input_ids" not in probe or self._ignores_padding(probe["input_ids"])
        except (torch.OutOfMemoryError, InvalidInputError):
            raise
        except Exception as error:
            raise unsupported(
                f"a model of the kind {kind!r} cannot be run up to a block: {type(error).__name__}: "
                f"{one_line(error)}; give its embeddings as --embeddings"
            ) from error
        rows = tuple(next(iter(probe.values())).shape)
        if len(shape) != 3 or shape[0] != 1 or (len(rows) == 2 and shape[1] != rows[1]):
            raise unsupported(
                f"a block of a {kind!r} model returns an array of shape {shape} for an input of shape {rows}; saestore "
                "needs (1, rows, width). Give its embeddings as --embeddings"
            )
        self.width = shape[2]

    def _ignores_padding(self, ids: torch.Tensor) -> bool:
        """Whether a text has the same hidden states beside a longer one; some models mix neighbours without a mask."""
        n = ids.shape[1]
        both = ids.repeat(2, 4)
        both[1, n:] = 0
        mask = torch.ones_like(both)
        mask[1, n:] = 0
        alone, beside = self(input_ids=ids, attention_mask=mask[:1, :n]), self(input_ids=both, attention_mask=mask)
        rounding = 1e-3 if self._dtype == torch.float32 else 0.05
        return torch.allclose(beside[1, :n], alone[0], rtol=0.0, atol=rounding * float(alone.abs().max()))

    def _keep(self, value: torch.Tensor) -> None:
        # Gemma 3n has several streams side by side, one of which attention and MLP read.
        several = self._stream is not None and value.ndim == 4
        self._kept.append(value[self._stream] if several else value.clone())
        raise _Reached

    def _run(self, inputs: dict[str, torch.Tensor]) -> None:
        dtypes = {name: self._dtype if x.is_floating_point() else None for name, x in inputs.items()}
        with torch.inference_mode():
            self._model(**{name: x.to(self.device, dtypes[name]) for name, x in inputs.items()})

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Run a batch; returns the hidden state at the hook, (batch, rows, width), on the model's device."""
        self._kept.clear()
        with suppress(_Reached):
            self._run(inputs)
        return self._kept.pop()


def find_tower(pretrained: Pretrained) -> tuple[Tower, Any]:
    """Facts about the vision part of a model, and its configuration."""
    config = pretrained.config()
    config = getattr(config, "vision_config", config)
    tower = _TOWERS.get(config.model_type)
    if tower is None:
        raise unsupported(
            f"{pretrained.name} is of the kind {config.model_type!r}; images run through CLIP, SigLIP 1 and 2, DINOv2, "
            f"DINOv3, ViT and MAE ({', '.join(_TOWERS)}). Give the embeddings of other models as --embeddings"
        )
    n_before = tower.n_before + getattr(config, "num_register_tokens", 0) if tower.has_cls else 0
    return replace(tower, n_before=n_before), config


def load_tower(
    pretrained: Pretrained, tower: Tower, config: Any, hook: Hook, *,
    dtype: str, device: str, probe: dict[str, torch.Tensor],
) -> BlockModel:  # fmt: skip
    """Load the vision part of a model up to a hook; `probe` has inputs of one run, as `BlockModel` takes them."""
    _check_layer(config, hook.layer, pretrained.name)
    config = copy.deepcopy(config)
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    kind = getattr(pretrained.transformers, tower.class_name)
    model = pretrained.model(_first_blocks(kind, hook.layer + 1, config.num_hidden_layers), config, dtype)
    if config.model_type == "vit_mae":
        model.register_forward_pre_hook(_in_order, with_kwargs=True)
    return BlockModel(model, hook, config, device, probe)


def _in_order(model: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """MAE sorts patches by noise, at random in training."""
    pixels = named["pixel_values"]
    n = (model.config.image_size // model.config.patch_size) ** 2
    noise = torch.arange(n, device=pixels.device).expand(len(pixels), -1)
    return given, {**named, "noise": noise}


def load_text_model(pretrained: Pretrained, hook: Hook, dtype: str, device: str) -> tuple[BlockModel, Any]:
    """Load a text model up to a hook, without its head: of images and text only the text part, of T5 the encoder."""
    whole = copy.deepcopy(pretrained.config())
    config = getattr(whole, "text_config", whole)
    if whole.model_type in _TOWERS or re.match("(clip|siglip)(?!.*text)", whole.model_type):
        raise unsupported(f"{pretrained.name} is a model of images ({whole.model_type}); give it --images")
    transformers = pretrained.transformers
    encoder = config.is_encoder_decoder or any("EncoderModel" in name for name in config.architectures or ())
    kinds = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING if encoder else transformers.MODEL_MAPPING
    kind = kinds.get(type(config), None)
    if not isinstance(kind, type):
        raise unsupported(
            f"{pretrained.name} ({whole.model_type}) is not a text model that saestore can run; it runs models of one "
            "row of blocks, such as Gemma, Llama, GPT-2 or BERT, and the encoder of T5"
        )
    _check_layer(config, hook.layer, pretrained.name)
    config.use_cache = False  # nothing reads it
    cut = _first_blocks(kind, hook.layer + 1, config.num_hidden_layers)
    model = pretrained.model(cut, config, dtype, key_mapping=None if config is whole else _TEXT_PART)
    ids = torch.arange(1, 4).unsqueeze(0)
    probe = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return BlockModel(model, hook, config, device, probe), config


def _check_layer(config: Any, layer: int, name: str) -> None:
    n_blocks = getattr(config, "num_hidden_layers", None)
    if not isinstance(n_blocks, int) or not hasattr(config, "hidden_size"):
        raise unsupported(f"{name} ({config.model_type}) is not a model of blocks that saestore can run")
    check_layer(name, layer, n_blocks)


def check_layer(name: str, layer: int, n_blocks: int) -> None:
    """Refuse a block that a model does not have."""
    if not 0 <= layer < n_blocks:
        raise InvalidInputError(
            f"{name} has no block {layer}: it has {n_blocks}, counted from 0 to {n_blocks - 1}", code="unknown-layer"
        )


def _first_blocks(kind: type, n: int, n_blocks: int) -> type:
    """A class like `kind` with only its first `n` blocks: the weights of the others are not loaded.

    The configuration stays whole, because in many models a block depends on how many follow it.
    """

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)  # type: ignore[misc]
        del _blocks(self, n_blocks)[n:]

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def _blocks(model: torch.nn.Module, n_blocks: int) -> torch.nn.ModuleList | torch.nn.Sequential:
    """The outermost list of `n_blocks` blocks."""
    for name, module in model.named_modules():
        if (
            isinstance(module, torch.nn.ModuleList | torch.nn.Sequential)
            and len(module) == n_blocks
            and name.rsplit(".", 1)[-1] in _BLOCK_LISTS
        ):
            return module
    raise unsupported(f"{type(model).__name__} has no list of {n_blocks} blocks that saestore can find")
