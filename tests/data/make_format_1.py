"""How `format-1.zarr` and `format-1.npz` were made, once, with saestore 0.1.0.

Never run by the tests: what is read there must stay what was written then.

    python tests/data/make_format_1.py
"""

from pathlib import Path

import numpy as np
import scipy.sparse as sp

import saestore
from saestore.format import SetAttributes
from saestore.sparse_rows import SparseRows
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import as_items
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

HERE = Path(__file__).parent


def main() -> None:
    """Write a store of two sets, one compacted and one of three segments, and the dense tensors that they hold."""
    rng = np.random.default_rng(1)
    dense = rng.choice(np.float32([0, 0, 0, -1.5, 0.25, 0.25, 2.0, 7.125]), (24, 10))
    dense[5] = 0
    dense[:, 3] = 0
    patches = {"image_path": [f"img/{i}.png" for i in range(6)], "split": ["train", "cal", "test"] * 2}
    patches["color::red"] = [1, 0, 0, 1, 1, 0]
    store = saestore.open(HERE / "format-1.zarr", mode="a")
    store.write("Toy/patch/compacted", sp.csr_array(dense), item_ptr=4, items=patches, segment_rows=7)

    wide = sp.csr_array(([1.0, 2.0, 2.0, 3.5], ([0, 1, 6, 6], [0, 65_536, 65_535, 65_536])), (8, 65_537), np.float32)
    ptr = np.array([0, 3, 3, 8])
    items = as_items({"text": ["one two three", "", "vier fünf 🙂 six seven"], "sarcasm": [0, 1, 1]})
    index = ItemIndex.of(ptr)
    attributes = SetAttributes(
        wide.shape[1], "float32", codec="blosc", n_items=index.n_items, item_size=index.item_size, planned_samples=12
    )
    starts = np.array([0, 4, 8, 0, 5, 10, 12, 16])
    stops = starts + np.array([3, 3, 5, 4, 4, 1, 3, 5])
    spans = np.stack([starts, stops], axis=1).astype(np.int32)
    with SetWriter(store.root, "Toy/token/growing") as writer:
        start_set(writer, attributes, items, index, spans)
        for a, b in ((0, 3), (3, 6), (6, 8)):
            part = wide[a:b]
            writer.append(SparseRows(part.indptr.astype(np.int64), part.indices.astype(np.uint32), part.data))
    np.savez_compressed(
        HERE / "format-1.npz", dense=dense, rows=wide.tocoo().row, columns=wide.tocoo().col, values=wide.data
    )


if __name__ == "__main__":
    main()
