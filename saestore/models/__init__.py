"""Embeddings from a model: images or texts through a transformer of transformers, to rows of the hidden state."""

from saestore.models.source import ModelSource
from saestore.models.start import ModelRequest, open_model_source

__all__ = ["ModelRequest", "ModelSource", "open_model_source"]
