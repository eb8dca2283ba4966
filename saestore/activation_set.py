"""The facade of one activation set: every question, its concepts, pictures, and doors to other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.concepts_namespace import Concepts
from saestore.errors import InvalidInputError
from saestore.query import html
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.reader import Level, SetReader
from saestore.query.slices import DENSE_LIMIT

if TYPE_CHECKING:
    import anndata
    import torch
    import xarray

    from saestore.detection.report import Detection
    from saestore.diagnostics.report import Fidelity
    from saestore.interop.torch_data import Batches
    from saestore.plot import Plots

Array = np.ndarray[Any, Any]


class ActivationSet(SetReader):
    """The activations of one SAE over one sample type of one dataset.

    Features and samples are given as an int, a slice, a list or array of ints, or a boolean mask, by numpy's rules.
    ``where`` restricts a question to the samples that fulfil a condition; see `samples`.

    Parameters
    ----------
    root
        Root group of the store.
    path
        Full path of the set.

    Attributes
    ----------
    path : str
    attributes : SetAttributes
        The attributes of the set when it was opened.
    """

    @property
    def concepts(self) -> Concepts:
        """Labels of items and samples: ``names``, ``add``, ``scores`` and more."""
        return Concepts(self)

    @property
    def plot(self) -> Plots:
        """Pictures: `histogram`, `density`, `top` (images) and `tokens` (texts)."""
        from saestore.plot import Plots

        return Plots(self)

    def _repr_html_(self) -> str:
        return html.of_set(self.path, self.attributes)

    @retry_on_stale_snapshot
    def detect(
        self,
        level: Level = "item",
        *,
        concepts: Sequence[str] | str | None = None,
        score: str = "max",
        p: Sequence[float] | None = None,
        min_active: int | None = None,
        max_fraction: float | None = None,
        min_p99_percentile: float | None = None,
        n: int = 5,
        combine: int = 0,
        probe: bool = False,
        localise: bool = True,
        baselines: bool = False,
        embeddings: Any = None,
        cls_embeddings: Any = None,
        confidence_level: float = 0.95,
        n_resamples: int = 1000,
        seed: int = 0,
    ) -> Detection:
        """Find the feature and threshold that detect each concept, and measure them on test items.

        Everything is chosen on the items whose ``split`` is ``cal``; ``test`` items are used once, for the results.

        Parameters
        ----------
        level
            ``"item"`` detects concepts of items by the `score` of their samples, ``"sample"`` concepts of samples.
        concepts
            Names; by default all of the level.
        score
            Of an item: ``"max"``, ``"mean"`` or ``"top-N"``, the mean of its N strongest samples, inactive ones
            included as 0.
        p
            Thresholds let through these shares of the concept's positive calibration samples on which the feature is
            above 0: they are their exact ``1 - p`` quantiles. By default 0.02, 0.05, 0.1, 0.2 … 0.9, 0.95. The positive
            samples are those labelled so, or where only items have the concept, all samples of its items. With a
            `score` that is a mean, thresholds are quantiles of the positive items' scores instead.
        min_active, max_fraction, min_p99_percentile
            Features are left out that are above 0 on fewer calibration samples, or on a larger share of them, or whose
            99th percentile of activations above 0 is below this percentile of all features'. By default 2, or one in
            10,000 samples; the far-out fence of the features' shares; 5. ``1``, ``1.0`` and ``0`` leave out the dead
            only.
        n
            Candidates listed per concept.
        combine
            Also combine up to this many of the best features, by OR and by their mean.
        probe
            Also fit a sparse (L1) logistic probe to the scores of all features, on ``train``: an upper bound. Needs
            scikit-learn.
        localise
            Where samples have a concept, also find the samples of detected items that have it, at a second threshold,
            also chosen on ``cal``.
        baselines
            Also measure methods without an SAE, fitted to the embeddings on ``train``: difference of means, linear
            separators (logistic, SVM), k-means clusters. Needs torch and scikit-learn.
        embeddings
            The embeddings that the set was built from, as `saestore.build` takes them; by default from the recorded
            place. They imply `baselines`.
        cls_embeddings
            The embedding of each item's CLS token: also measure the difference of their means. For items only.
        confidence_level, n_resamples, seed
            Of the intervals, by the bootstrap over items.

        Returns
        -------
        Detection
            A row for each concept that a feature fires on.

        Raises
        ------
        NotFoundError
            There is no such concept, no column ``split``, or a split has no items.

        Notes
        -----
        A concept with no positive in ``cal`` has no threshold; one with none in ``test`` has NaN where positives are
        needed. ``detection.skipped`` names both.

        Memory: the labels, about 20 bytes per sample, 16 bytes per feature, and a few hundred MB for a block of lists.
        """
        from saestore.detection.embeddings import EmbeddingReader
        from saestore.detection.inputs import about, inputs_of
        from saestore.detection.prune import MIN_P99_PERCENTILE, PruningRules
        from saestore.detection.run import Options, detect
        from saestore.scoring.quantile_thresholds import SHARES

        weakest = MIN_P99_PERCENTILE if min_p99_percentile is None else min_p99_percentile
        options = Options(
            p=SHARES if p is None else p,
            cuts=PruningRules(min_active, max_fraction, weakest),
            n=n,
            combine=combine,
            probe=probe,
            localise=localise,
            baselines=baselines or embeddings is not None,
            confidence_level=confidence_level,
            n_resamples=n_resamples,
            seed=seed,
        )
        if cls_embeddings is not None and level != "item":
            message = "cls_embeddings= belong to items, not to samples; use level='item'."
            raise InvalidInputError(message, code="wrong-level")
        inputs = inputs_of(self, level, concepts, score)
        source = self.attributes.source
        return detect(
            inputs,
            options,
            about(self),
            lambda: EmbeddingReader(embeddings, source, self.shape[0], self.path),
            None
            if cls_embeddings is None
            else lambda: EmbeddingReader(cls_embeddings, {}, self.n_items, self.path, "items"),
        )

    @retry_on_stale_snapshot
    def diagnose(self, embeddings: Any = None, sae: Any = None, *, n_rows: int = 2048, seed: int = 0) -> Fidelity:
        """Look for signs of a wrong layer, a missing normalisation, or BOS rows among the samples.

        Parameters
        ----------
        embeddings
            The encoded embeddings, in any form that `build` takes; by default from the recorded place.
        sae
            The SAE; by default the recorded one.
        n_rows
            Samples that are decoded and compared with their embeddings.
        seed
            Chooses the samples: 64 runs of consecutive ones, spread over the set.

        Returns
        -------
        Fidelity
            With ``findings``, empty where all is as expected. ``left_out`` names checks that were not possible without
            the embeddings, the SAE or torch; explained variance is then taken from the build's first batch.

        Raises
        ------
        SaestoreError
            `embeddings` or `sae` were given, and cannot be read or do not belong to this set.

        Notes
        -----
        Every activation is read once. Memory: about 80 MB and 60 bytes per feature for any number of samples; with
        embeddings also the SAE, 128 MiB of pre-activations and ``n_rows`` embeddings eight times.
        """
        from saestore.diagnostics.measure import measure

        return measure(self, self.segments, embeddings, sae, n_rows=n_rows, seed=seed)

    def to_xarray(self, chunks: Any = None, *, max_bytes: int = DENSE_LIMIT) -> xarray.Dataset:
        """A lazy Dataset: ``activation(sample, feature)`` as if it were dense, labels, statistics, provenance.

        Coordinates along ``sample`` are ``item``, ``position``, ``row`` and ``col`` in a square grid of patches,
        ``token``, its text, ``key`` and ``split`` of the item, and a boolean for every concept; variables on
        ``feature`` are the statistics. The accessor ``.sae`` asks the store about the samples and features selected.

        Parameters
        ----------
        chunks
            As in `xarray.open_dataset`; ``{}`` gives dask arrays whose chunks follow the segments.
        max_bytes
            The largest dense array that is made at once; a larger one raises `TooLargeError`.

        Raises
        ------
        MissingDependencyError
            `chunks` is given and dask is not installed.

        Notes
        -----
        Opening reads no activation and nothing per sample. A slice reads the lists of its features or the rows of its
        samples, the smaller of both.
        """
        from saestore.interop.dataset import open_set

        return open_set(self, chunks, max_bytes)

    def torch(self, samples: Any = None, features: Any = None, *, max_bytes: int = DENSE_LIMIT) -> torch.Tensor:
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
        """Batches of rows with their sample numbers, for ``torch.utils.data.DataLoader(…, batch_size=None)``.

        Parameters
        ----------
        batch_size
            Rows per batch; the last batch of an epoch may be shorter.
        samples, features
            Only these samples and features.
        shuffle
            Blocks of `block_rows` consecutive rows come in a random order, and the rows of as many blocks as fit into
            `buffer_rows` are mixed. Every row comes once per epoch. ``set_epoch(n)`` gives each epoch another order.
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
            self,
            batch_size,
            samples,
            features,
            shuffle=shuffle,
            seed=seed,
            sparse=sparse,
            block_rows=block_rows,
            buffer_rows=buffer_rows,
        )

    def to_anndata(self, *, max_bytes: int = DENSE_LIMIT) -> anndata.AnnData:
        """An `anndata.AnnData`, samples x features: labels in ``obs``, statistics in ``var``, provenance in ``uns``.

        ``X`` is backed by the stored matrix where the set is one segment, as it is after a build: slices are read when
        they are taken, and ``adata.to_memory()`` reads all. With several segments, and with float16, which scipy does
        not have, ``X`` is read into memory.

        Raises
        ------
        TooLargeError
            ``X`` has to be read and holds more than `max_bytes` (4 GiB) of ids and activations.
        MissingDependencyError
            anndata is not installed.

        Notes
        -----
        Memory: ``obs``, about 40 bytes per sample and one per concept.
        """
        from saestore.formats.anndata import to_anndata

        return to_anndata(self, max_bytes)

    def decode(self, samples: Any = None, sae: Any = None, *, max_bytes: int = DENSE_LIMIT) -> Array:
        """Embeddings as the SAE reconstructs them from the stored activations.

        Parameters
        ----------
        sae
            The SAE that the set was made with, in any form that `build` takes; by default the recorded one.

        Returns
        -------
        ndarray
            float32, or float64 for a float64 SAE, (n, d_in); an int as `samples` drops the first axis. Activations that
            were dropped when the set was built are missing from it.

        Raises
        ------
        InvalidInputError
            The SAE is another one, or scales each embedding by its own norm, which is not stored.
        TooLargeError
            The answer would be larger than `max_bytes` (4 GiB); nothing was read.
        MissingDependencyError
            torch, or sae_lens where the SAE is of its format, is not installed.

        Notes
        -----
        Memory: the SAE, the answer, and a batch of about half a million non-zeros.
        """
        from saestore.interop.optional import require

        require("torch", "sae", "decode()")
        from saestore.interop.decoding import decode

        return decode(self, samples, sae, max_bytes)
