"""What the caller of `build` asked for, and what of it can be refused before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saestore.errors import InvalidInputError
from saestore.vocabulary import BUILD_DTYPES, CODECS, SAMPLE_TYPES

_OF_MODELS = ("model", "layer", "batch_size", "max_tokens", "skip_bad")
_OF_EMBEDDINGS = ("embeddings", "item_ptr", "token_spans")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `saestore.build`; None where nothing was said."""

    dataset: str
    sample_type: str | None = None
    embeddings: Any = None
    sae: Any = None
    items: Any = None
    item_ptr: Any = None
    token_spans: Any = None
    images: Any = None
    texts: Any = None
    model: Any = None
    layer: int | None = None
    model_dtype: str = "float32"
    batch_size: int | None = None
    max_tokens: int | None = None
    skip_bad: bool = False
    device: str = "cpu"
    dtype: str | None = None
    top_k: int | None = None
    segment_rows: int | None = None
    codec: str = "pcodec"
    matmul_precision: str = "auto"
    data: str | None = None
    ground_truth: str | bool | None = None

    @property
    def runs_model(self) -> bool:
        """Whether images or texts are given rather than embeddings."""
        return self.images is not None or self.texts is not None

    def check(self) -> None:
        """Refuse what no input could make right.

        Raises
        ------
        InvalidInputError
            Names the argument, what was given and what is allowed.
        """
        if self.sample_type is not None and self.sample_type not in SAMPLE_TYPES:
            raise InvalidInputError(f"sample_type {self.sample_type!r}: use one of {', '.join(SAMPLE_TYPES)}.")
        if self.dtype is not None and self.dtype not in BUILD_DTYPES:
            raise InvalidInputError(f"dtype {self.dtype!r}: use float32 (lossless) or float16.")
        if self.codec not in CODECS:
            raise InvalidInputError(f"codec {self.codec!r}: use one of {', '.join(CODECS)}.")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidInputError(f"top_k {self.top_k}: keep at least 1 activation a sample.")
        if self.segment_rows is not None and not 1 <= self.segment_rows < 1 << 32:
            raise InvalidInputError(f"segment_rows {self.segment_rows}: use 1 to {(1 << 32) - 1}.")
        self._check_inputs()
        from saestore.sae.encode import usable_device

        usable_device(self.device)

    def _check_inputs(self) -> None:
        if sum(given is not None for given in (self.embeddings, self.images, self.texts)) > 1:
            raise InvalidInputError("embeddings, images and texts exclude one another: give one of the three.")
        strangers = _OF_EMBEDDINGS if self.runs_model else _OF_MODELS
        for name in strangers:
            if getattr(self, name) not in (None, False):
                other = "embeddings, not images or texts" if self.runs_model else "images or texts, not embeddings"
                raise InvalidInputError(f"{name} goes with {other}; leave it out (--{name.replace('_', '-')}).")
