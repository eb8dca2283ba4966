"""Doors to other libraries: xarray, torch, anndata; and back through the SAE's decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from saestore.activations import slices
from saestore.activations.opened import on_snapshot
from saestore.activations.points import points
from saestore.activations.queries import Queries
from saestore.activations.select import select
from saestore.errors import InvalidInputError
from saestore.format import digest

if TYPE_CHECKING:
    import anndata
    import torch
    import xarray

    from saestore.interop.torch_data import Batches

Array = np.ndarray[Any, Any]


class Conversions(Queries):
    """`to_xarray`, `torch`, `torch_dataset`, `to_anndata`, `decode`, `points`."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Shard indexes and pointers are not sent along: whoever unpickles the set opens it there.
        return _open, (type(self), self._root, self.path)

    @property
    def location(self) -> str:
        """Where the store is, as zarr names it: a URL, or which object in memory."""
        return f"{self._root.store}/{self._root.path}".rstrip("/")

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        """What names the content of the set, so that dask can tell equal arrays by it."""
        return self.location, self.path, digest(self.attributes.to_json())

    @on_snapshot
    def points(self, samples: Any, features: Any) -> Array:
        """The activation at each pair of a sample and a feature, of the stored dtype, (n,).

        Parameters
        ----------
        samples, features
            Ints, of equal length or one of them a single int.

        Notes
        -----
        Memory: 12 bytes a pair, and blocks of some 4 million pairs and non-zeros, 400 MB; never the dense matrix of all
        the samples and features that occur.
        """
        rows, columns = select(samples, self.shape[0], "sample").ids, select(features, self.shape[1], "feature").ids
        try:
            rows, columns = np.broadcast_arrays(rows, columns)
        except ValueError:
            raise InvalidInputError(
                f"points() takes pairs: {len(rows):,} samples and {len(columns):,} features are none. "
                "dense() gives every sample with every feature."
            ) from None
        return points(self._segments, rows, columns, self.shape[1], self.dtype)

    def to_xarray(self, chunks: Any = None, *, max_bytes: int = slices.DENSE_LIMIT) -> xarray.Dataset:
        """A lazy Dataset: ``activation(sample, feature)`` as if it were dense, labels, statistics, provenance.

        Coordinates along ``sample`` are ``item``, ``position``, ``row`` and ``col`` in a square grid of patches,
        ``token``, its text, ``key`` and ``split`` of the item, and a boolean for every concept; variables on
        ``feature`` are the statistics. The accessor ``.sae`` asks the store about the samples and features selected.

        Parameters
        ----------
        chunks
            As in `xarray.open_dataset`; ``{}`` gives dask arrays whose chunks follow the segments.
        max_bytes
            The largest dense array that is made at once. What needs a larger one raises `TooLargeError` instead.

        Raises
        ------
        MissingDependencyError
            `chunks` is given and dask is not installed.

        Notes
        -----
        Opening reads no activation and nothing per sample. A slice reads the lists of its features or the rows of its
        samples, whichever is less.
        """
        from saestore.interop.engine import open_set

        return open_set(self, chunks, max_bytes)

    def torch(self, samples: Any = None, features: Any = None, *, max_bytes: int = slices.DENSE_LIMIT) -> torch.Tensor:
        """A slice as a torch sparse CSR tensor, the same matrix as `sparse` gives.

        Raises
        ------
        TooLargeError
            As `sparse`.
        MissingDependencyError
            torch is not installed.
        """
        from saestore.interop.optional import require

        require("torch", "torch", "torch()")
        from saestore.interop.torch_data import csr_tensor

        return csr_tensor(self.sparse(samples, features, max_bytes=max_bytes))

    def torch_dataset(
        self,
        batch_size: int = 1024,
        *,
        samples: Any = None,
        features: Any = None,
        shuffle: bool = False,
        seed: int = 0,
        sparse: bool = True,
        block_rows: int = 1 << 12,
        buffer_rows: int = 1 << 17,
    ) -> Batches:
        """Batches of rows and the samples they are, for ``torch.utils.data.DataLoader(…, batch_size=None)``.

        Parameters
        ----------
        batch_size
            Rows of a batch; the last one of an epoch may be shorter.
        samples, features
            These only.
        shuffle
            Blocks of `block_rows` consecutive rows come in a random order, and the rows of as many blocks as fit into
            `buffer_rows` are mixed. Every row comes once an epoch. ``set_epoch(n)`` gives another order each epoch.
        seed
            The same seed and epoch give the same batches, with any number of workers.
        sparse
            Sparse CSR tensors, or dense ones.

        Returns
        -------
        torch.utils.data.IterableDataset
            Of named tuples (values, samples). Workers take turns of `buffer_rows` rows each.

        Notes
        -----
        Memory in each worker: the non-zeros of `buffer_rows` rows three times, a batch, and 8 bytes for each of
        `samples` where they are given.
        """
        from saestore.interop.optional import require

        require("torch", "torch", "torch_dataset()")
        from saestore.interop.torch_data import Batches

        return Batches(
            self,  # type: ignore[arg-type]
            batch_size,
            samples,
            features,
            shuffle=shuffle,
            seed=seed,
            sparse=sparse,
            block_rows=block_rows,
            buffer_rows=buffer_rows,
        )

    def to_anndata(self, *, max_bytes: int = slices.DENSE_LIMIT) -> anndata.AnnData:
        """An `anndata.AnnData`, samples x features: labels in ``obs``, statistics in ``var``, provenance in ``uns``.

        ``X`` is backed by the stored matrix where the set is one segment, as it is once it was built: slices are read
        when they are taken, and ``adata.to_memory()`` reads all. Of several segments, and of float16, which scipy does
        not have, ``X`` is read into memory.

        Raises
        ------
        TooLargeError
            ``X`` has to be read and holds more than `max_bytes` (4 GiB) of ids and activations.
        MissingDependencyError
            anndata is not installed.

        Notes
        -----
        Memory: ``obs``, some 40 bytes a sample and one for each concept.
        """
        from saestore.interop.anndata_set import to_anndata

        return to_anndata(self, max_bytes)  # type: ignore[arg-type]

    def decode(self, samples: Any = None, sae: Any = None, *, max_bytes: int = slices.DENSE_LIMIT) -> Array:
        """Embeddings as the SAE reconstructs them from the stored activations.

        Parameters
        ----------
        sae
            The SAE that the set was made with, in any form that `build` takes; by default where the set says that it
            came from.

        Returns
        -------
        ndarray
            float32, or float64 of such an SAE, (n, d_in); an int as `samples` drops the first axis. Where activations
            were dropped when the set was built, what is left is decoded.

        Raises
        ------
        InvalidInputError
            It is another SAE, or one that scales each embedding by its own norm, which is not stored.
        TooLargeError
            The answer would be larger than `max_bytes` (4 GiB); nothing was read.
        MissingDependencyError
            torch, or sae_lens where the SAE is of its format, is not installed.

        Notes
        -----
        Memory: the SAE, the answer, and a batch of some half a million non-zeros.
        """
        from saestore.interop.optional import require

        require("torch", "sae", "decode()")
        from saestore.interop.decoding import decode

        return decode(self, samples, sae, max_bytes)  # type: ignore[arg-type]


def _open(cls: type[Conversions], root: zarr.Group, path: str) -> Conversions:
    return cls(root, path)
