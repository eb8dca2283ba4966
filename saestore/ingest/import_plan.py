"""What an import will do: everything opened, matched with the items, and, once read, its faults."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore import layouts
from saestore.errors import InvalidInputError, NotFoundError, check_at_least, check_choice
from saestore.files import LIBRARY_DAMAGE, damage, nearby, split_member
from saestore.formats.base import Opened, Source, load_format
from saestore.formats.in_memory import open_object
from saestore.formats.issues import IssueCollector, refusal
from saestore.ingest import row_choice
from saestore.ingest.file_rows import FileRows
from saestore.ingest.known import find_truth, found_items, known_item_ptr, one_sample_type
from saestore.ingest.options import ImportOptions, default_item_ptr
from saestore.ingest.row_choice import Computed, chosen_rows, rows_per_item
from saestore.progress import Progress
from saestore.provenance import given_sae_record, source_record
from saestore.sparse_rows import Array
from saestore.storage.places import expanded
from saestore.tables.items import as_items
from saestore.vocabulary import GENERAL_FORMATS, IMPORT_FORMATS
from saestore.writing.pipeline import path_of
from saestore.writing.plan import ItemTable, WritePlan

if TYPE_CHECKING:
    from saestore.embeddings.base import EmbeddingSource
    from saestore.superactivators.datasets import Dataset
    from saestore.superactivators.ground_truth import GroundTruth

# Any tensor may be in such a file: it is dense activations where no other format knows it.
_TENSORS = (".pt", ".safetensors")
_HOOK = re.compile(r"(?:^|\.)(?:blocks|layers|layer|h|resblocks)\.\d")  # other names of a cache state no place
_SETTINGS = {"mask_fingerprint": "the rows that include, exclude and mask leave", "tokens_fingerprint": "tokens"}


@dataclass(frozen=True, kw_only=True)
class ImportPlan(WritePlan):
    """An import whose files are open and fit each other."""

    rows: FileRows
    truth: GroundTruth | None = None  # concepts that the set gets when it is complete

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
    """Open the files, which `resources` close in the end, and match them with the items."""
    by_name = options.path is None
    options, dataset = _by_name(options)
    options.check()
    given = source_record(options.source, options.images)
    opened = _opened(options, resources, progress)
    n_features = _width(options, opened)
    if dataset is not None and options.item_ptr is None:
        items = None if options.items is None else as_items(options.items)
        ptr = known_item_ptr(dataset, options.sample_type, options.data, items, opened.n_rows, by_name=by_name)
        options = replace(options, item_ptr=ptr)
    mask, tokens = row_choice.mask_and_tokens(options, options.path, opened.n_rows, opened.item_ptr)
    table = _table(options, opened, mask, tokens)
    of_items = opened.check_items(table.items, table.index) if opened.check_items else ()
    choice = chosen_rows(options, table, mask, _norms(given.get("embeddings"), opened))
    given = {**given, **choice.record, **row_choice.tokens_record(tokens)}
    name = "/".join([*options.parts, ""][:3])  # without the SAE's name, which its record may give
    named = {} if options.sae is None else given_sae_record(options.sae, name, n_features)
    _check_stated(named, opened, other=options.other_model)
    path = _full_path(options.parts, opened, named)
    sae = {"d_sae": n_features, **opened.sae, **named}
    sae["name"] = sae.get("name") or path.split("/")[2]
    # A file of activations has neither weights nor the embeddings that went in.
    missing = dict.fromkeys(name for name in ("architecture", "hook_name", "fingerprint") if name not in sae)
    return ImportPlan(
        path=path,
        rows=FileRows(row_choice.of_rows(opened, choice.keep), n_features, [*opened.issues, *of_items], given),
        table=choice.table,
        dtype=opened.dtype,
        codec=options.codec,
        segment_rows=options.segment_rows,
        sae={**sae, **missing},
        settings={**_SETTINGS, **{name: f"source {name}" for name in given if name not in _SETTINGS}},
        truth=find_truth(options.ground_truth, dataset, options.data, options.sample_type, choice.table),
    )


def _by_name(options: ImportOptions) -> tuple[ImportOptions, Dataset | None]:
    """The options with the files that are found by the data set's name, where there is no path, or a folder of data."""
    if options.path is not None and options.data is None:
        return options, None
    from saestore.superactivators.datasets import find_dataset
    from saestore.superactivators.file_names import find_activations

    name, *more = options.parts
    dataset = find_dataset(name, "the path of its file")
    sample_type = one_sample_type(dataset, more[0] if more else None)
    found = replace(options, set_path="/".join([dataset.name, sample_type, *more[1:]]))
    if options.path is None:
        found = replace(found, path=find_activations(dataset, sample_type, options.data))
    if options.items is None:
        found = replace(found, items=found_items(dataset, options.data))
    return found, dataset


def _norms(embeddings: Any, opened: Opened) -> Computed:
    """Norms of the embeddings that the source names."""

    def rows() -> EmbeddingSource:
        from saestore.embeddings.of_set import check_rows
        from saestore.embeddings.opening import open_embeddings

        source = open_embeddings(embeddings)
        check_rows(source, opened.n_rows, f"rows of {opened.path}")
        return source

    return {} if embeddings is None else row_choice.norms(rows)


