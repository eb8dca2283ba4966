"""Parquet in long form: a row for every activation; written only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from saestore.formats.base import Format, Written
from saestore.formats.selection import Selected
from saestore.interop.optional import require


def write_parquet(selected: Selected, path: Path) -> Written:
    """Write the columns sample, feature, activation, item and position, by ascending sample and feature.

    Samples without an active feature have no row; the file's metadata has the number of samples and features, under
    ``saestore``.

    Notes
    -----
    Memory: a block.
    """
    arrow = require("pyarrow", "arrow", f"writing {path.name}")
    parquet = require("pyarrow.parquet", "arrow", f"writing {path.name}")
    acts = selected.acts
    about = {
        "path": acts.path,
        "n_samples": selected.n_samples,
        "n_features": acts.shape[1],
        "sae": dict(acts.attributes.sae),
        "source": dict(acts.attributes.source),
    }
    schema = arrow.schema(
        [
            ("sample", arrow.int64()),
            ("feature", arrow.int32()),
            ("activation", arrow.from_numpy_dtype(selected.dtype)),
            ("item", arrow.int64()),
            ("position", arrow.int32()),
        ],
        metadata={"saestore": json.dumps(about)},
    )
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in selected.blocks():
            items, positions = acts.item_index.locate(block.samples)
            rows = block.entry_rows
            columns = [block.samples[rows], block.indices.astype(np.int32), block.data, items[rows]]
            writer.write_table(arrow.table([*columns, positions[rows].astype(np.int32)], schema=schema))
    return Written((path.name,))


FORMATS = (Format("parquet", write=write_parquet),)
