"""Dense tensors of activations, rows by features: read in slices, only the non-zeros kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, MissingDependencyError
from saestore.formats.base import Opened, Rows, nonzeros
from saestore.formats.chunked import find_files
from saestore.formats.issues import Issue

if TYPE_CHECKING:
    from saestore.embeddings.base import EmbeddingSource

_BYTES = 32 << 20  # of a dense block: at 65,536 features 128 rows


def open_dense(path: Path) -> Opened:
    """Open dense activations: ``.pt`` alone or in chunks, ``.npy``, ``.safetensors``, a zarr array.

    Raises
    ------
    NotFoundError, InvalidInputError
        Nothing is there; it is damaged, or of another shape or dtype.
    """
    try:
        import torch  # noqa: F401  (what follows imports it; here it is told apart from other errors)
    except ImportError as error:
        raise MissingDependencyError(f"reading {path} needs torch; pip install 'saestore[sae]'") from error
    source, files, faults = _source(path)
    return Opened(
        "superactivators-dense",
        str(path),
        files,
        source.n_rows,
        source.d_in,
        "float32" if source.dtype == "bfloat16" else source.dtype,
        partial(_read, source),
        max(1, _BYTES // (4 * source.d_in)),
        faults=faults,
        source={"layout": f"dense {source.layout}"},
    )


def _source(path: Path) -> tuple[EmbeddingSource, tuple[Path, ...], tuple[Issue, ...]]:
    from saestore.embeddings.opening import open_embeddings

    if path.suffix in (".npy", ".safetensors") or path.is_dir():
        return open_embeddings(path), (path,), ()
    files = find_files(path)
    if not files.info:
        return open_embeddings(files.paths[0]), files.paths, files.faults
    # Not the list reader of the embeddings: that one believes start_idx and end_idx.
    from saestore.embeddings.base import Part, PartedSource, checked
    from saestore.embeddings.layouts import open_pt

    tables = [checked(open_pt(file), str(file)) for file in files.paths]
    rows = [table.shape[0] for table in tables]
    files.check_rows(rows)
    kinds = {(table.shape[1], table.dtype) for table in tables}
    if len(kinds) > 1:
        raise InvalidInputError(f"the chunks of {files.base} differ in width or dtype: {sorted(kinds)}.")
    starts = np.concatenate([[0], np.cumsum(rows)]).tolist()
    parts = [
        Part(start, start + n, partial(open_pt, file))
        for start, n, file in zip(starts[:-1], rows, files.paths, strict=True)
    ]
    ((width, dtype),) = kinds
    return PartedSource(str(path), "pt chunks", width, dtype, parts), files.paths, files.faults


def _read(source: EmbeddingSource, start: int, stop: int) -> Rows:
    block: Any = source.read(start, stop)
    values = (block.float() if source.dtype == "bfloat16" else block).numpy()
    return nonzeros(values)
