"""`saestore.import_activations` and `saestore.check_import`: activations that somebody else stored, into a store."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.activation_set import ActivationSet
from saestore.errors import InvalidInputError, NotFoundError
from saestore.format import SetAttributes
from saestore.formats.base import Rows
from saestore.formats.issues import Issue, refusal
from saestore.ingest.import_options import Progress, Request
from saestore.ingest.import_plan import Plan, make_plan
from saestore.store import Store, start_set
from saestore.store import open as open_store
from saestore.writing import SetLock, SetWriter
from saestore.writing.writer import read_attributes

# The merge at the end stays under this, so that the peak does not depend on the number of samples.
_MERGE_MEMORY = 256 << 20


@dataclass(frozen=True)
class ImportReport:
    """What reading somebody's activations showed.

    Attributes
    ----------
    path
        Path of the set that they would become.
    format
        Format of the file.
    n_samples, n_features, n_items, nnz
        What there is of usable activations.
    dtype
        Dtype in which they would be stored.
    faults
        Everything that is wrong or worth knowing.
    """

    path: str
    format: str
    n_samples: int
    n_features: int
    n_items: int
    nnz: int
    dtype: str
    faults: tuple[Issue, ...]

    @property
    def ok(self) -> bool:
        """False when an import would be refused."""
        return refusal(self.faults) is None

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "path": self.path,
            "format": self.format,
            "n_samples": self.n_samples,
            "n_features": self.n_features,
            "n_items": self.n_items,
            "nnz": self.nnz,
            "dtype": self.dtype,
            "ok": self.ok,
            "faults": [fault.to_json() for fault in self.faults],
        }


def import_activations(
    set_path: str,
    path: Any,
    *,
    store: Any = "activations.zarr",
    format: str = "auto",
    items: Any = None,
    item_ptr: Any = None,
    token_spans: Any = None,
    n_features: int | None = None,
    sparse: Any = None,
    pad_token: int | None = None,
    segment_rows: int | None = None,
    codec: str = "pcodec",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ActivationSet:
    """Store activations that another program wrote; resumes what an earlier call left.

    Parameters
    ----------
    set_path
        ``dataset/sample_type/sae``; the last may be left out where the file says which SAE it was.
    path
        The file or folder.
    store
        A folder, URL or zarr store; created if it does not exist. Or an open `saestore.Store`.
    format
        One of `saestore.ingest.open_input.FORMATS`, or ``auto``.
    items
        A ``metadata.csv``, DataFrame or mapping of columns: keys, split, concepts.
    item_ptr
        Samples per item, or which samples belong to which item: an array (n_items + 1,), ``file.npy``,
        ``file.npz:name`` or a ``token_counts`` ``.pt``.
    token_spans
        First and last character (exclusive) of every token in its text, (n_samples, 2): an array or ``file.npz:name``.
    n_features
        Width of the SAE, where the file does not say it.
    sparse
        For ``superactivators-filtered`` and ``superactivators-dense-filtered``: the sparse file that they were made
        from, to find out the true feature of each column.
    pad_token
        For ``delphi``: the id of padding tokens, which are left out.
    segment_rows
        Samples of a segment, the unit of commit; by default about two million non-zeros.
    codec
        ``pcodec``, or ``blosc`` for readers in other languages.
    overwrite
        Replace a set that a build or another import made.
    progress
        Called with a line of text now and then.

    Returns
    -------
    ActivationSet
        Complete and compacted. ``attributes.source["faults"]`` lists what was found in the file.

    Raises
    ------
    SaestoreError
        The file has faults that would change answers (before anything is written), the store holds something else under
        this name, another builder is at work, or the place is full: what is committed stays, and the same call goes on
        from there.

    Notes
    -----
    All rows are read twice: once to check them, before anything is written, and once to write. Peak memory is a segment
    of some 100 MiB, a block of 100 MiB that is read and checked, and 256 MiB for the merge at the end, whatever the
    number of samples; beside it 8 bytes a sample for pointers. What is stored by feature goes through a temporary file
    of 16 bytes a non-zero.
    """
    request = Request(
        set_path, path, format, items, item_ptr, token_spans, n_features, sparse, pad_token, segment_rows, codec
    )
    with ExitStack() as resources:
        return _import(make_plan(request, resources, progress), store, progress, overwrite=overwrite)


def _import(plan: Plan, store: Any, progress: Progress | None, *, overwrite: bool) -> ActivationSet:
    existing = None if overwrite else _peek(store, plan)
    if existing is not None and existing.complete:
        _say(progress, f"{plan.path} is complete already ({existing.n_samples:,} samples); nothing to do.")
        return (store if isinstance(store, Store) else open_store(store))[plan.path]
    report = _check(plan, existing.n_samples if existing else 0, progress)
    bad = refusal(report.faults)
    if bad is not None:
        raise InvalidInputError(f"{plan.opened.path}: {bad}. Nothing was written.")
    opened = store if isinstance(store, Store) else open_store(store, mode="a")
    with SetWriter(opened.root, plan.path) as writer:
        _run(plan, report, writer, progress, overwrite=overwrite)
    return opened[plan.path]


def check_import(
    set_path: str,
    path: Any,
    *,
    format: str = "auto",
    items: Any = None,
    item_ptr: Any = None,
    token_spans: Any = None,
    n_features: int | None = None,
    sparse: Any = None,
    pad_token: int | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Read activations that another program wrote, and say what is wrong with them; writes nothing.

    The parameters are those of `import_activations`.

    Raises
    ------
    NotFoundError, InvalidInputError, MissingDependencyError
        The files are missing, damaged, or do not fit the items, so that there is nothing to check.
    """
    request = Request(set_path, path, format, items, item_ptr, token_spans, n_features, sparse, pad_token)
    with ExitStack() as resources:
        return _check(make_plan(request, resources, progress), 0, progress)


