"""What an import will do: everything opened, matched with the items, and, once read, its faults."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from saestore.errors import InvalidInputError
from saestore.formats.base import Opened
from saestore.formats.issues import IssueCollector, refusal
from saestore.ingest.file_rows import FileRows
from saestore.ingest.open_input import open_input
from saestore.ingest.options import ImportOptions, default_item_ptr
from saestore.progress import Progress
from saestore.tables import as_items
from saestore.writing.pipeline import path_of
from saestore.writing.plan import ItemTable, WritePlan

__all__ = ["ImportPlan", "plan_import"]


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
            raise InvalidInputError(f"{self.rows.opened.path}: {refused}. Nothing was written.", code="errors-in-file")

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
    of_items = opened.check_items(table.items, table.index) if opened.check_items else ()
    path = _full_path(options.parts, opened)
    sae = {"name": path.split("/")[2], "d_sae": n_features, **opened.sae}
    # A file of activations has neither weights nor the embeddings that went in.
    missing = dict.fromkeys(name for name in ("architecture", "hook_name", "fingerprint") if name not in sae)
    return ImportPlan(
        path=path,
        rows=FileRows(opened, n_features, [*opened.issues, *of_items]),
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
    spec = default_item_ptr(spec, sample_type, n_items, n_rows)
    if spec is None and n_items is None:
        spec = opened.default_item_size
    table = ItemTable.of(n_rows, items, spec, options.token_spans, path_of(options.items))
    return replace(table, columns=opened.columns)
