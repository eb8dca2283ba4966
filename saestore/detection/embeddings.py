"""The embeddings that a set was made from, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from saestore.detection.inputs import Split
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError

Array = np.ndarray[Any, Any]

_BLOCK = 4096  # rows that are read at a time


class EmbeddingReader:
    """Embeddings of the samples of a set.

    Parameters
    ----------
    spec
        What `saestore.build` takes as embeddings; None for those that the set was built from.
    source
        What the set says of where it came from.
    n_rows, path
        How many there must be, and the path of the set.
    of
        What has an embedding each: samples, or items.

    Raises
    ------
    NotFoundError
        The set does not say where its embeddings are, or they are there no more.
    InvalidInputError
        They are not those of the set.
    MissingDependencyError
        torch is not installed.
    """

    def __init__(
        self, spec: Any, source: Mapping[str, Any], n_rows: int, path: str, of: Literal["samples", "items"] = "samples"
    ) -> None:
        try:
            from saestore.embeddings.opening import open_embeddings
        except ImportError as e:
            raise MissingDependencyError(f"Reading embeddings needs torch ({e}); pip install 'saestore[sae]'.") from e
        if source.get("kind") in ("import", "matrix"):
            source = {}  # path and fingerprint are those of activations
        spec = source.get("path") if spec is None else spec
        if spec is None:
            raise NotFoundError(f"{path} does not say where its embeddings are; name them with embeddings=.")
        self._rows = open_embeddings(spec)
        self.width, self.path = self._rows.d_in, self._rows.path
        if self._rows.n_rows != n_rows:
            raise InvalidInputError(
                f"{self.path} has {self._rows.n_rows:,} rows, but {path} has {n_rows:,} {of}; give "
                f"{'the embeddings that it was built from' if of == 'samples' else 'one embedding of each'}."
            )
        self.fingerprint = self._rows.fingerprint()
        if source.get("fingerprint") not in (None, self.fingerprint):
            raise InvalidInputError(
                f"{self.path} holds other embeddings than those that {path} was built from (fingerprint "
                f"{self.fingerprint[:12]}, not {source['fingerprint'][:12]}); name the right ones with embeddings=."
            )

    def blocks(self, rows: Array) -> Iterator[tuple[slice, Array]]:
        """Some rows, ascending, as float64: where in `rows` a block is, and the block. Memory: 4,096 rows, twice."""
        import torch

        for start in range(0, self._rows.n_rows, _BLOCK):
            stop = min(start + _BLOCK, self._rows.n_rows)
            first, last = np.searchsorted(rows, [start, stop])
            if last > first:
                block = self._rows.read(start, stop).to(torch.float64).numpy()
                yield slice(int(first), int(last)), block[rows[first:last] - start]

    def take(self, rows: Array) -> Array:
        """Rows in memory, float32."""
        found = np.empty((len(rows), self.width), np.float32)
        for where, block in self.blocks(rows):
            found[where] = block
        return found

    def scores(self, split: Split, vectors: Any) -> Array:
        """What concept vectors score on every row of a split, float32 (n_rows, n_vectors)."""
        found = np.empty((len(split.rows), len(vectors)), np.float32)
        for where, block in self.blocks(split.rows):
            found[where] = vectors.score(block)
        return found
