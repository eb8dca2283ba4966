"""What images and texts share: the request, the result, and a few helpers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, check_at_least, check_choice
from saestore.models.source import ModelSource
from saestore.tables.items import Items
from saestore.vocabulary import MODEL_DTYPES, TRANSPARENCIES

# A GPU needs larger batches than a processor.
_BATCH = {"cpu": 16, "cuda": 64}
_OF_TEXTS = ("max_tokens", "window", "stride", "chat", "bos")
_OF_IMAGES = ("exif", "transparency")


@dataclass(frozen=True)
class ModelRequest:
    """The caller's request; None leaves a choice to saestore."""

    # One of the two: a folder; a file, or a list of texts
    images: Any = None
    texts: Any = None
    items: Any = None  # a table of them
    # Which model, and which of its blocks or hooks
    model: str | os.PathLike[str] | None = None
    layer: int | None = None
    hook: str | None = None
    sample_type: str = "patch"  # ``patch`` or ``cls`` of images, ``token`` or ``cls`` of texts
    # Where the model runs, and the dtype of its weights
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int | None = None  # images or texts that run together
    max_tokens: int | None = None  # longer texts are cut
    # Longer texts run in windows of this many tokens, which begin `stride` tokens apart
    window: int | None = None
    stride: int | None = None
    chat: bool = False  # put texts into the tokenizer's chat template
    bos: str | None = None  # the first token of every text; ``none`` for none
    # Whether images are turned by their EXIF orientation, and what transparent pixels show
    exif: bool | None = None
    transparency: str | None = None
    skip_bad: bool = False  # leave out images that cannot be read and texts without tokens
    other_model: bool = False  # run another model than the one that the SAE was trained on
    known: Sequence[str] = ()  # keys of images that a store has already: they come first, in this order

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
        check_choice(
            f"sample_type of {self.kind}", self.sample_type, ("token" if self.images is None else "patch", "cls")
        )
        check_choice("model_dtype", self.dtype, MODEL_DTYPES)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1, "invalid-count")
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
                f"stride {self.stride} goes with windows: pass their length, --window (window=).", code="unused-option"
            )


@dataclass(frozen=True)
class ModelInputs:
    """The rows of a model, and everything else that a build needs to know about them."""

    source: ModelSource  # the rows
    items: Items  # the images or texts
    ptr: np.ndarray  # int64 (n_items + 1,): the rows of item i are ``ptr[i]:ptr[i + 1]``
    spans: np.ndarray | None  # int32 (n_rows, 2), the characters of each token; None if rows are not tokens
    record: dict[str, Any]  # for the set's attribute ``source``
    notes: tuple[str, ...]  # lines to show at the end of a build
    tokens: np.ndarray | None = None  # int64 (n_rows,), the ids of the tokens; None if rows are not tokens


def select_items(items: Items, mask: np.ndarray, **more: np.ndarray) -> Items:
    """The items where `mask` is True, with more columns, which replace columns and concepts of the same name."""
    columns = {name: values[mask] for name, values in {**items.columns, **more}.items()}
    concepts = {name: values[mask] for name, values in items.concepts.items() if name not in more}
    return Items(items.key[mask], columns, concepts)
