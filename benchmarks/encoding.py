"""SAEs with random weights at the size of real ones, and embeddings that look like their training data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

DIRECTIONS = 24  # of the dictionary, in each embedding
NOISE = 0.05  # in each coordinate; a direction has length 1
SAMPLE = 256  # rows that determine a threshold


@dataclass(frozen=True)
class SaeShape:
    """An SAE: its kind, its size, and how many features it finds in an embedding (their mean, where it varies)."""

    kind: Literal["topk", "jumprelu", "relu"]
    d_in: int
    d_sae: int
    l0: int

    def __str__(self) -> str:
        name = {"topk": "TopK", "jumprelu": "JumpReLU", "relu": "ReLU"}[self.kind]
        return f"{name}, {self.d_in:,} to {self.d_sae:,}, L0 {self.l0}"


class RandomSAE:
    """An SAE of this shape, and its embeddings.

    Attributes
    ----------
    weight
        The encoder (d_in, d_sae), float32, in the memory layout of the SAE.
    spec
        What saestore loads: a CLIP-Scope checkpoint in `folder`, or an SAE object of sae_lens.
    """

    def __init__(self, shape: SaeShape, folder: Path) -> None:
        self._random = torch.Generator().manual_seed(0)
        directions = torch.randn(shape.d_sae, shape.d_in, generator=self._random)
        self._directions = torch.nn.functional.normalize(directions, dim=1)
        self.weight = self._directions.T.contiguous()
        self.spec: Any = folder / "sae.pt"
        if shape.kind == "topk":
            state = {"pre_b": torch.zeros(shape.d_in), "enc": self.weight, "dec": self._directions}
            about = {"k": shape.l0, "n_features": shape.d_sae, "d_in": shape.d_in}
            torch.save({**about, "model_state_dict": state}, self.spec)
        else:
            self.spec = self._of_sae_lens(shape)

    def batches(self, rows: int, count: int) -> Iterator[torch.Tensor]:
        """Embeddings (rows, d_in), this many times."""
        for _ in range(count):
            ids = torch.randint(0, len(self._directions), (rows, DIRECTIONS), generator=self._random)
            strength = torch.rand(rows, DIRECTIONS, generator=self._random) * 3 + 0.3
            # embedding_bag adds them without a copy of all.
            x = torch.nn.functional.embedding_bag(ids, self._directions, mode="sum", per_sample_weights=strength)
            yield x + NOISE * torch.randn(x.shape, generator=self._random)

    def _of_sae_lens(self, shape: SaeShape) -> Any:
        import sae_lens

        (x,) = self.batches(SAMPLE, 1)
        threshold = (x @ self.weight).flatten().kthvalue(SAMPLE * (shape.d_sae - shape.l0)).values
        name = "JumpReLU" if shape.kind == "jumprelu" else "Standard"
        config = getattr(sae_lens, f"{name}SAEConfig")(d_in=shape.d_in, d_sae=shape.d_sae)
        sae = getattr(sae_lens, f"{name}SAE")(config)
        with torch.no_grad():
            sae.W_enc.copy_(self.weight)
            sae.W_dec.copy_(self._directions)
            if shape.kind == "jumprelu":
                sae.threshold.fill_(threshold)
            else:
                sae.b_enc.fill_(-threshold)
        return sae
