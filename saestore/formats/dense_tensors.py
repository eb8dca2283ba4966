"""Dense activations in files that embeddings may be in, whose non-zeros are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, require
from saestore.files import LIBRARY_DAMAGE, damage, load_tensors, read_parquet, split_member
from saestore.formats.base import Format, Opened, Source, as_floats, nonzeros, stored_dtype
from saestore.formats.in_memory import in_file, open_object
from saestore.formats.named_arrays import KNOWN, is_named, only_matrix
from saestore.sparse_rows import SparseRows

if TYPE_CHECKING:
    from saestore.embeddings.base import EmbeddingSource

_BYTES = 32 << 20  # of a dense block: at 65,536 features 128 rows


def is_dense(path: Path) -> bool:
    """Whether a path can only be dense; any other ``.pt`` or ``.safetensors`` is tried after all other formats."""
    if path.suffix == ".safetensors" and path.is_file():
        tensors = load_tensors(path)
        return not is_named(tensors) and all(tensor.is_floating_point() for tensor in tensors.values())
    return path.suffix in (".npy", ".npz", ".h5", ".hdf5", ".parquet") or any(
        (path / name).is_file()
        for name in (("zarr.json", ".zgroup", ".zarray", "dataset_info.json", "dataset_dict.json"))
    )


def open_dense(name: str, rows: EmbeddingSource, files: tuple[Path, ...]) -> Opened:
    """Activations of the format `name` from dense rows, opened like embeddings."""
    dtype = stored_dtype(np.dtype("float32" if rows.dtype == "bfloat16" else rows.dtype), rows.path)

    def read(start: int, stop: int) -> SparseRows:
        block: Any = rows.read(start, stop)
        return nonzeros(as_floats((block.float() if rows.dtype == "bfloat16" else block).numpy(), dtype, rows.path))

    step = max(1, _BYTES // (4 * rows.d_in))
    facts: Any = {"item_ptr": rows.item_size, "digest": None if files else rows.fingerprint()}
    facts["source"] = {"layout": f"dense {rows.layout}"}
    return Opened(name, rows.path, files, rows.n_rows, rows.d_in, dtype, read, step, **facts)


def open_embedded(given: Any, source: Source, files: tuple[Path, ...] = ()) -> Opened:
    """Dense activations in anything that embeddings may be in."""
    from saestore.embeddings.base import DTYPES, WHOLE
    from saestore.embeddings.opening import open_embeddings

    return open_dense("dense", open_embeddings(given, others=source.others, dtypes=(*DTYPES, *WHOLE)), files)


def _open(source: Source) -> Opened:
    path, name = split_member(source.path)
    require("torch", "sae", f"reading {path}")
    given: Any = None
    if path.suffix in (".pt", ".safetensors"):
        tensors = load_tensors(path, sparse=True)
        chosen = _the_one(tensors, str(path), source.others) if name is None else name
        given = tensors[chosen] if "sparse" in str(getattr(tensors.get(chosen), "layout", "")) else None
    elif path.suffix == ".parquet" and name is None and path.is_file():
        given = _table(path)
    elif (path / "dataset_info.json").is_file():
        with damage(path, "is damaged", *LIBRARY_DAMAGE):
            given = require("datasets", "sae", f"reading {path}").load_from_disk(str(path))
    return open_embedded(source.path, source, (path,)) if given is None else in_file(open_object(given, source), path)


def _the_one(tensors: Mapping[str, Any], where: str, others: Sequence[str]) -> str:
    """The name of the tensor that can be activations."""
    name = only_matrix(tensors, where, others)
    if name is None and not {"embeddings", "normalized_embeddings"} & set(tensors):
        names = ", ".join(sorted(filter(None, tensors))) or f"a {type(tensors.get('')).__name__}"
        raise InvalidInputError(
            f"{where} holds {names}; activations are a tensor of rows by features or of items by rows by features, or "
            f"sparse: {KNOWN}.",
            code="no-activations",
        )
    return name or ""  # which of several, embeddings know


def _table(path: Path) -> Any:
    """The columns of a sparse matrix, with the shape that an export records; None for other tables."""
    parquet = require("pyarrow.parquet", "arrow", f"reading {path}")
    with damage(path, "is damaged or not a Parquet file", *LIBRARY_DAMAGE):
        schema = parquet.read_schema(path)
        if not is_named(schema.names):
            return None
        table = read_parquet(path)
        about = json.loads((schema.metadata or {}).get(b"saestore", b"{}"))
        shape = {"shape": [about["n_samples"], about["n_features"]]} if about else {}
    return {name: table[name] for name in table.column_names} | shape


FORMATS = (Format("dense", is_dense, _open),)
