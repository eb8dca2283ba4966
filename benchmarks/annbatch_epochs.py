"""Epochs of annbatch, by the Python of its own environment: `python annbatch_epochs.py FOLDER BATCH CHUNK N_CHUNKS`.

Writes `matrix.npz` of the folder as a collection of annbatch, with its defaults but in the order of the rows, and says
so in a line. Then it runs an epoch for each line of standard input, ``in order`` or ``shuffled``, and prints how many
seconds it took, and how many rows and non-zeros came. It imports nothing of saestore.
"""

import contextlib
import json
import sys
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp
import zarr
from annbatch import DatasetCollection, Loader

warnings.simplefilter("ignore")
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})  # as its manual says of local folders


def rows_only(group: zarr.Group) -> anndata.AnnData:
    """The matrix, and no table of the rows."""
    return anndata.AnnData(X=anndata.io.sparse_dataset(group["X"]))


def main(folder: Path, batch: int, chunk: int, n_chunks: int) -> None:
    """Write, then answer."""
    with contextlib.redirect_stdout(sys.stderr):
        matrix = sp.csr_matrix(sp.load_npz(folder / "matrix.npz"))
        anndata.AnnData(X=matrix).write_zarr(folder / "anndata.zarr")
        collection = DatasetCollection(folder / "annbatch.zarr")
        collection.add_adatas([folder / "anndata.zarr"], shuffle=False)
    print(json.dumps({"rows": matrix.shape[0], "nnz": int(matrix.nnz)}), flush=True)
    del matrix
    for epoch, line in enumerate(sys.stdin):
        started = time.perf_counter()
        options = {"batch_size": batch, "chunk_size": chunk, "preload_nchunks": n_chunks, "return_index": True}
        loader = Loader(shuffle=line.strip() == "shuffled", rng=np.random.default_rng(epoch), **options)
        parts, nnz = [], 0
        for each in loader.use_collection(collection, load_adata=rows_only):
            parts.append(each["index"])
            nnz += each["X"].nnz
        seconds = time.perf_counter() - started
        came = np.array_equal(np.sort(np.concatenate(parts)), np.arange(sum(map(len, parts))))
        print(json.dumps({"seconds": seconds, "rows": sum(map(len, parts)) if came else 0, "nnz": nnz}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
