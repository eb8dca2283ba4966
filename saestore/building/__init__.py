"""From embeddings to an activation set, in a pipeline that can be killed anywhere and resumes."""

from saestore.building.api import build

__all__ = ["build"]
