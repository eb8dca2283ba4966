"""The facade of one activation set: every question, its concepts, pictures, and doors to other libraries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.analysis.card import card
from saestore.analysis.contrast import diff, select_features
from saestore.analysis.directions import cloud, monosemanticity
from saestore.analysis.examples import examples
from saestore.analysis.explaining import FeatureTable, explanation_sets
from saestore.analysis.pairs import families, match
from saestore.analysis.probing import attribute, probe
from saestore.analysis.search import search
from saestore.concepts_namespace import Concepts
from saestore.detection.grid import detection_grid
from saestore.detection.run import detect
from saestore.diagnostics.measure import diagnose
from saestore.errors import require
from saestore.query import html
from saestore.query.reader import SetReader
from saestore.query.slices import DENSE_LIMIT
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    import anndata
    import torch
    import xarray

    from saestore.interop.torch_data import Batches
    from saestore.plot import Plots


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
    def features(self) -> FeatureTable:
        """The table of the features: names, notes, explanations and their scores, and statistics."""
        return FeatureTable(self)

    @property
    def plot(self) -> Plots:
        """Pictures: `histogram`, `density`, `top` (images) and `tokens` (texts)."""
        from saestore.plot import Plots

        return Plots(self)

    # Analyses take a set as their first argument, and document themselves.
    examples = examples
    """Examples of features: [`examples`][saestore.analysis.examples.examples]."""
    explanation_sets = explanation_sets
    """Sets for language models: [`explanation_sets`][saestore.analysis.explaining.explanation_sets]."""
    card = card
    """A page about a feature: [`card`][saestore.analysis.card.card]."""
    diff = diff
    """Features that differ between two groups: [`diff`][saestore.analysis.contrast.diff]."""
    select = select_features
    """Features that go with a target: [`select_features`][saestore.analysis.contrast.select_features]."""
    search = search
    """Samples with the largest weighted sum: [`search`][saestore.analysis.search.search]."""
    families = families
    """Features that are active together: [`families`][saestore.analysis.pairs.families]."""
    match = match
    """One-to-one matches with another set: [`match`][saestore.analysis.pairs.match]."""
    probe = probe
    """Sparse probes of a concept: [`probe`][saestore.analysis.probing.probe]."""
    attribute = attribute
    """Effects of features on a probe: [`attribute`][saestore.analysis.probing.attribute]."""
    monosemanticity = monosemanticity
    """How alike a feature's samples are: [`monosemanticity`][saestore.analysis.directions.monosemanticity]."""
    cloud = cloud
    """Components of what features add: [`cloud`][saestore.analysis.directions.cloud]."""
    detect = detect
    """Features and thresholds that detect concepts: [`detect`][saestore.detection.run.detect]."""
    detection_grid = detection_grid
    """Every threshold of every feature: [`detection_grid`][saestore.detection.grid.detection_grid]."""
    diagnose = diagnose
    """A set beside its SAE and its embeddings: [`diagnose`][saestore.diagnostics.measure.diagnose]."""

    def _repr_html_(self) -> str:
        return html.of_set(self.path, self.attributes)

    def import_explanations(
        self, path: str | os.PathLike[str], *, source: str | None = None, overwrite: bool = False
    ) -> list[str]:
        """Take explanations, names, scores and other columns from a file or folder; other values stay.

        Parameters
        ----------
        path
            Delphi's results folder (``explanations/`` and ``scores/``, whose balanced accuracy becomes
            ``detection_score``, ``fuzz_score``, …), Neuronpedia's explanation export (``.json``, ``.jsonl``, or a
            folder of ``batch-0.jsonl.gz`` and so on), or a ``.csv``, ``.json`` or ``.parquet`` table with a column
            ``feature``, ``item``, ``key`` or ``sample``.
        source
            The hookpoint or layer to take, where the file has several.
        overwrite
            Replace values that differ.

        Returns
        -------
        list of str
            Names of the columns.

        Raises
        ------
        InvalidInputError
            The explanations are of another SAE (``other-sae``), or the file cannot be read. Nothing was written.
        StoreConflictError
            A feature has another value already.
        """
        from saestore.formats.explanations import read_annotations

        annotations = read_annotations(self, path, source)
        getattr(self, annotations.table).annotate(annotations.columns, overwrite=overwrite)
        return list(annotations.columns)

    def export_explanations(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        features: Any = None,
        overwrite: bool = False,
    ) -> int:
        """Write the columns of the features, of those that have any, for another program.

        Parameters
        ----------
        format
            ``"json"``, ``"csv"`` or ``"parquet"``, all columns; ``"delphi"`` (a folder) or ``"neuronpedia"``, the
            explanations. By default from the suffix of `path`.
        features
            Only these features; also a condition.

        Returns
        -------
        int
            Number of features.
        """
        from saestore.formats.explanation_files import export_features

        return export_features(self, path, format, features, overwrite=overwrite)

    def explore(self, *, images: str | os.PathLike[str] | None = None) -> Any:
        """The explorer as a notebook widget: pages about this set and its store.

        Pages travel through the connection to the kernel: no port is opened, so it works on a cluster and on Colab.
        Where the store is open for writing, pages can change names, notes, explanations and labels.

        Parameters
        ----------
        images
            The folder that keys of images start in; by default where the set records it.

        Returns
        -------
        anywidget.AnyWidget
            A notebook shows it.

        Raises
        ------
        MissingDependencyError
            anywidget or jinja2 is not installed.
        """
        require("jinja2", "notebook", "explore()")
        from saestore.web.doors import widget

        return widget(self, None if images is None else Path(images))

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
        device: str | None = None,
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
        device
            Where the tensors are, such as ``"cuda"``: the next batch is on its way, from pinned memory, while one is
            used. Of a DataLoader with workers leave it None, and give that ``pin_memory=True``.

        Returns
        -------
        torch.utils.data.IterableDataset
            Of named tuples (values, samples). Workers take turns of `buffer_rows` rows each.

        Notes
        -----
        A thread reads the next `buffer_rows` rows while the rows before are handed out. ``item_entropy()`` reports how
        well items are mixed. Memory in each worker: the non-zeros of `buffer_rows` rows four times, a batch, up
        to 62 MiB that were freed, and 8 bytes for each of `samples` where they are given.
        """
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
            device=device,
        )

    def to_anndata(self, *, backed: bool = False, max_bytes: int = DENSE_LIMIT) -> anndata.AnnData:
        """An `anndata.AnnData`, samples x features: labels in ``obs``, statistics in ``var``, provenance in ``uns``.

        ``obs`` has the columns and concepts of items and samples. Texts are categories, and so are concepts, ``"true"``
        and ``"false"``, as ``scanpy.tl.rank_genes_groups`` takes them. ``X`` is a `scipy.sparse.csr_matrix`.

        Parameters
        ----------
        backed
            ``X`` is the stored matrix: slices are read when they are taken. scanpy ranks a slice, or all in memory:
            ``adata.to_memory()``.
        max_bytes
            Bound on ``X`` in memory.

        Raises
        ------
        TooLargeError
            ``X`` holds more than `max_bytes` (4 GiB) of ids and activations.
        InvalidInputError
            `backed`, and the set has several segments or is float16.
        MissingDependencyError
            anndata is not installed.

        Notes
        -----
        Memory: ``X``, and ``obs``: about 40 bytes per sample, and 4 to 8 per column and concept.
        """
        from saestore.formats.anndata_output import to_anndata

        return to_anndata(self, max_bytes, backed=backed)

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
        require("torch", "sae", "decode()")
        from saestore.interop.decoding import decode

        return decode(self, samples, sae, max_bytes)
