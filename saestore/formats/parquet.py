"""Parquet in long form: a row for every activation, with columns of items and samples joined; written only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saestore.errors import NotFoundError, did_you_mean, require
from saestore.formats.base import Format
from saestore.formats.selection import Selected
from saestore.sparse_rows import Array
from saestore.tables.column import Column
from saestore.tables.label_matrix import listed
from saestore.vocabulary import LEVELS

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


def write_parquet(selected: Selected, path: Path, columns: Sequence[str] | str = ()) -> None:
    """Write the columns sample, feature, activation, item and position, by ascending sample and feature.

    Samples without an active feature have no row; the file's metadata has their number. Memory: a block, and the joined
    columns.
    """
    arrow = require("pyarrow", "arrow", f"writing {path.name}")
    parquet = require("pyarrow.parquet", "arrow", f"writing {path.name}")
    acts = selected.acts
    joined = {name: _joined(acts, name) for name in _names(acts, columns)}
    about = {
        "path": acts.path,
        "n_samples": selected.n_samples,
        "n_features": acts.shape[1],
        "sae": dict(acts.attributes.sae),
        "source": dict(acts.attributes.source),
    }
    types = {"sample": np.int64, "feature": np.int32, "activation": selected.dtype, "item": np.int64}
    fields = [(name, arrow.from_numpy_dtype(dtype)) for name, dtype in {**types, "position": np.int32}.items()]
    for name, values in joined.items():
        dtype = values(selected.sample_ids[:0]).values.dtype
        fields.append((name, arrow.string() if dtype.kind == "T" else arrow.from_numpy_dtype(dtype)))
    schema = arrow.schema(fields, metadata={"saestore": json.dumps(about)})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in selected.blocks():
            items, positions = acts.item_index.locate(block.samples)
            rows = block.rows()
            arrays = [block.samples[rows], block.indices.astype(np.int32), block.data, items[rows]]
            arrays.append(positions[rows].astype(np.int32))
            for values in joined.values():
                column = values(block.samples).at(rows)
                plain = column.values.astype(object) if column.values.dtype.kind == "T" else column.values
                arrays.append(arrow.array(plain, mask=None if column.known is None else ~column.known))
            writer.write_table(arrow.table(arrays, schema=schema))


def _names(acts: SetReader, columns: Sequence[str] | str) -> list[str]:
    if columns != "all":
        return list(columns.split(",") if isinstance(columns, str) and columns else columns)
    of_items, of_samples = (acts.table(name).info.names for name in ("items", "samples"))
    return [*of_items, *(f"sample.{name}" if name in of_items else name for name in of_samples)]


def _joined(acts: SetReader, name: str) -> Callable[[Array], Column]:
    """The values of a column or concept for samples."""
    level, dot, rest = name.partition(".")
    places = [(table, name) for table in ("items", "samples")]
    places += [(f"{level}s", rest)] if dot and level in LEVELS else []
    for table, column in places:
        if column in acts.table(table).info.names:
            values = acts.read_column(table, column)
            if table == "samples":
                return values.at
            return lambda samples: values.at(acts.item_index.locate(samples)[0])
    known = _names(acts, "all")
    raise NotFoundError(
        f"{acts.path} has no column {name!r} to join. {did_you_mean(name, known)}There are {listed(known)}.",
        code="unknown-column",
    )


FORMATS = (Format("parquet", write=write_parquet, options=("columns",)),)
