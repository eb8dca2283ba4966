"""Embeddings in: from every layout that people have to rows of a tensor, and where known data sets keep theirs."""

from saestore.sources.base import EmbeddingSource
from saestore.sources.datasets import DATASETS, Dataset, find_dataset, find_embeddings, find_items
from saestore.sources.opening import open_embeddings

__all__ = [
    "DATASETS",
    "Dataset",
    "EmbeddingSource",
    "find_dataset",
    "find_embeddings",
    "find_items",
    "open_embeddings",
]
