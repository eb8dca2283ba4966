"""Batches of images and of texts through a model, and the rows of them that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from saestore.models.blocks import BlockModel
from saestore.models.images import THREADS, ImageTransform, read_image
from saestore.models.tokens import Tokenizer


@dataclass
class RunImages:
    """Rows of images: their patches in row-major order, or their CLS tokens.

    The images of the next batch are read while the model runs on this one.
    """

    # The model, and the preparation of its input
    model: BlockModel
    transform: ImageTransform
    paths: Sequence[Path]  # paths of all images
    rows: slice  # which of the model's rows are stored
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS), init=False)
    _ahead: dict[tuple[int, int], list[Future[dict[str, torch.Tensor]]]] = field(default_factory=dict, init=False)

    def __call__(self, first: int, stop: int) -> torch.Tensor:
        """Return the stored rows of images ``first`` to ``stop``, on the CPU."""
        futures = self._ahead.pop((first, stop), None) or self._start(first, stop)
        self._ahead.clear()
        following = stop, min(2 * stop - first, len(self.paths))
        if following[0] < following[1]:
            self._ahead[following] = self._start(*following)
        each = [future.result() for future in futures]
        inputs = {name: torch.stack([image[name] for image in each]) for name in each[0]}
        hidden, mask = self.model(**inputs), inputs.get("pixel_attention_mask")  # a mask where grids differ
        kept = hidden[:, self.rows].flatten(0, 1) if mask is None else hidden[mask.bool().to(hidden.device)]
        return kept.cpu()

    def _start(self, first: int, stop: int) -> list[Future[dict[str, torch.Tensor]]]:
        return [self._pool.submit(self._inputs, path) for path in self.paths[first:stop]]

    def _inputs(self, path: Path) -> dict[str, torch.Tensor]:
        record = self.transform.record
        return self.transform.inputs(read_image(path, exif=record["exif"], transparency=record["transparency"]))


@dataclass
class RunTexts:
    """Rows of texts: their tokens without special ones, or the mean over these tokens."""

    # The model, and the preparation of its input
    model: BlockModel
    tokenizer: Tokenizer
    texts: Sequence[str]  # all texts
    windows: np.ndarray  # int64 (n_windows, 2): text and number of each row of tokens
    mean: bool  # one row per text instead of one per token

    def __call__(self, first: int, stop: int) -> torch.Tensor:
        """Return the stored rows of windows ``first`` to ``stop``, on the CPU."""
        wanted = self.windows[first:stop].tolist()
        numbers = list(dict.fromkeys(text for text, _ in wanted))
        tokenized = dict(zip(numbers, self.tokenizer([self.texts[number] for number in numbers]), strict=True))
        texts = [tokenized[text][number] for text, number in wanted]
        lengths = [len(tokens.ids) for tokens in texts]
        parts: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        for length in [max(lengths)] if self.model.pads else dict.fromkeys(lengths):
            rows = [row for row, n in enumerate(lengths) if self.model.pads or n == length]
            # Padding is at the end, where no token of a causal model sees it, and is masked for other models.
            ids = np.zeros((len(rows), length), np.int64)
            mask = np.zeros_like(ids)
            for i, row in enumerate(rows):
                ids[i, : lengths[row]], mask[i, : lengths[row]] = texts[row].ids, 1
            hidden = self.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            for row, states in zip(rows, hidden, strict=True):
                kept = states[: lengths[row]][torch.from_numpy(texts[row].stored).to(hidden.device)]
                parts[row] = kept.float().mean(0, keepdim=True).to(kept.dtype) if self.mean else kept
        return torch.cat(parts).cpu()


def text_groups(lengths: np.ndarray, batch: int, most_tokens: int) -> np.ndarray:
    """Borders of groups of texts that run together, int64 (n_groups + 1,).

    A group has at most `batch` texts and `most_tokens` tokens, padding included, or one text that has more. Texts that
    are appended later change no group but the last.
    """
    borders, longest = [0], 0
    for i, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if i > borders[-1] and (i - borders[-1] >= batch or longest * (i - borders[-1] + 1) > most_tokens):
            borders.append(i)
            longest = length
    return np.array([*borders, len(lengths)], np.int64)
