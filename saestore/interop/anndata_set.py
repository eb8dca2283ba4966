"""An activation set as AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from saestore.format import BY_SAMPLE
from saestore.interop.columns import OF_ITEMS, Columns
from saestore.interop.dataset import attributes_of
from saestore.interop.optional import require

if TYPE_CHECKING:
    import anndata

    from saestore.activations import ActivationSet

Array = np.ndarray[Any, Any]


def to_anndata(acts: ActivationSet, max_bytes: int) -> anndata.AnnData:
    """See `ActivationSet.to_anndata`."""
    package = require("anndata", "anndata", "to_anndata()")
    adata = package.AnnData(X=_matrix(acts, max_bytes), obs=_samples(acts), var=_features(acts))
    adata.uns["saestore"] = attributes_of(acts)
    return adata


def _matrix(acts: ActivationSet, max_bytes: int) -> Any:
    """The stored matrix itself where one segment holds all of it, in a dtype that scipy has; else what is read."""
    segments = acts.attributes.segments
    if len(segments) != 1 or acts.dtype == np.float16:
        return acts.sparse(max_bytes=max_bytes)
    anndata_io = require("anndata.io", "anndata", "to_anndata()")
    return anndata_io.sparse_dataset(acts.group[f"segments/{segments[0].name}/{BY_SAMPLE}"])


def _samples(acts: ActivationSet) -> pd.DataFrame:
    samples = np.arange(acts.shape[0])
    found = {
        name: _of_items(acts, name, samples) if name in OF_ITEMS else column.at(samples)
        for name, column in Columns(acts).by_name.items()
    }
    return pd.DataFrame(found, index=samples.astype(str))


def _of_items(acts: ActivationSet, name: str, samples: Array) -> pd.Categorical:
    """A column of texts that samples share: each text once, and a number for every sample."""
    texts, codes = np.unique(acts.items.column(name), return_inverse=True)
    items = acts.item_index.locate(samples)[0]
    return pd.Categorical.from_codes(codes[items], categories=texts.astype(object))


def _features(acts: ActivationSet) -> pd.DataFrame:
    table = acts.stats().to_dataframe()
    return table.set_index(table.index.astype(str))
