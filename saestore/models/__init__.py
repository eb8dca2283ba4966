"""Embeddings from a model: images or texts through a transformer of transformers, to rows of the hidden state."""

from saestore.models.opening import open_model_source
from saestore.models.request import ModelInputs, ModelRequest
from saestore.models.source import ModelSource
from saestore.models.training_spec import SAETrainingSpec

__all__ = ["ModelInputs", "ModelRequest", "ModelSource", "SAETrainingSpec", "open_model_source"]
