"""What an import will do: everything opened, matched with the items, and, once read, what was found in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, StoreConflictError
from saestore.format import SetAttributes, default_segment_rows, split_set_path
from saestore.formats.base import Opened, clean, fingerprint
from saestore.formats.issues import Issue, IssueCollector
from saestore.ingest.import_options import Progress, Request
from saestore.ingest.open_input import open_input
from saestore.sparse_rows import SparseRows
from saestore.tables import Items, as_items, item_pointers, token_spans
from saestore.tables.fingerprint import items_fingerprint, spans_fingerprint
from saestore.tables.item_index import ItemIndex
from saestore.vocabulary import CODECS, SAMPLE_TYPES

Array = np.ndarray[Any, Any]

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Plan:
    """An import whose files are open and fit each other."""

    request: Request
    path: str
    opened: Opened
    n_features: int
    items: Items | None
    items_path: str | None
    index: ItemIndex
    spans: Array | None
    faults: tuple[Issue, ...]

    def rows(self, start: int, stop: int, findings: IssueCollector) -> Iterator[SparseRows]:
        """Cleaned rows from `start` to `stop`, a block after the other."""
        opened = self.opened
        for first in range(start, stop, opened.step):
            raw = opened.read(first, min(first + opened.step, stop))
            yield clean(raw, first, findings, opened.dtype)

    def findings(self) -> IssueCollector:
        """Where to count what is met."""
        return IssueCollector(self.n_features, self.opened.row_capacity, sum_duplicates=self.opened.sum_duplicates)

    def told(self, findings: IssueCollector) -> list[Issue]:
        """What was met, and what was known before."""
        return [*self.faults, *findings.issues(), *_cut_off(self.opened, findings)]

    @cached_property
    def fingerprint(self) -> str:
        """Of the files."""
        return fingerprint(self.opened.files)

    def attributes(self, l0: float, faults: Sequence[Issue]) -> SetAttributes:
        """Of the new set, from what a first reading of all rows showed."""
        r, opened = self.request, self.opened
        return SetAttributes(
            n_features=self.n_features,
            dtype=opened.dtype,
            codec=r.codec,
            n_items=self.index.n_items,
            item_size=self.index.item_size,
            planned_samples=opened.n_rows,
            segment_rows=r.segment_rows or default_segment_rows(l0),
            sae=self._sae(),
            source={
                "kind": "import",
                "format": opened.format,
                "path": opened.path,
                **opened.source,
                "n_rows": opened.n_rows,
                "dtype": opened.dtype,
                "fingerprint": self.fingerprint,
                "items": self.items_path,
                **self._about_items,
                "faults": [fault.to_json(details=False) for fault in faults],
            },
        )

    def _sae(self) -> dict[str, Any]:
        """What is known of the SAE; what could change answers and is not known says so."""
        known = {"name": self.path.split("/")[2], "d_sae": self.n_features, **self.opened.sae}
        # A file of activations has neither weights nor the embeddings that went in.
        missing = {name: UNKNOWN for name in ("architecture", "hook_name", "fingerprint") if name not in known}
        return {**known, **missing}

    @cached_property
    def _about_items(self) -> dict[str, str | None]:
        """Digests of the items with which rows belong to which, and of token spans."""
        return {
            "items_fingerprint": items_fingerprint(self.items, self.index),
            "token_spans_fingerprint": None if self.spans is None else spans_fingerprint(self.spans),
        }

    def refuse_other(self, existing: SetAttributes) -> None:
        """Refuse a set that a build or another import made, naming what differs."""
        there, r = existing.source, self.request
        pairs: dict[str, tuple[Any, Any]] = {"kind": (there.get("kind"), "import")}
        if there.get("kind") == "import":
            pairs = {
                "files": (there.get("fingerprint"), self.fingerprint),
                **{
                    name.removesuffix("_fingerprint"): (there.get(name), now) for name, now in self._about_items.items()
                },
                "features": (existing.n_features, self.n_features),
                "codec": (existing.codec, r.codec),
                "segment_rows": (existing.segment_rows, r.segment_rows or existing.segment_rows),
            }
        differ = [f"{name} ({_short(a)} there, {_short(b)} now)" for name, (a, b) in pairs.items() if a != b]
        if differ:
            raise StoreConflictError(
                f"{self.path} is in the store already, from elsewhere; these differ: {', '.join(differ)}. Pass "
                "--overwrite (overwrite=True) to replace it, or name another set."
            )


def make_plan(request: Request, resources: ExitStack, progress: Progress | None = None) -> Plan:
    """Open the files and match them with the items.

    Parameters
    ----------
    resources
        What closes the files in the end.

    Raises
    ------
    NotFoundError, InvalidInputError, MissingDependencyError
        A file is missing, damaged, of a layout that is not known, or does not fit the others.
    """
    if request.codec not in CODECS:
        raise InvalidInputError(f"codec {request.codec!r}: use one of {', '.join(CODECS)}.")
    if request.segment_rows is not None and not 1 <= request.segment_rows < 1 << 32:
        raise InvalidInputError(f"segment_rows {request.segment_rows}: use 1 to {(1 << 32) - 1}.")
    parts = request.set_path.strip("/").split("/")
    sample_type = parts[1] if len(parts) > 1 else ""
    split_set_path("/".join([*parts, "sae"] if len(parts) == 2 else parts))  # told before anything is opened
    if sample_type not in SAMPLE_TYPES:
        raise InvalidInputError(
            f"{request.set_path!r} is of sample type {sample_type!r}: use one of {', '.join(SAMPLE_TYPES)}."
        )
    opened = open_input(request, resources, progress)
    n_features = _width(request, opened)
    items = opened.items if request.items is None else as_items(request.items)
    index = _index(request, opened, items, sample_type)
    spans = None if request.spans is None else token_spans(request.spans, opened.n_rows)
    named = str(request.items) if isinstance(request.items, str | os.PathLike) else None
    faults = [*opened.issues, *(opened.check_items(items, index) if opened.check_items else ())]
    path = _full_path(parts, opened)
    return Plan(request, path, opened, n_features, items, named, index, spans, tuple(faults))


def _full_path(parts: list[str], opened: Opened) -> str:
    if len(parts) == 3:
        return "/".join(parts)
    name = opened.sae.get("name")
    if name is None:
        raise InvalidInputError(
            f"{'/'.join(parts)!r} names no SAE, and {opened.path} does not say which it was; write "
            f"{'/'.join(parts)}/NAME, with a name for it."
        )
    return "/".join([*parts, str(name)])


def _width(request: Request, opened: Opened) -> int:
    given, found = request.n_features, opened.n_features
    if given is None and found is None:
        raise InvalidInputError(
            f"{opened.path} does not say how many features the SAE has: pass --n-features (n_features=)."
        )
    if given is not None and found is not None and given != found:
        raise InvalidInputError(f"{opened.path} has {found:,} features, not {given:,}; leave --n-features out.")
    width = found if given is None else given
    if width is None or not 1 <= width < 1 << 31:
        raise InvalidInputError(f"n_features {width}: use 1 to {(1 << 31) - 1}.")
    return width


def _index(request: Request, opened: Opened, items: Items | None, sample_type: str) -> ItemIndex:
    """How the rows belong to items: as told, else as the file says, else as its sample type implies."""
    n_items, n_rows = None if items is None else len(items), opened.n_rows
    spec = request.item_ptr if request.item_ptr is not None else opened.item_ptr
    if spec is None and sample_type == "cls":
        spec = 1
    elif spec is None and sample_type == "token" and n_items is not None:
        raise InvalidInputError(
            f"which of the {n_rows:,} tokens belong to which of the {n_items:,} texts is not known: pass --item-ptr "
            "(item_ptr=), a .npy, .npz:name or token_counts .pt file."
        )
    elif spec is None and n_items is None:
        spec = opened.default_item_size
    return ItemIndex.of(item_pointers(spec, n_items, n_rows))


def _cut_off(opened: Opened, findings: IssueCollector) -> list[Issue]:
    """Rows without a place left are cut off, unless the SAE itself gives as many activations for every row."""
    k, full = opened.row_capacity, findings.n_full
    known = opened.sae.get("architecture", UNKNOWN)
    if k is None or not full or known == "topk" or (known == UNKNOWN and full == findings.n_rows):
        return []
    message = f"{full:,} of {findings.n_rows:,} rows fill all {k} places: further activations of the SAE are lost"
    message += ", unless it is a TopK SAE" if known == UNKNOWN else ""
    message += f"; {opened.when_full}" if opened.when_full else ""
    return [Issue("cut_to_k", "info", message, full)]


def _short(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)
