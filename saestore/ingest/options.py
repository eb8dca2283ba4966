"""The arguments of `build` and `import_activations`, and what can be refused before anything is opened."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ParamSpec, Self, TypeVar

from saestore.errors import InvalidInputError, check_at_least, check_choice
from saestore.format import split_set_path, stripped_path
from saestore.vocabulary import BUILD_DTYPES, SAMPLE_TYPES
from saestore.writing.pipeline import check_storage_options

P = ParamSpec("P")
R = TypeVar("R")

_OF_MODELS = (
    "model", "layer", "hook", "batch_size", "max_tokens", "window", "stride", "chat", "bos", "exif", "transparency",
    "skip_bad",
)  # fmt: skip
_OF_EMBEDDINGS = ("embeddings", "item_ptr", "token_spans", "tokens")


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What `saestore.build` and `saestore.import_activations` share; None where the caller gave nothing."""

    sae: Any = None
    items: Any = None
    item_ptr: Any = None
    token_spans: Any = None
    tokens: Any = None
    mask: Any = None
    include: Any = None
    exclude: Any = None
    images: Any = None
    data: str | None = None
    ground_truth: str | bool | None = None
    other_model: bool = False
    segment_rows: int | None = None
    codec: str = "pcodec"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The options among all arguments of a call."""
        return cls(**{each.name: given[each.name] for each in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class BuildOptions(RowOptions):
    """The arguments of `saestore.build`."""

    dataset: str
    sample_type: str | None = None
    embeddings: Any = None
    texts: Any = None
    model: Any = None
    layer: int | None = None
    hook: str | None = None
    model_dtype: str = "float32"
    batch_size: int | None = None
    max_tokens: int | None = None
    window: int | None = None
    stride: int | None = None
    chat: bool = False
    bos: str | None = None
    exif: bool | None = None
    transparency: str | None = None
    skip_bad: bool = False
    device: str = "cpu"
    dtype: str | None = None
    top_k: int | None = None
    matmul_precision: str = "auto"

    @property
    def runs_model(self) -> bool:
        """Whether images or texts are given rather than embeddings."""
        return self.images is not None or self.texts is not None

    def check(self) -> None:
        """Refuse what no input could make right."""
        from saestore.sae.encode import usable_device

        if self.sample_type is not None:
            check_choice("sample_type", self.sample_type, SAMPLE_TYPES, "unknown-sample-type")
        if self.dtype is not None:
            check_choice("dtype", self.dtype, BUILD_DTYPES, "unknown-dtype")
        if self.top_k is not None:
            check_at_least("top_k", self.top_k, 1, "bad-top-k")
        check_storage_options(self.codec, self.segment_rows)
        self._check_inputs()
        usable_device(self.device)

    def _check_inputs(self) -> None:
        if sum(given is not None for given in (self.embeddings, self.images, self.texts)) > 1:
            raise InvalidInputError(
                "embeddings, images and texts exclude one another: give one of the three.", code="several-inputs"
            )
        if self.hook is not None and self.layer is not None:
            raise InvalidInputError(
                f"hook {self.hook!r} and layer {self.layer} exclude one another; give one.", code="several-inputs"
            )
        for name in _OF_EMBEDDINGS if self.runs_model else _OF_MODELS:
            value = getattr(self, name)
            if value is not None and (value is not False or name == "exif"):
                other = "embeddings, not images or texts" if self.runs_model else "images or texts, not embeddings"
                raise InvalidInputError(
                    f"{name} goes with {other}; leave it out (--{name.replace('_', '-')}).", code="unused-option"
                )


@dataclass(frozen=True, kw_only=True)
class ImportOptions(RowOptions):
    """The arguments of `saestore.import_activations`."""

    set_path: str
    path: Any = None
    format: str = "auto"
    n_features: int | None = None
    sparse: Any = None
    pad_token: int | None = None
    source: Any = None

    @property
    def parts(self) -> list[str]:
        """Dataset, sample type and, if it is given, the name of the SAE."""
        return stripped_path(self.set_path).split("/")

    @property
    def sample_type(self) -> str:
        """The second part of the set's path."""
        return self.parts[1] if len(self.parts) > 1 else ""

    def check(self) -> None:
        """Refuse what no file could make right."""
        check_storage_options(self.codec, self.segment_rows)
        split_set_path("/".join([*self.parts, "sae"] if len(self.parts) == 2 else self.parts))
        check_choice(f"sample type of {self.set_path!r}", self.sample_type, SAMPLE_TYPES, "unknown-sample-type")


def with_arguments_of(function: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function the arguments of another one, for people and type checkers."""

    def give(own: Callable[..., R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own.__signature__ = signature.replace(return_annotation=own.__annotations__["return"])  # type: ignore[attr-defined]
        return own

    return give


def bound(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by their names, defaults included."""
    found = inspect.signature(function).bind(*args, **kwargs)
    found.apply_defaults()
    return found.arguments


def default_item_ptr(item_ptr: Any, sample_type: str, n_items: int | None, n_rows: int) -> Any:
    """How rows belong to items: as given, else as the sample type implies; None where they divide evenly."""
    if item_ptr is None and sample_type == "cls":
        return 1
    if item_ptr is None and sample_type == "token" and n_items is not None:
        raise InvalidInputError(
            f"it is not known which of the {n_rows:,} tokens belong to which of the {n_items:,} texts: pass --item-ptr "
            "(item_ptr=), a .npy, .npz:name or token_counts .pt file.",
            code="missing-item-ptr",
        )
    return item_ptr
