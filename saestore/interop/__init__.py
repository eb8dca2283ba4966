"""What other libraries see of a store: an xarray engine, torch batches, AnnData, and embeddings decoded again.

Importing any of it registers the accessor ``.sae`` of `xarray.Dataset`.
"""

from saestore.interop import accessor

__all__ = ["accessor"]
