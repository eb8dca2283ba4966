"""Activation sets in other libraries: xarray Datasets, torch batches, and embeddings decoded by the SAE.

Importing any of it registers the accessor ``.sae`` of `xarray.Dataset`.
"""

from saestore.interop import accessor

__all__ = ["accessor"]
