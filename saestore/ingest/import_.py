"""`saestore.import_activations` and `saestore.check_import`: activations that another program stored, into a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from saestore.activation_set import ActivationSet
from saestore.errors import reached
from saestore.formats.issues import Issue, refusal
from saestore.ingest.import_plan import plan_import
from saestore.ingest.known import add_found_truth
from saestore.ingest.options import ImportOptions, bound, with_arguments_of
from saestore.ingest.recipes import ImportRecipe, make_plan, run_everywhere
from saestore.progress import Progress, ProgressOption
from saestore.store import destination_of
from saestore.writing.pipeline import write_set


@dataclass(frozen=True)
class ImportReport:
    """What reading the activations of another program showed."""

    path: str  # of the set that they become
    format: str  # of the file
    # Shape, items and number of the usable activations
    n_samples: int
    n_features: int
    n_items: int
    nnz: int
    dtype: str  # in which they are stored
    faults: tuple[Issue, ...]  # everything that is wrong or worth knowing

    @property
    def ok(self) -> bool:
        """False when an import is refused."""
        return refusal(self.faults) is None

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {**vars(self), "ok": self.ok, "faults": [fault.to_json() for fault in self.faults]}


@reached("the input")
def import_activations(
    set_path: str,
    path: Any = None,
    *,
    store: Any = "activations.zarr",
    format: str = "auto",
    items: Any = None,
    item_ptr: Any = None,
    token_spans: Any = None,
    tokens: Any = None,
    mask: Any = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    n_features: int | None = None,
    sparse: Any = None,
    pad_token: int | None = None,
    sae: Any = None,
    source: Mapping[str, Any] | None = None,
    images: Any = None,
    data: str | None = None,
    ground_truth: str | bool | None = None,
    other_model: bool = False,
    segment_rows: int | None = None,
    codec: str = "pcodec",
    overwrite: bool = False,
    client: Any = None,
    progress: ProgressOption = True,
) -> ActivationSet:
    """Store activations that another program wrote.

    The same call resumes an interrupted import. A complete set is left as it is.

    Parameters
    ----------
    set_path
        ``dataset/sample_type/sae``; the last part may be left out where the file or `sae` names the SAE. Of a known
        data set the name alone will do: then as ``build`` of that name.
    path
        The file or folder, or activations in memory: a scipy or torch sparse matrix, an AnnData, an ``EncoderOutput``
        (an object with ``top_acts`` and ``top_indices``), a mapping of arrays by the names that a ``.npz`` may have, or
        a dense array or tensor. By default the sparse file of a known data set, found by name under `data`, then
        ``$SAESTORE_SCRATCH``, in ``SAE_Activations_Sparse/<dataset>/``, with its metadata, token counts and ground
        truth.
    store
        A folder, URL or zarr store; created if it does not exist. Or an open `saestore.Store`.
    format
        ``auto``, or one of `saestore.vocabulary.IMPORT_FORMATS`.
    items
        A ``metadata.csv``, DataFrame or mapping of columns: keys, split, concepts.
    item_ptr
        Samples per item, or which samples belong to which item: an array (n_items + 1,), ``file.npy``,
        ``file.npz:name`` or a ``token_counts`` ``.pt``.
    token_spans
        First and last character (exclusive) of every token in its text, (n_samples, 2): an array or ``file.npz:name``.
    tokens, mask, include, exclude
        As in `saestore.build`, for the rows of the file; ``norm`` and ``sink`` need the key ``embeddings`` of `source`.
    n_features
        Width of the SAE, where the file does not record it.
    sparse
        For ``superactivators-filtered`` and ``superactivators-dense-filtered``: the sparse file that they were made
        from, to find out the true feature of each column.
    pad_token
        For ``delphi``: the id of padding tokens, which are left out.
    sae
        The SAE that made the activations. A folder, a file or a loaded SAE is recorded with its fingerprint, so that
        the set can be decoded, diagnosed and compared with baselines. A name, ``release:sae_id`` or a mapping is
        recorded as it is.
    source
        Where the activations come from: a mapping of JSON-able values, recorded in ``attributes.source``. Its key
        ``embeddings`` is where the embeddings are.
    images
        The folder that the keys of image items start in, for plots.
    data
        As in `saestore.build`; metadata, token counts and ground truth are found there by the data set's name.
    ground_truth
        As in `saestore.build`; found by name with `data` or without `path`.
    other_model
        Store them although the file states another model or hook than `sae`.
    segment_rows
        Samples per segment, the unit of commit; by default about two million non-zeros.
    codec
        ``pcodec``, or ``blosc`` for readers in other languages.
    overwrite
        Replace a set of other content.
    client
        A ``distributed.Client``: its workers read and merge, and the set has the same bytes. They need to see the same
        paths. By default this process does everything.
    progress
        True shows bars and lines on stderr, False shows nothing, a function receives every line.

    Returns
    -------
    ActivationSet
        Complete and compacted. ``attributes.source["faults"]`` lists the faults of the file.

    Raises
    ------
    SaestoreError
        The file has faults that would change answers (before anything is written), the store has other content at this
        path, another process writes the set, or the disk is full: what is committed stays, and the same call goes on
        from there.

    Notes
    -----
    All rows are read twice: once to check them, before anything is written, and once to write. Peak memory is two
    segments of about 100 MiB, a block of 100 MiB that is read and checked, and 256 MiB for merges, for any
    number of samples; besides 8 bytes per sample for pointers. Activations that are stored by feature go through a
    temporary file of 16 bytes per non-zero.
    """
    given = dict(locals())
    report = Progress(progress)
    with ExitStack() as resources:
        options, destination = ImportOptions.of(given), destination_of(store)
        plan = plan_import(options, resources, report)
        if client is not None:
            recipe = ImportRecipe(options, overwrite)
            return run_everywhere(make_plan(recipe, plan, destination, report), client, report)
        root = write_set(plan, destination, report, overwrite=overwrite)
    acts = ActivationSet(root, plan.path)
    add_found_truth(acts, plan.truth, report)
    return acts


@with_arguments_of(import_activations)
def check_import(*args: Any, **kwargs: Any) -> ImportReport:
    """Read activations that another program wrote, and report what is wrong with them; writes nothing.

    Takes the arguments of `import_activations`; what is only for writing has no effect.

    Raises
    ------
    NotFoundError, InvalidInputError, MissingDependencyError
        The files are missing, damaged, or do not fit the items, so that there is nothing to check.
    """
    given = bound(import_activations, *args, **kwargs)
    report = Progress(given["progress"])
    with ExitStack() as resources:
        plan = plan_import(ImportOptions.of(given), resources, report)
        collector = plan.look(0, report)
    rows = plan.rows
    return ImportReport(
        path=plan.path,
        format=rows.opened.format,
        n_samples=rows.n_rows,
        n_features=rows.n_features,
        n_items=plan.table.index.n_items,
        nnz=collector.nnz,
        dtype=plan.dtype,
        faults=tuple(rows.reported),
    )