def _peek(store: Any, plan: Plan) -> SetAttributes | None:
    """What the store holds under the plan's path, without writing to it; anything else than this import is an error."""
    try:
        root = store.root if isinstance(store, Store) else open_store(store).root
    except NotFoundError:
        return None
    SetLock(root, plan.path).check()
    existing = read_attributes(root, plan.path)
    if existing is not None:
        plan.refuse_other(existing)
    return existing


def _check(plan: Plan, first: int, progress: Progress | None) -> ImportReport:
    """Read all rows from `first` on."""
    opened, findings = plan.opened, plan.findings()
    for rows in plan.rows(first, opened.n_rows, findings):
        done = first + findings.rows
        _say(progress, f"{plan.path}: {done:,} of {opened.n_rows:,} samples checked ({len(rows.ids):,} non-zeros)")
    return ImportReport(
        plan.path,
        opened.format,
        opened.n_rows,
        plan.n_features,
        plan.index.n_items,
        findings.nnz,
        opened.dtype,
        tuple(plan.told(findings)),
    )


def _run(plan: Plan, report: ImportReport, writer: SetWriter, progress: Progress | None, *, overwrite: bool) -> None:
    """Start the set or take up the one that is there, and finish it."""
    if writer.attributes is not None and overwrite:
        writer.clear()
    if writer.attributes is None:
        l0 = report.nnz / max(1, report.n_samples)
        start_set(writer, plan.attributes(l0, report.faults), plan.items, plan.index, plan.spans)
    attributes = writer.attributes
    if attributes is None:
        raise RuntimeError("the set was not started")
    plan.refuse_other(attributes)  # once more, now that no other builder can change it
    if not attributes.complete:
        _write(plan, writer, attributes, progress)
        writer.finish(memory=_MERGE_MEMORY, progress=progress)


def _write(plan: Plan, writer: SetWriter, attributes: SetAttributes, progress: Progress | None) -> None:
    """Commit the rows that are not committed yet, a segment at a time."""
    n, findings = plan.opened.n_rows, plan.findings()
    for start in range(attributes.n_samples, n, attributes.segment_rows):
        stop = min(start + attributes.segment_rows, n)
        segment = _joined(list(plan.rows(start, stop, findings)))
        if refusal(plan.told(findings)) is not None:
            raise InvalidInputError(f"{plan.opened.path} changed while it was imported: it has faults that it had not.")
        writer.append(segment.indptr, segment.ids, segment.values)
        _say(progress, f"{plan.path}: {stop:,} of {n:,} samples written")


def _joined(parts: list[Rows]) -> Rows:
    offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
    indptr = [part.indptr[1:] + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
    return Rows(
        np.concatenate([[0], *indptr]).astype(np.int64),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def _say(progress: Progress | None, message: str) -> None:
    if progress is not None:
        progress(message)
