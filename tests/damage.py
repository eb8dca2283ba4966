"""Stores that lie: other values under digests that agree with them, as a writer with a fault would leave them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import zarr

from saestore.format import SegmentInfo, SetAttributes, document_digest
from saestore.segment.arrays import arrays_of
from saestore.storage import DOCUMENT, ArrayWriter, WriteBatch, group_document


def lie_in_segment(
    store: Any, path: str, info: SegmentInfo, attributes: SetAttributes, changes: Mapping[str, Callable[..., Any]]
) -> SegmentInfo:
    """Change arrays of a segment, with the digests of all that holds them; returns its new entry."""
    base = f"{path}/segments/{info.name}"
    batch, group = WriteBatch(store, base), zarr.open_group(store, path=base, mode="r")
    described = group.attrs.asdict()
    for name, change in changes.items():
        writer = ArrayWriter(batch, name, arrays_of(info, attributes)[name])
        array: Any = group[name]
        writer.append(np.ascontiguousarray(change(array[:])))
        written = writer.close()
        described["arrays"][name] = {"document": written.document, "shards": list(written.shards)}
    document = group_document(described)
    batch.put(DOCUMENT, document)
    batch.flush()
    return SegmentInfo(**{**asdict(info), "digest": document_digest(document)})
