"""The set that is there against the set that is asked for: the same content goes on, other content is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from saestore.errors import StoreConflictError
from saestore.format import KEY, SetAttributes
from saestore.storage import SnapshotStore
from saestore.tables.fingerprint import spans_fingerprint
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import Items
from saestore.tables.stored_table import StoredTable

if TYPE_CHECKING:
    from saestore.writing.plan import WritePlan

__all__ = ["check_prefix", "refuse_other", "stored_items"]

_REPLACE = (
    "Pass --overwrite (overwrite=True) to replace it, or give it another name: another dataset or path, or a link to "
    "the SAE's folder"
)
_APPEND = (
    "Only further items can be appended; to remove or change items pass --overwrite (overwrite=True), which builds the "
    "set again, or give it another name."
)


def refuse_other(plan: WritePlan, existing: SetAttributes) -> None:
    """Refuse a set of other rows, items or settings than the plan's, and name what differs.

    Raises StoreConflictError: Something differs.
    """
    there, here = existing.source, plan.provenance
    kind, advice = here["kind"], _REPLACE
    if there.get("kind") != kind:
        _refuse(plan, {"kind": (there.get("kind"), kind)}, advice)
    if not existing.complete:
        advice += "; to finish it, give what it was begun with"
    elif kind not in ("import", "matrix") and plan.rows.n_rows > existing.n_samples:
        advice += "; or pass --append (append=True) if there are only further items"
    pairs = {
        {"import": "files"}.get(kind, kind): (there.get("fingerprint"), here["fingerprint"]),
        "items": (there.get("items_fingerprint"), here["items_fingerprint"]),
        "token_spans": (there.get("token_spans_fingerprint"), here["token_spans_fingerprint"]),
    }
    _refuse(plan, {**pairs, **_settings(plan, existing)}, advice)


def check_prefix(plan: WritePlan, root: zarr.Group, existing: SetAttributes) -> None:
    """Refuse to append unless the set is the beginning of the plan, and name what was removed or changed.

    Memory: the items of the set, one column at a time.

    Raises StoreConflictError: The SAE or an option differs, or an item or row of the set is missing, changed or in
    another place.
    """
    there, here = existing.source, plan.provenance
    if there.get("kind") != here["kind"]:
        raise StoreConflictError(
            f"{plan.path} was made from {there.get('kind')}, not from {here['kind']}. {_APPEND}",
            code="different-content",
        )
    _refuse(plan, _settings(plan, existing), f"Appended samples must be made in the same way. {_REPLACE}")
    n_items, n_rows, table = existing.n_items, existing.n_samples, plan.table
    path = f"{root.path}/{plan.path}".strip("/")
    _check_items(stored_items(root, plan.path, existing), table.items, n_items, plan.path)
    pointers = ItemIndex.read(SnapshotStore(root.store), path, existing).pointers()
    if table.index.n_items < n_items or not np.array_equal(pointers, table.index.pointers()[: n_items + 1]):
        raise StoreConflictError(
            f"the {n_items:,} items of {plan.path} have other numbers of samples now. {_APPEND}", code="changed-sizes"
        )
    spans = None if table.spans is None else spans_fingerprint(table.spans[:n_rows])
    if there.get("token_spans_fingerprint") != spans:
        raise StoreConflictError(
            f"the token spans of the first {n_rows:,} samples of {plan.path} differ now. {_APPEND}",
            code="changed-token-spans",
        )
    if there.get("fingerprint") != plan.rows.fingerprint(n_rows):
        raise StoreConflictError(
            f"the content of the first {n_items:,} items ({n_rows:,} samples) of {here.get('path')} changed since "
            f"{plan.path} was built from them. {_APPEND}",
            code="changed-rows",
        )


def stored_items(root: zarr.Group, path: str, attributes: SetAttributes) -> StoredTable:
    """The items of the set at `path`."""
    return StoredTable(SnapshotStore(root.store), f"{root.path}/{path}".strip("/"), "items", attributes)


def _settings(plan: WritePlan, existing: SetAttributes) -> dict[str, tuple[Any, Any]]:
    there, here = existing.source, plan.provenance
    return {
        "SAE": tuple(sae.get("fingerprint", sae.get("name")) for sae in (existing.sae, plan.sae)),
        **{name: (there.get(key), here.get(key)) for key, name in plan.settings.items()},
        "features": (existing.n_features, plan.rows.n_features),
        "dtype": (existing.dtype, plan.dtype),
        "top_k": ((existing.dropped or {}).get("top_k"), (plan.dropped or {}).get("top_k")),
        "codec": (existing.codec, plan.codec),
        "segment_rows": (existing.segment_rows, plan.segment_rows or existing.segment_rows),
    }


def _refuse(plan: WritePlan, pairs: dict[str, tuple[Any, Any]], advice: str) -> None:
    differ = [f"{name} ({_short(a)} there, {_short(b)} now)" for name, (a, b) in pairs.items() if a != b]
    if differ:
        raise StoreConflictError(
            f"{plan.path} is in the store with other content; these differ: {', '.join(differ)}. {advice}.",
            code="different-content",
        )


def _short(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)


def _check_items(stored: StoredTable, given: Items | None, n_items: int, path: str) -> None:
    """The first items of the table must be the items of the set; columns and concepts may have come to it."""
    if KEY not in stored.info.columns:
        return
    if given is None:
        raise StoreConflictError(f"{path} has a table of items; give one now as well. {_APPEND}", code="missing-items")
    keys, now = stored.read(KEY).values, given.key[:n_items]
    if len(now) < n_items or (keys != now).any():
        gone = sorted(set(keys.tolist()) - set(given.key.tolist()))
        index = int(np.argmax(keys[: len(now)] != now)) if len(now) and (keys[: len(now)] != now).any() else len(now)
        what = f"{gone[0]!r} is missing now" if gone else f"item {index} was {keys[index]!r}"
        other = f", and is {now[index]!r} now" if not gone and index < len(now) else ""
        raise StoreConflictError(
            f"the items of {path} are not the first of the given ones: {what}{other}. {_APPEND}", code="changed-items"
        )
    of_given = {**given.columns, **given.concepts}
    for name in stored.info.names:
        if name != KEY:
            _check_column(name, stored.read(name).array(), of_given.get(name), path)


def _check_column(name: str, there: np.ndarray, given: np.ndarray | None, path: str) -> None:
    if given is None:
        raise StoreConflictError(
            f"the items of {path} have {name!r}; give it for the new items too, as a column of --items, or remove it "
            f"from the set first. {_APPEND}",
            code="missing-column",
        )
    now = given[: len(there)]
    same = np.array([str(a) == str(b) for a, b in zip(there.tolist(), now.tolist(), strict=True)], bool)
    if not same.all():
        row = int(np.argmin(same))
        raise StoreConflictError(
            f"{name!r} of item {row} was {there[row]!s} when {path} was built, and is {now[row]!s} now. {_APPEND}",
            code="changed-column",
        )
