"""Embeddings in: from every layout that people have to rows of a tensor, and where known data sets keep theirs."""

from saestore.sources.base import EmbeddingSource
from saestore.sources.datasets import DATASETS, Dataset, find_dataset, known_datasets
from saestore.sources.opening import open_embeddings
from saestore.sources.places import data_roots, find_embeddings, find_ground_truth, find_items, find_token_counts

__all__ = [
    "DATASETS",
    "Dataset",
    "EmbeddingSource",
    "data_roots",
    "find_dataset",
    "find_embeddings",
    "find_ground_truth",
    "find_items",
    "find_token_counts",
    "known_datasets",
    "open_embeddings",
]
