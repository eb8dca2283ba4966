"""Vision models that timm and open_clip load, with their own preprocessing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saestore.errors import InvalidInputError, require
from saestore.models.blocks import BlockModel, check_layer
from saestore.models.hooks import Hook
from saestore.models.images import ImageTransform
from saestore.models.pretrained import unreadable, unsupported
from saestore.models.request import ModelRequest
from saestore.sae.hub import one_line

_PACKAGES = {"timm": "timm", "open_clip": "open_clip_torch"}
_PREFIXES = ("hf-hub:", "local-dir:")  # of both packages
_NO_CHANGE = {"ToTensor", "MaybeToTensor", "MaybeConvertMode", "_convert_to_rgb"}


@dataclass(frozen=True)
class ImageModel:
    """A model of images up to a hook."""

    # Its name, and what kind of model it is
    name: str
    kind: str
    # The model, and the preparation of its input
    model: BlockModel
    transform: ImageTransform
    n_before: int  # rows of its hidden states before the patches: CLS, and registers
    has_cls: bool  # whether the first of these rows is a CLS token


def package_of(name: str) -> str | None:
    """The package of ``timm:NAME`` or ``open_clip:NAME``, None for other names."""
    package, colon, _ = name.partition(":")
    return package if colon and package in _PACKAGES else None


def load_package_model(name: str, hook: Hook, request: ModelRequest) -> ImageModel:
    """Load a vision transformer by the package in its name, with its own preprocessing."""
    package, _, own = name.partition(":")
    library = require(package, "vision", f"the model {name}")
    try:
        tower, preprocess = (_timm if package == "timm" else _open_clip)(library, own)
    except Exception as error:
        if isinstance(error, InvalidInputError):
            raise
        raise unreadable(f"{package} cannot load {own}: {type(error).__name__}: {one_line(error)}") from error
    clip = hasattr(tower, "transformer") and hasattr(tower, "grid_size")
    embedding = tower if clip else getattr(tower, "patch_embed", None)
    blocks = tower.transformer.resblocks if clip else getattr(tower, "blocks", None)
    if blocks is None or embedding is None or not hasattr(embedding, "patch_size"):
        raise unsupported(
            f"{name} ({type(tower).__name__}) is not a vision transformer of one row of blocks; give its embeddings as "
            "--embeddings"
        )
    check_layer(name, hook.layer, len(blocks))
    del blocks[hook.layer + 1 :]
    record = _record(preprocess, name)
    record["grid"] = [size // patch for size, patch in zip(record["size"], _pair(embedding.patch_size), strict=True)]
    record |= {"exif": request.exif is not False, "transparency": request.transparency or "white"}
    model = _Images(tower.to(getattr(torch, request.dtype)).eval().requires_grad_(False))
    config, transform = _Config(package, type(tower).__name__), ImageTransform(_Processor(preprocess), record)
    ready = BlockModel(model, hook, config, request.device, transform.probe())
    has_cls = clip or getattr(tower, "cls_token", None) is not None
    n_before = 1 if clip else int(tower.num_prefix_tokens)
    return ImageModel(name, config.model_type, ready, transform, n_before, has_cls)


def _timm(timm: Any, name: str) -> tuple[Any, Any]:
    model = timm.create_model(f"local-dir:{name}" if Path(name).is_dir() else name, pretrained=True)
    return model, timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


def _open_clip(open_clip: Any, name: str) -> tuple[Any, Any]:
    tag = None
    if Path(name).is_dir():
        name = f"local-dir:{name}"
    elif not name.startswith(_PREFIXES):
        name, _, tag = name.partition(":")
        tags = open_clip.list_pretrained_tags_by_model(name)
        if tag not in tags:
            raise InvalidInputError(
                f"open_clip has no weights {tag!r} of {name!r}; give open_clip:MODEL:WEIGHTS"
                + (f", such as {', '.join(tags[:5])}" if tags else ", a folder, or open_clip:hf-hub:owner/name"),
                code="unknown-model",
            )
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=tag)
    return getattr(model.visual, "trunk", model.visual), preprocess  # the trunk is a model of timm


def _record(preprocess: Any, name: str) -> dict[str, Any]:
    """`ImageTransform.record` of a composition of torchvision's transforms."""
    record: dict[str, Any] = {"resize": None, "crop": None, "resample": None, "rescale": 1 / 255, "mean": None}
    record["std"] = None
    for step in preprocess.transforms:
        kind = getattr(type(step), "__name__", "")
        kind = step.__name__ if kind == "function" else kind
        if kind == "Resize":
            sizes = [step.size] if isinstance(step.size, int) else list(step.size)
            names = ("shortest_edge",) if len(sizes) == 1 else ("height", "width")
            record["resize"] = dict(zip(names, sizes, strict=False))
            record["resample"] = _RESAMPLING.get(str(getattr(step.interpolation, "value", step.interpolation)))
        elif kind == "CenterCrop":
            record["crop"] = [int(n) for n in step.size]
        elif kind == "Normalize":
            record |= {key: [float(x) for x in getattr(step, key)] for key in ("mean", "std")}
        elif kind not in _NO_CHANGE:
            raise InvalidInputError(
                f"{name} prepares images by {kind}, of which saestore does not know which patch sees which pixels; "
                "give its embeddings as --embeddings",
                code="image-size",
            )
    resize = record["resize"] or {}
    size = record["crop"] or [resize.get("height"), resize.get("width")]
    if None in size:
        raise InvalidInputError(f"the preprocessing of {name} does not make all images one size", code="image-size")
    return {**record, "size": size}


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


@dataclass(frozen=True)
class _Config:
    """What a `BlockModel` asks of a configuration."""

    package: str
    model_type: str

    def to_json_string(self, *, use_diff: bool = True) -> str:  # noqa: ARG002
        return json.dumps({"package": self.package, "class": self.model_type})


class _Images(torch.nn.Module):
    """A model of images with the name of its input as in transformers."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return self.tower(pixel_values)


@dataclass(frozen=True)
class _Processor:
    """A composition of torchvision, called as an image processor of transformers is."""

    compose: Any

    def __call__(self, images: Any, return_tensors: str) -> dict[str, Any]:  # noqa: ARG002
        return {"pixel_values": [self.compose(images).numpy()]}
