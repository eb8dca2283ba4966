"""From embeddings to an activation set, in a pipeline that can be killed anywhere and resumes."""

from saestore.errors import MissingDependencyError

try:
    from saestore.building.api import build
except ModuleNotFoundError as error:
    if error.name not in ("torch", "tqdm"):
        raise
    raise MissingDependencyError(f"building needs {error.name}: `pip install 'saestore[sae]'`.") from error

__all__ = ["build"]
