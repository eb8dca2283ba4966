"""The embeddings that a set was made from, checked against what the set records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.embeddings.base import EmbeddingSource, MaskedSource
from saestore.embeddings.opening import open_embeddings
from saestore.errors import InvalidInputError, NotFoundError
from saestore.format import SOURCE_ROW

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


def embeddings_of(reader: SetReader, embeddings: Any = None) -> EmbeddingSource:
    """Open the embeddings of a set, one row per sample; by default from where the set was built.

    Embeddings with another number of rows, or another fingerprint than the recorded one, are refused.
    """
    source = reader.attributes.source
    recorded = source if source.get("kind") == "embeddings" else {}
    if embeddings is None:
        embeddings = source.get("embeddings") if source.get("kind") in ("import", "matrix") else None
    if embeddings is None:
        embeddings = recorded.get("path") if recorded.get("layout") not in ("array", "batches") else None
        if embeddings is None:
            raise NotFoundError(
                f"{reader.path} does not record where its embeddings are; name them with embeddings= (--embeddings).",
                code="unnamed-embeddings",
            )
    opened = _of_samples(reader, open_embeddings(embeddings))
    check_rows(opened, reader.attributes.planned_samples or reader.shape[0], f"samples of {reader.path}")
    expected = recorded.get("fingerprint")
    if expected is not None and opened.fingerprint() != expected:
        raise InvalidInputError(
            f"{opened.path} holds other embeddings than {reader.path} was built from: fingerprint "
            f"{opened.fingerprint()[:12]}, not {expected[:12]}. Name the embeddings that were encoded.",
            code="other-embeddings",
        )
    return opened


def _of_samples(reader: SetReader, opened: EmbeddingSource) -> EmbeddingSource:
    """The rows that became samples, where a mask or condition left others out and all are there."""
    if opened.n_rows == reader.shape[0] or SOURCE_ROW not in reader.table("samples").info.columns:
        return opened
    rows = reader.read_column("samples", SOURCE_ROW).values
    if opened.n_rows <= int(rows.max(initial=-1)):
        return opened
    return MaskedSource(opened, np.isin(np.arange(opened.n_rows), rows))


def check_rows(opened: EmbeddingSource, n_rows: int, what: str) -> None:
    """Refuse embeddings of another number of rows."""
    if opened.n_rows != n_rows:
        raise InvalidInputError(
            f"{opened.path} has {opened.n_rows:,} rows, but there are {n_rows:,} {what}; give one embedding for each.",
            code="wrong-row-count",
        )
