"""Directions of features in the space of the embeddings: decoders, neighbours, logits, and what needs them."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]


def decoder_of(acts: SetReader, decoder: Any) -> Array:
    """The direction of every feature, float64 or float32 (n_features, d_in).

    Parameters
    ----------
    decoder
        A matrix, features x d_in; else the SAE of the set in any form that `saestore.build` takes.

    Raises
    ------
    InvalidInputError
        The matrix has another shape, or the SAE is not the one that the set was made with.
    MissingDependencyError
        torch is not installed, which an SAE needs.
    """
    shape = getattr(decoder, "shape", None)
    if shape is None or len(shape) != 2:
        from saestore.interop.optional import require

        require("torch", "sae", "the decoder of an SAE")
        from saestore.interop.decoding import sae_of
        from saestore.sae.forward import forward_of

        decode = forward_of(sae_of(acts, decoder).module).decode
        decoder = decode.weight if decode.scale is None else decode.weight * decode.scale[:, None]
    if hasattr(decoder, "detach"):
        decoder = decoder.detach().cpu().float().numpy()
    matrix = np.asarray(decoder)
    if matrix.ndim != 2 or len(matrix) != acts.shape[1] or matrix.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"the decoder is {matrix.dtype} {' x '.join(map(str, matrix.shape))}; {acts.path} needs one row of numbers "
            f"for each of its {acts.shape[1]:,} features.",
            code="wrong-decoder",
        )
    return matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float32)


def unit_rows(matrix: Array) -> Array:
    """Rows of length 1; a row of zeros stays."""
    wide = matrix.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Array = np.divide(wide, length, out=wide, where=length > 0)
    return unit


def neighbours(decoder: Array, feature: int, n: int) -> tuple[Array, Array]:
    """The features whose directions are most like one by cosine, without itself: ids and cosines, best first."""
    unit = unit_rows(decoder)
    cosine = unit @ unit[feature]
    cosine[feature] = -np.inf
    best = np.argsort(-cosine, kind="stable")[: min(n, len(cosine) - 1)]
    return best, cosine[best]


def logits(decoder: Array, feature: int, unembedding: Any, n: int) -> tuple[Array, Array, Array]:
    """The tokens whose logits a feature raises and lowers most: tokens and effects (2 n,), the highest first.

    Parameters
    ----------
    unembedding
        ``(matrix, tokens)``: d_in x vocabulary, and the text of each token.
    """
    matrix, tokens = unembedding
    matrix = np.asarray(matrix.detach().cpu().float().numpy() if hasattr(matrix, "detach") else matrix)
    if matrix.shape != (decoder.shape[1], len(tokens)):
        raise InvalidInputError(
            f"the unembedding is {' x '.join(map(str, matrix.shape))}; it needs d_in {decoder.shape[1]:,} x "
            f"{len(tokens):,} tokens.",
            code="wrong-unembedding",
        )
    effects = decoder[feature].astype(np.float64) @ matrix
    order = np.argsort(-effects, kind="stable")
    n = min(n, len(order) // 2)
    order = np.append(order[:n], order[len(order) - n :])
    return np.array(tokens, object)[order], effects[order], order
