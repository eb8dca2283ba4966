"""SAEs with random weights at the size of real ones, and embeddings that they take for what they were trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from saestore.sae import LoadedSAE, load_sae
from saestore.sae.clip_scope import ClipScopeSAE

DIRECTIONS = 24  # of the dictionary, that an embedding is made of
NOISE = 0.05  # of each coordinate beside them; a direction has length 1
SAMPLE = 256  # rows from which a threshold is found


@dataclass(frozen=True)
class SaeShape:
    """An SAE: its kind and size, and how many features it finds in an embedding (their mean, where it varies)."""

    kind: Literal["topk", "jumprelu", "relu"]
    d_in: int
    d_sae: int
    l0: int

    def __str__(self) -> str:
        name = {"topk": "TopK", "jumprelu": "JumpReLU", "relu": "ReLU"}[self.kind]
        return f"{name}, {self.d_in:,} to {self.d_sae:,}, L0 {self.l0}"


class Made:
    """An SAE of this shape, and its embeddings.

    Attributes
    ----------
    weight
        The encoder (d_in, d_sae), float32, laid out as the SAE holds it.
    sae
        What saestore takes.
    """

    def __init__(self, shape: SaeShape) -> None:
        self._random = torch.Generator().manual_seed(0)
        directions = torch.randn(shape.d_sae, shape.d_in, generator=self._random)
        self._directions = torch.nn.functional.normalize(directions, dim=1)
        self.weight = self._directions.T.contiguous()
        self.sae = self._clip_scope(shape) if shape.kind == "topk" else self._of_sae_lens(shape)

    def batches(self, rows: int, count: int) -> Iterator[torch.Tensor]:
        """Embeddings (rows, d_in), so many times."""
        for _ in range(count):
            ids = torch.randint(0, len(self._directions), (rows, DIRECTIONS), generator=self._random)
            strength = torch.rand(rows, DIRECTIONS, generator=self._random) * 3 + 0.3
            # embedding_bag sums them without a copy of all.
            x = torch.nn.functional.embedding_bag(ids, self._directions, mode="sum", per_sample_weights=strength)
            yield x + NOISE * torch.randn(x.shape, generator=self._random)

    def _clip_scope(self, shape: SaeShape) -> LoadedSAE:
        module = ClipScopeSAE(shape.l0, torch.zeros(shape.d_in), self.weight, self._directions)
        info = {"architecture": "clip_scope", "d_in": shape.d_in, "d_sae": shape.d_sae, "k": shape.l0}
        return LoadedSAE("random", {**info, "dtype": "float32"}, {"k": shape.l0}, module)

    def _of_sae_lens(self, shape: SaeShape) -> LoadedSAE:
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
        return load_sae(sae)
