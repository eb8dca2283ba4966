"""What an import will do: everything opened, matched with the items, and, once read, its faults."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.formats.base import Opened
from saestore.formats.issues import Issue, IssueCollector, refusal
from saestore.ingest.file_rows import FileRows
from saestore.ingest.open_input import open_input
from saestore.ingest.options import ImportOptions, default_item_ptr
from saestore.progress import Progress
from saestore.tables import as_items
from saestore.writing.pipeline import ItemTable, WritePlan, path_of

__all__ = ["ImportPlan", "plan_import"]

UNKNOWN = "unknown"
_PATCHES = 256  # of an image in the pipeline whose files these are: a grid of 16 x 16


@dataclass(frozen=True, kw_only=True)
class ImportPlan(WritePlan):
    """An import whose files are open and fit each other."""

    rows: FileRows

    def look(self, first: int, progress: Progress) -> IssueCollector:
        """Read all rows from `first` on; the faults are in ``rows.reported``."""
        with progress.bar(self.path, "checked", self.rows.n_rows, first) as bar:
            return self.rows.check(first, bar.advance)

    def check(self, first: int, progress: Progress) -> None:
        """Read all rows from `first` on, and refuse faults that would change answers."""
        self.look(first, progress)
        refused = refusal(self.rows.reported)
        if refused is not None:
            raise InvalidInputError(f"{self.rows.opened.path}: {refused}. Nothing was written.", code="faulty-file")

    def measure(self, first: int) -> tuple[float, dict[str, Any]]:  # noqa: ARG002
        """Active features per row, from the check of all rows."""
        return self.rows.density, {}


def plan_import(options: ImportOptions, resources: ExitStack, progress: Progress) -> ImportPlan:
    """Open the files and match them with the items.

    Parameters
    ----------
    resources
        Closes the files in the end.

    Raises
    ------
    NotFoundError, InvalidInputError, MissingDependencyError
        A file is missing, damaged, of an unknown layout, or does not fit the others.
    """
    options.check()
    opened = open_input(options, resources, progress)
    n_features = _width(options, opened)
    table = _table(options, opened)
    path = _full_path(options.parts, opened)
    sae = {"name": path.split("/")[2], "d_sae": n_features, **opened.sae}
    # A file of activations has neither weights nor the embeddings that went in.
    missing = {name: UNKNOWN for name in ("architecture", "hook_name", "fingerprint") if name not in sae}
    return ImportPlan(
        path=path,
        rows=FileRows(
            opened,
            n_features,
            [*opened.faults, *_calibration(table, opened)],
            lambda collector: _cut_off(opened, collector, path.split("/")[2]),
        ),
        table=table,
        dtype=opened.dtype,
        codec=options.codec,
        segment_rows=options.segment_rows,
        sae={**sae, **missing},
    )


def _full_path(parts: list[str], opened: Opened) -> str:
    if len(parts) == 3:
        return "/".join(parts)
    name = opened.sae.get("name")
    if name is None:
        raise InvalidInputError(
            f"{'/'.join(parts)!r} names no SAE, and {opened.path} does not name it either; write "
            f"{'/'.join(parts)}/NAME, with a name for it.",
            code="missing-sae",
        )
    return "/".join([*parts, str(name)])


def _width(options: ImportOptions, opened: Opened) -> int:
    given, stored = options.n_features, opened.n_features
    width = stored if given is None else given
    if width is None:
        raise InvalidInputError(
            f"{opened.path} does not record how many features the SAE has: pass --n-features (n_features=).",
            code="missing-n-features",
        )
    if stored is not None and width != stored:
        raise InvalidInputError(
            f"{opened.path} has {stored:,} features, not {width:,}; leave --n-features out.", code="wrong-width"
        )
    if not 1 <= width < 1 << 31:
        raise InvalidInputError(f"n_features {width}: use 1 to {(1 << 31) - 1}.", code="bad-n-features")
    return width


def _table(options: ImportOptions, opened: Opened) -> ItemTable:
    """The items, and how the rows belong to them: as given, else as the file has it, else by the sample type."""
    items = opened.items if options.items is None else as_items(options.items)
    n_items, n_rows, sample_type = None if items is None else len(items), opened.n_rows, options.sample_type
    spec = options.item_ptr if options.item_ptr is not None else opened.item_ptr
    of_patches = opened.format.startswith("superactivators") and sample_type == "patch" and n_items is None
    if spec is None and of_patches and n_rows % _PATCHES == 0:
        spec = _PATCHES
    spec = default_item_ptr(spec, sample_type, n_items, n_rows)
    return ItemTable.of(n_rows, items, spec, options.token_spans, path_of(options.items))


def _calibration(table: ItemTable, opened: Opened) -> list[Issue]:
    """That pipeline took its calibration statistics over the rows from the first to the last cal row."""
    items = table.items
    if items is None or "split" not in items.columns or not opened.format.startswith("superactivators"):
        return []
    cal = np.flatnonzero(items.columns["split"] == "cal")
    if not len(cal) or int(cal[-1]) - int(cal[0]) + 1 == len(cal):
        return []
    ptr = table.index.pointers()
    span = int(ptr[cal[-1] + 1] - ptr[cal[0]])
    foreign = span - int((ptr[cal + 1] - ptr[cal]).sum())
    return [
        Issue(
            "calibration_range",
            "recorded",
            f"the splits interleave: statistics that the pipeline took between its first and last cal row are over "
            f"{span:,} rows, of which {foreign:,} are train or test rows; do not go on with its thresholds",
            foreign,
        )
    ]


def _cut_off(opened: Opened, collector: IssueCollector, sae: str) -> list[Issue]:
    """Rows that fill all places are cut off, unless the SAE itself gives this many to every row."""
    gemma = sae.startswith("gemma-scope") or str(opened.sae.get("name", "")).startswith("gemma-scope")
    k, full = opened.row_capacity, collector.full
    known = opened.sae.get("architecture", "jumprelu" if gemma else UNKNOWN)
    if k is None or not full or known == "topk" or (known == UNKNOWN and full == collector.rows):
        return []
    message = f"{full:,} of {collector.rows:,} rows fill all {k} places: activations beyond them are lost"
    if known == UNKNOWN:
        message += ", unless it is a TopK SAE"
    elif gemma:
        message += (
            "; Gemma Scope gives about 114 per token, so about 44 % of its activations are missing. `saestore build` "
            "from the embeddings has them all"
        )
    return [Issue("cut_to_k", "recorded", message, full)]
