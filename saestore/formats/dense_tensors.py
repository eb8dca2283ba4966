"""Dense activations in files that embeddings may be in, whose non-zeros are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, require
from saestore.files import load_tensors, split_member
from saestore.formats.base import Format, Opened, Source, nonzeros
from saestore.formats.in_memory import open_object
from saestore.formats.named_arrays import KNOWN, is_named
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
        (path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")
    )


def open_dense(name: str, rows: EmbeddingSource, files: tuple[Path, ...]) -> Opened:
    """Activations of the format `name` from dense rows, opened like embeddings."""

    def read(start: int, stop: int) -> SparseRows:
        block: Any = rows.read(start, stop)
        return nonzeros((block.float() if rows.dtype == "bfloat16" else block).numpy())

    return Opened(
        name,
        rows.path,
        files,
        rows.n_rows,
        rows.d_in,
        "float32" if rows.dtype == "bfloat16" else rows.dtype,
        read,
        max(1, _BYTES // (4 * rows.d_in)),
        item_ptr=rows.item_size,
        digest=None if files else rows.fingerprint(),
        source={"layout": f"dense {rows.layout}"},
    )


def _open(source: Source) -> Opened:
    path = source.path
    require("torch", "sae", f"reading {path}")
    if path.suffix in (".pt", ".safetensors"):
        tensors = load_tensors(path)
        if "sparse" in str(getattr(tensors.get(""), "layout", "")):
            return replace(open_object(tensors[""], source), path=str(path), files=(path,), digest=None)
        rows = [name for name, tensor in tensors.items() if getattr(tensor, "ndim", 0) in (2, 3)]
        if not rows or (len(rows) > 1 and not {"embeddings", "normalized_embeddings"} & set(rows)):
            names = ", ".join(sorted(filter(None, tensors))) or "no tensor"
            raise InvalidInputError(
                f"{path} holds {names}; activations are a tensor of rows by features or of items by rows by "
                f"features, or sparse: {KNOWN}.",
                code="no-activations",
            )
    from saestore.embeddings.opening import open_embeddings

    return open_dense("dense", open_embeddings(path, others=source.others), (split_member(path)[0],))


FORMATS = (Format("dense", is_dense, _open),)
