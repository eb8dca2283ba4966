"""Features beside embeddings: decoder directions, neighbours and logits, monosemanticity, clouds of contributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.analysis.contrast import lists_over
from saestore.errors import InvalidInputError, check_at_least, require
from saestore.kernels import segment_sums
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import iterate_lists
from saestore.query.reader import SetReader
from saestore.query.rows import iterate_rows
from saestore.scoring.splits import samples_of

if TYPE_CHECKING:
    import xarray

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 19  # non-zeros of a block that is multiplied with embeddings
_ROUNDING = 1e-4  # of a cosine in float32, at most


def decoder_of(acts: SetReader, decoder: Any) -> Array:
    """The direction of every feature, float64 or float32 (n_features, d_in), of a matrix or of the SAE of the set."""
    shape = getattr(decoder, "shape", None)
    if shape is None or len(shape) != 2:
        require("torch", "sae", "the decoder of an SAE")
        from saestore.interop.decoding import sae_of
        from saestore.sae.forward import Decoder, forward_of

        decode = forward_of(sae_of(acts, decoder).module).decode
        if not isinstance(decode, Decoder):
            message = "this SAE has no matrix of directions; give one, features x d_in."
            raise InvalidInputError(message, code="cannot-decode")
        decoder = decode.weight if decode.scale is None else decode.weight * decode.scale[:, None]
    matrix = np.asarray(_as_numpy(decoder))
    if matrix.ndim != 2 or len(matrix) != acts.shape[1] or matrix.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"the decoder is {matrix.dtype} {' x '.join(map(str, matrix.shape))}; {acts.path} needs one row of numbers "
            f"for each of its {acts.shape[1]:,} features.",
            code="wrong-decoder",
        )
    if not np.isfinite(matrix).all():
        raise InvalidInputError("the decoder holds a value that is not finite; give finite numbers.", code="not-finite")
    return matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float32)


def numbers_of(values: Any, what: str) -> Array:
    """Finite float64 numbers, of numpy, torch or a list."""
    try:
        numbers = np.asarray(_as_numpy(values), np.float64)
    except (TypeError, ValueError, RuntimeError) as e:
        raise InvalidInputError(f"{what} holds what is not a number: {e}.", code="not-numbers") from e
    if not np.isfinite(numbers).all():
        raise InvalidInputError(f"{what} holds a number that is not finite; give finite numbers.", code="not-finite")
    return numbers


def _as_numpy(values: Any) -> Any:
    return values.detach().cpu().float().numpy() if hasattr(values, "detach") else values


def unit_rows(matrix: Array) -> Array:
    """Rows of length 1; a row of zeros stays."""
    wide = matrix.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Array = np.divide(wide, length, out=wide, where=length > 0)
    return unit


def neighbours(decoder: Array, feature: int, n: int) -> tuple[Array, Array]:
    """The features whose directions are most like one by cosine, without itself: ids and cosines, best first."""
    n = min(n, len(decoder) - 1)
    rough = decoder @ decoder[feature]
    length = np.sqrt(np.einsum("ij,ij->i", decoder, decoder))
    rough = np.divide(rough, length * length[feature], out=np.zeros_like(rough), where=length * length[feature] > 0)
    rough[feature] = -np.inf
    # What rounding to float32 could have put behind the n-th, too; then exactly.
    if not n:
        return np.empty(0, np.int64), np.empty(0)
    close = np.flatnonzero(rough >= np.partition(rough, len(rough) - n)[len(rough) - n] - _ROUNDING)
    cosine = unit_rows(decoder[close]) @ unit_rows(decoder[[feature]])[0]
    best = np.argsort(-cosine, kind="stable")[:n]
    return close[best], cosine[best]


def logits(decoder: Array, feature: int, unembedding: Any, n: int) -> tuple[Array, Array, Array]:
    """The tokens whose logits a feature raises and lowers most: tokens, effects and ids (2 n,), highest first.

    `unembedding` is a matrix, d_in x vocabulary, and the text of each token.
    """
    matrix, tokens = unembedding
    matrix = np.asarray(_as_numpy(matrix))
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


@retry_on_stale_snapshot
def monosemanticity(acts: SetReader, embeddings: Any, *, where: Any = None) -> xarray.DataArray:
    """How alike the samples are on which each feature fires, weighted by its activations (Pach et al. 2025).

    ``sum over i < j of a_i a_j cos(e_i, e_j) / sum over i < j of a_i a_j``, where a is the activation as a share of the
    feature's maximum, and e are embeddings of another model; negative activations count as 0, and so does the cosine
    of an embedding of zeros.

    Parameters
    ----------
    embeddings
        One row per sample, or one per item, whose activation is the maximum over its samples: an array, or anything
        that `saestore.build` takes as embeddings.
    where
        Only samples that fulfil this condition.

    Returns
    -------
    xarray.DataArray
        On ``feature``, float64, from -1 to 1; NaN where fewer than two samples are active.

    Raises
    ------
    InvalidInputError
        There is one row neither per sample nor per item, or a row is not finite.

    Notes
    -----
    Computed as ``(|sum a_i e_i|^2 - sum a_i^2) / ((sum a_i)^2 - sum a_i^2)`` for unit e, in one pass: non-zeros times d
    products (``loss.py`` of MonoLoss). Memory: 8 d bytes per feature, and a block of 32,768 embeddings; with one row
    per item, all embeddings of the items.
    """
    import scipy.sparse as sp
    import xarray as xr

    read, n_rows, width = _embedding_rows(embeddings)
    n_samples, n_features = acts.shape
    if n_rows not in (n_samples, acts.n_items):
        raise InvalidInputError(
            f"there are {n_rows:,} embeddings; {acts.path} needs one for each of its {n_samples:,} samples or of its "
            f"{acts.n_items:,} items.",
            code="wrong-row-count",
        )
    largest = acts.stats()["max"].to_numpy()
    scale = np.divide(1.0, largest, out=np.zeros(n_features), where=largest > 0)
    vectors, (total, squares, own) = np.zeros((n_features, width)), np.zeros((3, n_features))
    used = samples_of(acts, where)
    if n_rows == n_samples:
        for rows, block in iterate_rows(acts.segments, np.flatnonzero(used), _BLOCK):
            a = np.maximum(block.data, 0) * scale[block.indices]
            matrix = sp.csr_array((a, block.indices.astype(np.int64), block.indptr), shape=(len(rows), n_features))
            unit = _unit(read(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]])
            vectors += matrix.T @ unit
            own += matrix.power(2).T @ unit.any(axis=1)
            total += np.bincount(block.indices, a, n_features)
            squares += np.bincount(block.indices, a**2, n_features)
    else:
        unit = _unit(read(0, n_rows))
        for lists in lists_over(acts, np.arange(n_features), "item", used):
            a = np.maximum(lists.data, 0) * scale[lists.feature_of_entry]
            matrix = sp.csr_array((a, lists.samples, lists.indptr), shape=(len(lists.features), n_rows))
            vectors[lists.features] = matrix @ unit
            own[lists.features] = matrix.power(2) @ unit.any(axis=1)
            total[lists.features] = segment_sums(a, lists.indptr)
            squares[lists.features] = segment_sums(a**2, lists.indptr)
    pairs = total**2 - squares
    alike = np.einsum("ij,ij->i", vectors, vectors) - own
    scores = np.divide(alike, pairs, out=np.full(n_features, np.nan), where=pairs > 1e-12 * total**2)
    return xr.DataArray(scores, dims="feature", coords={"feature": np.arange(n_features)}, name="monosemanticity")


def _embedding_rows(embeddings: Any) -> tuple[Any, int, int]:
    """A function that reads rows as numpy, and the shape."""
    if isinstance(embeddings, np.ndarray):
        if embeddings.ndim != 2 or not embeddings.shape[1] or embeddings.dtype.kind not in "fiu":
            message = f"the embeddings are {embeddings.dtype} {embeddings.shape}; give numbers, rows x width."
            raise InvalidInputError(message, code="bad-shape")
        return (lambda start, stop: embeddings[start:stop]), *embeddings.shape
    require("torch", "sae", "monosemanticity() of embeddings that are not a numpy array")
    from saestore.embeddings.opening import open_embeddings

    opened = open_embeddings(embeddings)
    return (lambda start, stop: opened.read(start, stop).float().numpy()), opened.n_rows, opened.d_in


def _unit(rows: Array) -> Array:
    unit = unit_rows(rows)
    if not np.isfinite(unit).all():
        raise InvalidInputError("an embedding is not finite; give finite numbers.", code="not-finite")
    return unit


@retry_on_stale_snapshot
def cloud(acts: SetReader, features: Any, decoder: Any, *, n_components: int = 3, where: Any = None) -> xarray.Dataset:
    """Principal components of what chosen features add to the embeddings, on the samples where any is active.

    Parameters
    ----------
    features
        The features, such as days of the week.
    decoder
        Directions, (n_features, d_in), or the SAE in any form that `saestore.build` takes.
    n_components
        Components at most.
    where
        Only these samples.

    Returns
    -------
    xarray.Dataset
        ``position`` (sample, component), ``strongest`` (sample): which feature is strongest; ``explained`` (component):
        share of the variance; ``direction`` (component, d_in) and ``mean`` (d_in). The sums ``sum over f of a_f d_f``
        are ``mean + position @ direction``, but for what further components hold. ``acts.plot.cloud(found)`` draws it.

    Notes
    -----
    As the feature manifolds of Engels et al. 2024. The components come from the covariance of the activations, so that
    the sums are never made. Memory: samples x features that are active, and the decoder.
    """
    import xarray as xr

    check_at_least("n_components", n_components, 1)
    ids = np.unique(acts.select_features(features).ids)
    directions = decoder_of(acts, decoder)[ids].astype(np.float64)
    condition = acts.condition(where)
    blocks = iterate_lists(acts.segments, ids, acts.dtype)
    parts = [each if condition is None else each.keep(condition.keeps(each.samples)) for each in blocks]
    entries = np.concatenate([np.empty(0, np.int64), *(part.samples for part in parts)])
    samples, rows = np.unique(entries, return_inverse=True)
    if not len(samples):
        raise InvalidInputError("none of the features is active on the samples asked for.", code="never-active")
    a = np.zeros((len(samples), len(ids)))
    at = np.searchsorted(ids, np.concatenate([part.feature_of_entry for part in parts]))
    a[rows, at] = np.concatenate([part.data for part in parts])
    centre = a.mean(axis=0)
    # Of the sums a D: their covariance is D^T C D, whose eigenvectors are those of a small matrix.
    factor = np.linalg.svd((a - centre).T @ (a - centre), hermitian=True)
    root = (factor[0] * np.sqrt(factor[1])).T @ directions
    _, singular, axes = np.linalg.svd(root, full_matrices=False)
    n = min(n_components, len(singular))
    variance = singular**2
    largest = np.abs(axes[:n]).argmax(axis=1)
    axes = axes[:n] * np.sign(axes[np.arange(n), largest])[:, None]
    return xr.Dataset(
        {
            "position": (("sample", "component"), (a - centre) @ (directions @ axes.T)),
            "strongest": ("sample", ids[a.argmax(axis=1)]),
            "explained": ("component", variance[:n] / max(variance.sum(), np.finfo(float).tiny)),
            "direction": (("component", "d_in"), axes),
            "mean": ("d_in", centre @ directions),
        },
        coords={"sample": samples, "feature": ids},
    )
