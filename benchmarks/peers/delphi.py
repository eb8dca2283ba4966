"""Delphi's latent cache: safetensors of locations and activations, split by feature, asked through its own loader."""

# ruff: noqa: ARG002  (what it lacks)

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, Unsupported, ranked

HOOKPOINT = "layers.0"
SPLITS = 5  # what its CacheConfig defaults to


class Delphi(Peer):
    key = "delphi"
    label = "Delphi's latent cache"
    how = (
        f"eai-delphi 0.1.3: `LatentCache.save_splits({SPLITS})`, its default number of files, and `save_config`; the "
        "`LatentDataset` is opened once, and the `TensorBuffer` of the feature's file asked for that latent "
        "(`load_data_per_latent`), which is what its iteration does; ranked with numpy. It keeps float16 only, and one "
        "order. An item is a sequence."
    )
    needs = ("delphi", "asyncer", "faiss", "sentence_transformers", "simple_parsing", "blobfile", "orjson", "jaxtyping")

    def write(self, matrix: sp.csr_array) -> None:
        import torch
        from delphi.config import CacheConfig
        from delphi.latents import LatentCache

        n_items = -(-matrix.shape[0] // self.item_size)
        sample = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        locations = np.stack([*np.divmod(sample, self.item_size), matrix.indices], axis=1)
        cache = LatentCache(None, {}, batch_size=n_items)
        cache.width = matrix.shape[1]
        # What LatentCache.run leaves here after its batches of dense activations.
        cache.cache.latent_locations[HOOKPOINT] = torch.from_numpy(locations)
        cache.cache.latent_activations[HOOKPOINT] = torch.from_numpy(matrix.data)
        cache.cache.tokens[HOOKPOINT] = torch.zeros(n_items, self.item_size, dtype=torch.int64)
        cache.save_splits(SPLITS, self.folder)
        config = CacheConfig(cache_ctx_len=self.item_size, n_tokens=matrix.shape[0], n_splits=SPLITS)
        cache.save_config(self.folder, config, model_name="")

    def open(self) -> None:
        from delphi.config import ConstructorConfig, SamplerConfig
        from delphi.latents import LatentDataset

        # Any tokenizer but None, which would fetch one; it is of no use to us.
        self.dataset = LatentDataset(
            self.folder, SamplerConfig(), ConstructorConfig(), tokenizer=object(), modules=[HOOKPOINT]
        )
        self.first = np.array([int(Path(buffer.path).stem.split("_")[0]) for buffer in self.dataset.buffers])
        self.item_size = self.dataset.tokens.shape[1]

    def column(self, feature: int) -> Entries:
        import torch

        buffer = self.dataset.buffers[np.searchsorted(self.first, feature, side="right") - 1]
        buffer.latents = torch.tensor([feature])
        _, locations, activations = buffer.load_data_per_latent()
        if not locations:
            return np.empty(0, np.int64), np.empty(0, np.float16)
        place, values = locations[0].numpy(), activations[0].numpy()
        return place[:, 0] * self.item_size + place[:, 1], values

    def top_samples(self, feature: int, n: int) -> Entries:
        return ranked(*self.column(feature), n)

    def dense(self, start: int, stop: int) -> np.ndarray:
        raise Unsupported("its loader answers by feature only")

    def rows(self, samples: np.ndarray) -> Any:
        raise Unsupported("its loader answers by feature only")
