"""Which arrays a segment has: their lengths, dtypes and chunks follow from the set's attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.format import BY_FEATURE, BY_SAMPLE, SegmentInfo, SetAttributes, feature_dtype
from saestore.stats import Moments
from saestore.storage import NewArray

# Rows are asked for one by one, lists by what lies at their head. A quarter of a chunk holds 128 rows of 32, decodes
# in a quarter of the time, and takes 0.01 to 0.02 bytes a non-zero more. See docs/decisions/012-bytes-a-non-zero.md.
FINER_ROWS = 4


@dataclass(frozen=True)
class SegmentShape:
    """What a segment holds: samples ``start`` to ``stop``, ``nnz`` non-zeros of `dtype`."""

    start: int
    stop: int
    nnz: int
    n_features: int
    dtype: np.dtype[Any]

    @property
    def n_rows(self) -> int:
        """Number of samples."""
        return self.stop - self.start


def arrays_of(info: SegmentInfo, attributes: SetAttributes) -> dict[str, NewArray]:
    """The arrays of a committed segment, by their path in its group."""
    shape = SegmentShape(info.start, info.stop, info.nnz, attributes.n_features, np.dtype(attributes.dtype))
    return segment_arrays(shape, attributes.codec)


def segment_arrays(shape: SegmentShape, codec: str) -> dict[str, NewArray]:
    """The arrays of a segment, by their path in its group."""
    pointer, n_features, nnz = np.dtype(np.int64), shape.n_features, shape.nnz
    arrays = {
        f"{BY_SAMPLE}/indptr": NewArray(shape.n_rows + 1, pointer, "pointer", codec, finer=FINER_ROWS),
        f"{BY_SAMPLE}/indices": NewArray(nnz, feature_dtype(n_features), "nonzero", codec, finer=FINER_ROWS),
        f"{BY_SAMPLE}/data": NewArray(nnz, shape.dtype, "nonzero", codec, finer=FINER_ROWS),
        # The pointers of the features are read whole, once, with a set's first question: one chunk, one request.
        f"{BY_FEATURE}/indptr": NewArray(n_features + 1, pointer, "pointer", codec, sharded=False),
        f"{BY_FEATURE}/indices": NewArray(nnz, np.dtype(np.uint32), "nonzero", codec),
        f"{BY_FEATURE}/data": NewArray(nnz, shape.dtype, "nonzero", codec),
    }
    sums = Moments.zeros(0, 0, shape.dtype).arrays()
    return arrays | {name: NewArray(n_features, values.dtype, "feature", codec) for name, values in sums.items()}
