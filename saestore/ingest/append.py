"""Further images, texts or rows for a set that is complete: what is there must be the beginning of what is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import zarr

from saestore.activation_set import ActivationSet
from saestore.errors import StoreConflictError
from saestore.format import KEY, SetAttributes
from saestore.ingest.build_plan import Plan
from saestore.query.set_table import SetTable
from saestore.store import extend_set
from saestore.tables import Items
from saestore.tables.fingerprint import spans_fingerprint
from saestore.writing import SetWriter

__all__ = ["appended_from", "begin_append", "check_prefix", "grows"]

_ADVICE = (
    "Only further ones can be appended; to remove or change what is there pass --overwrite (overwrite=True), which "
    "builds the set anew, or give another name."
)


def grows(plan: Plan, existing: SetAttributes) -> bool:
    """Whether there are rows to append to a complete set."""
    return existing.complete and plan.source.n_rows > existing.n_samples


def appended_from(attributes: SetAttributes) -> int:
    """First sample of the last append, 0 where nothing was appended."""
    appends: Any = attributes.source.get("appended", [])
    return int(appends[-1]["n_samples"]) if appends else 0


def check_prefix(plan: Plan, root: zarr.Group, existing: SetAttributes) -> None:
    """Refuse to append to what is not the beginning of what is given, naming what was removed or changed.

    Memory: the items of the set, a column at a time.

    Raises
    ------
    StoreConflictError
        The SAE or an option is another, or an item or row of the set is missing, changed or in another place.
    """
    there = existing.source
    if there.get("kind") != plan.inputs.record["kind"]:
        raise StoreConflictError(
            f"{plan.path} was made from {there.get('kind')}, not from {plan.inputs.record['kind']}. {_ADVICE}"
        )
    plan.refuse_other_settings(existing)
    n_items, n_rows = existing.n_items, existing.n_samples
    acts = ActivationSet(root, plan.path)
    _check_items(acts.items, plan.items, n_items, plan.path)
    pointers = plan.index.pointers()
    if plan.index.n_items < n_items or not np.array_equal(acts.item_index.pointers(), pointers[: n_items + 1]):
        raise StoreConflictError(
            f"the {n_items:,} items of {plan.path} have other numbers of samples than before. {_ADVICE}"
        )
    spans = None if plan.spans is None else spans_fingerprint(plan.spans[:n_rows])
    if there.get("token_spans_fingerprint") != spans:
        raise StoreConflictError(f"the token spans of the first {n_rows:,} samples differ. {_ADVICE}")
    if there.get("fingerprint") != plan.source.fingerprint(n_rows):
        raise StoreConflictError(
            f"the first {n_items:,} items ({n_rows:,} samples) of {plan.source.path} are not those that {plan.path} "
            f"was built from: their content changed. {_ADVICE}"
        )


def _check_items(stored: SetTable, given: Items | None, n_items: int, path: str) -> None:
    """The first items of the table must be those of the set; columns and concepts may have come to it."""
    if not stored.names():
        return
    if given is None:
        raise StoreConflictError(f"{path} has a table of items, and none is given now. {_ADVICE}")
    keys = stored.column(KEY)
    now = given.key[:n_items]
    if len(now) < n_items or (keys != now).any():
        gone = sorted(set(keys.tolist()) - set(given.key.tolist()))
        place = int(np.argmax(keys[: len(now)] != now)) if len(now) and (keys[: len(now)] != now).any() else len(now)
        what = f"{gone[0]!r} is missing now" if gone else f"item {place} was {keys[place]!r}"
        found = f", and is {now[place]!r} now" if not gone and place < len(now) else ""
        raise StoreConflictError(f"the items of {path} are not the first of those given: {what}{found}. {_ADVICE}")
    for name in stored.names():
        if name != KEY:
            column = given.columns.get(name)
            _check_column(name, stored.column(name), None if column is None else column[:n_items], path)
    for name in stored.concept_names:
        labels = given.concepts.get(name)
        _check_column(name, stored.column(name), None if labels is None else labels[:n_items], path)


def _check_column(name: str, there: np.ndarray, now: np.ndarray | None, path: str) -> None:
    if now is None:
        raise StoreConflictError(
            f"the items of {path} have {name!r}, which for the new ones is not given; give it as a column of --items, "
            f"or remove it from the set first. {_ADVICE}"
        )
    same = np.array([str(a) == str(b) for a, b in zip(there.tolist(), now.tolist(), strict=True)], bool)
    if not same.all():
        row = int(np.argmin(same))
        raise StoreConflictError(
            f"{name!r} of item {row} was {there[row]!s} when {path} was built, and is {now[row]!s} now. {_ADVICE}"
        )


def begin_append(plan: Plan, writer: SetWriter) -> None:
    """Write the table of all items beside the one that is there, and plan the samples that are to come."""
    existing = writer.attributes
    if existing is None:
        raise RuntimeError("the set was not started")
    appends: Any = existing.source.get("appended", [])
    step = {"n_samples": existing.n_samples, "n_items": existing.n_items}
    attributes = replace(
        existing,
        planned_samples=plan.source.n_rows,
        n_items=plan.index.n_items,
        item_size=plan.index.item_size,
        source={**plan.inputs.provenance, "appended": [*appends, step]},
    )
    extend_set(writer, attributes, plan.items, plan.index, plan.spans)
