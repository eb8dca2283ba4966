"""What ids and activations must take if entries were independent of each other: a yardstick for sizes on disk."""

import numpy as np
import scipy.sparse as sp
from scipy.special import gammaln

RAW_BITS = 16  # of a float32's mantissa, taken as random; the 16 bits above it are counted


def bound(matrix: sp.csr_array) -> dict[str, float]:
    """Bits a non-zero of one order, of which ids and activations.

    Ids: which samples each feature is active on, when only their number is known. Activations: the empirical entropy of
    the upper half of their bits, and the lower half raw. Either order holds exactly this; that ids in rows cost little
    and in impact order much, activations the other way round, is one sum split otherwise. A codec that sees what
    samples share with their neighbours can be below.
    """
    n = matrix.shape[0]
    active = np.bincount(matrix.indices, minlength=matrix.shape[1])
    ways = gammaln(n + 1) - gammaln(active + 1) - gammaln(n - active + 1)
    upper = np.bincount(matrix.data.astype(np.float32).view(np.uint32) >> RAW_BITS)
    share = upper[upper > 0] / matrix.nnz
    ids = float(ways.sum() / np.log(2) / matrix.nnz)
    values = float(RAW_BITS - (share * np.log2(share)).sum())
    return {"ids_bits": ids, "values_bits": values, "bits": ids + values}
