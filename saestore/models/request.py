"""What images and texts share: the request, the result, and a few helpers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, check_choice
from saestore.models.source import ModelSource
from saestore.tables import Items
from saestore.vocabulary import MODEL_DTYPES, TRANSPARENCIES

__all__ = ["ModelInputs", "ModelRequest", "first_few", "select_items"]

# A GPU needs larger batches than a processor.
_BATCH = {"cpu": 16, "cuda": 64}
_NAMED = 5
_OF_TEXTS = ("max_tokens", "window", "stride", "chat", "bos")
_OF_IMAGES = ("exif", "transparency")


@dataclass(frozen=True)
class ModelRequest:
    """The caller's request; None leaves a choice to saestore.

    Attributes
    ----------
    images, texts
        One of the two: a folder; a file, or a list of texts.
    items
        A table of them.
    model, layer, hook
        Which model, and which of its blocks or hooks.
    sample_type
        ``patch`` or ``cls`` of images, ``token`` or ``cls`` of texts.
    device, dtype
        Where the model runs, and the dtype of its weights.
    batch_size
        Images or texts that run together.
    max_tokens
        Longer texts are cut.
    window, stride
        Longer texts run in windows of this many tokens, which begin `stride` tokens apart.
    chat
        Put texts into the tokenizer's chat template.
    bos
        The first token of every text; ``none`` for none.
    exif, transparency
        Whether images are turned by their EXIF orientation, and what transparent pixels show.
    skip_bad
        Leave out images that cannot be read and texts without tokens.
    other_model
        Run another model than the one that the SAE was trained on.
    known
        Keys of images that a store has already: they come first, in this order.
    """

    images: Any = None
    texts: Any = None
    items: Any = None
    model: str | os.PathLike[str] | None = None
    layer: int | None = None
    hook: str | None = None
    sample_type: str = "patch"
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int | None = None
    max_tokens: int | None = None
    window: int | None = None
    stride: int | None = None
    chat: bool = False
    bos: str | None = None
    exif: bool | None = None
    transparency: str | None = None
    skip_bad: bool = False
    other_model: bool = False
    known: Sequence[str] = ()

    @property
    def kind(self) -> str:
        """``images`` or ``texts``."""
        return "texts" if self.images is None else "images"

    @property
    def batch(self) -> int:
        """Images or texts that run together."""
        return self.batch_size or _BATCH.get(self.device.partition(":")[0], _BATCH["cuda"])

    def check(self) -> None:
        """Refuse options that do not exist."""
        allowed = ("patch" if self.images is not None else "token", "cls")
        if self.sample_type not in allowed:
            raise InvalidInputError(
                f"sample_type {self.sample_type!r}: for {self.kind} use {' or '.join(allowed)}.", code="unknown-choice"
            )
        check_choice("model_dtype", self.dtype, MODEL_DTYPES)
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidInputError(f"batch_size {self.batch_size}: use 1 or more.", code="invalid-count")
        if self.transparency is not None:
            check_choice("transparency", self.transparency, TRANSPARENCIES)
        self._check_lengths()

    def _check_lengths(self) -> None:
        others, other = (_OF_TEXTS, "texts") if self.images is not None else (_OF_IMAGES, "images")
        for name in others:
            if getattr(self, name) is not (False if name == "chat" else None):
                raise InvalidInputError(
                    f"{name} goes with {other}, not {self.kind}; leave it out (--{name.replace('_', '-')}).",
                    code="unused-option",
                )
        if self.window is not None and self.max_tokens is not None:
            raise InvalidInputError(
                f"max_tokens {self.max_tokens} cuts texts, window {self.window} does not: give one of the two.",
                code="several-inputs",
            )
        if self.window is not None and self.sample_type == "cls":
            raise InvalidInputError(
                "window goes with tokens: the mean over a text needs all of its tokens in one run; leave it out "
                "(--window).",
                code="unused-option",
            )
        if self.stride is not None and self.window is None:
            raise InvalidInputError(
                f"stride {self.stride} goes with windows: pass their length, --window (window=).",
                code="unused-option",
            )


@dataclass(frozen=True)
class ModelInputs:
    """The rows of a model, and everything else that a build needs to know about them.

    Attributes
    ----------
    source
        The rows.
    items
        The images or texts.
    ptr
        int64 (n_items + 1,): the rows of item i are ``ptr[i]:ptr[i + 1]``.
    spans
        int32 (n_rows, 2), the characters of each token; None if rows are not tokens.
    tokens
        int64 (n_rows,), the ids of the tokens; None if rows are not tokens.
    record
        For the set's attribute ``source``.
    notes
        Lines to show at the end of a build.
    """

    source: ModelSource
    items: Items
    ptr: np.ndarray
    spans: np.ndarray | None
    record: dict[str, Any]
    notes: tuple[str, ...]
    tokens: np.ndarray | None = None


def select_items(items: Items, mask: np.ndarray, **more: np.ndarray) -> Items:
    """The items where `mask` is True, with more columns, which replace columns and concepts of the same name."""
    columns = {name: values[mask] for name, values in {**items.columns, **more}.items()}
    concepts = {name: values[mask] for name, values in items.concepts.items() if name not in more}
    return Items(items.key[mask], columns, concepts)


def first_few(names: Iterable[str]) -> str:
    """The first five names, and the number of the others."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
