"""Embeddings from a model: images or texts through a transformer of transformers, to rows of the hidden state."""

from saestore.models.opening import ModelRequest, open_model_source
from saestore.models.source import ModelSource

__all__ = ["ModelRequest", "ModelSource", "open_model_source"]