def _check_stated(named: Mapping[str, Any], opened: Opened, *, other: bool) -> None:
    """Refuse a file that states another model or hook than the SAE that the caller names."""
    hook = str(opened.sae.get("hook_name"))
    model = opened.sae.get("model_name") or opened.source.get("model_name")
    stated = {"model": str(model or ""), "hook": hook if _HOOK.search(hook) else ""}
    ours = {name: str(named.get(f"{name}_name") or "") for name in stated if stated[name]}
    if any(ours.values()) and not other:
        from saestore.models.training_spec import SAETrainingSpec

        spec = SAETrainingSpec(str(named["name"]), int(named.get("d_in") or 0), ours.get("model"), ours.get("hook"))
        spec.check_stated(opened.path, stated)


def _full_path(parts: list[str], opened: Opened, given: Mapping[str, Any]) -> str:
    if len(parts) == 3:
        return "/".join(parts)
    name = given.get("name") or opened.sae.get("name")
    if name is None:
        raise InvalidInputError(
            f"{'/'.join(parts)!r} names no SAE, and {opened.path} does not name it either; write "
            f"{'/'.join(parts)}/NAME, with a name for it.",
            code="missing-sae",
        )
    return "/".join([*parts, str(name)])


def _width(options: ImportOptions, opened: Opened) -> int:
    given, stored = options.n_features, opened.n_features
    width = stored if given is None else check_at_least("n_features", given, 1, "bad-n-features")
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


def _table(options: ImportOptions, opened: Opened, mask: Array | None, tokens: Array | None) -> ItemTable:
    """The items, and how the rows belong to them: as given, else as the file has it, else by the sample type."""
    items = opened.items if options.items is None else as_items(options.items)
    n_items, n_rows, sample_type = None if items is None else len(items), opened.n_rows, options.sample_type
    spec = options.item_ptr if options.item_ptr is not None else opened.item_ptr
    if spec is None and sample_type != "cls":
        spec = rows_per_item(mask, tokens)
    spec = default_item_ptr(spec, sample_type, n_items, n_rows)
    if spec is None and n_items is None:
        spec = opened.default_item_size
    table = ItemTable.of(n_rows, items, spec, options.token_spans, path_of(options.items))
    return replace(table, columns={**opened.columns, **({} if tokens is None else {"token": tokens.reshape(-1)})})


def _opened(options: ImportOptions, resources: ExitStack, progress: Progress) -> Opened:
    """Open the path of the options, in the format that they name or that the file shows."""
    name = options.format
    check_choice("format", name, ("auto", *IMPORT_FORMATS), "unknown-format")
    _, sample_type, *sae = options.parts
    given = (resources, sample_type, sae[0] if sae else None, options.n_features, options.sparse, options.pad_token)
    others = tuple(split_member(name)[1] or name for name in (options.mask, options.tokens) if isinstance(name, str))
    if not isinstance(options.path, str | os.PathLike):
        return _of_object(options, Source(Path(), *given, progress.line, others))
    path = expanded(options.path)
    chosen = load_format(recognise(path) if name == "auto" else name)
    own = {"sparse": options.sparse, "pad_token": options.pad_token}
    chosen.check_options([name for name, value in own.items() if value is not None], path)
    if chosen.open is None:
        raise RuntimeError(f"{chosen.name} has no reader")
    with damage(path, f"is damaged, or not a file of the format {chosen.name}", *LIBRARY_DAMAGE):
        return chosen.open(Source(path, *given, progress.line, others))


def _of_object(options: ImportOptions, source: Source) -> Opened:
    wrong = next((name for name in ("sparse", "pad_token") if getattr(options, name) is not None), None)
    wrong = "format" if options.format != "auto" else wrong
    if wrong is not None:
        raise InvalidInputError(
            f"{wrong} applies to files, not to a {type(options.path).__name__} in memory; leave it out.",
            code="option-of-another-format",
        )
    return open_object(options.path, source)


def recognise(path: Path) -> str:
    """The format of a file or folder, by its name and its content; an array of a file, ``file:name``, is dense."""
    for name in GENERAL_FORMATS:
        if load_format(name).recognise(path):
            return name
    if split_member(path)[1] is not None:  # an array of a file, by its name
        return "dense"
    known: str | None = layouts.ask("activation_format", path)
    if known is not None:
        return known
    if path.suffix in _TENSORS:
        return "dense"
    if not path.exists():
        raise NotFoundError(f"no file {path}; {nearby(path)}", code="no-such-file")
    raise InvalidInputError(
        f"{path} does not show its format; {_files_in(path)}pass --format, one of {', '.join(IMPORT_FORMATS)}.",
        code="unknown-format",
    )


def _files_in(path: Path) -> str:
    """Advice to give a file of a folder, where some look like activations."""
    if not path.is_dir():
        return ""
    suffixes = {*_TENSORS, ".npz", ".h5ad", ".zarr"}
    files = sorted(file.name for file in islice(path.iterdir(), 1000) if file.suffix in suffixes)
    return f"give a file in it, such as {' or '.join(files[:3])}, or " if files else ""
