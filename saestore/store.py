"""A store: the activation sets in one Zarr hierarchy, and writing ready matrices into it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from saestore.errors import NotFoundError, SaestoreError, check_at_least, did_you_mean, reached
from saestore.format import SET_LEVELS, split_set_path, stripped_path
from saestore.progress import Progress, ProgressOption
from saestore.provenance import given_sae_record, source_record
from saestore.query import html
from saestore.query.html import escape
from saestore.storage import (
    DOCUMENT,
    Root,
    SnapshotStore,
    durable,
    find_sets,
    group_of,
    is_set_at,
    local_folder,
    local_root,
    open_root,
    place_name,
    read_attributes,
)
from saestore.vocabulary import DEFAULT_MEMORY

if TYPE_CHECKING:
    import scipy.sparse
    import zarr

    from saestore.activation_set import ActivationSet
    from saestore.query.reader import SetReader
    from saestore.repair import Repair
    from saestore.verify import Report
    from saestore.writing.pipeline import Destination

_SHOWN = 20  # sets in a notebook


def open(
    location: Any,
    mode: str = "r",
    *,
    storage_options: Mapping[str, Any] | None = None,
    durability: str = "full",
) -> Store:
    """Open a store.

    Parameters
    ----------
    location
        A folder, a zip file (to read), a URL (``s3://``, ``gs://``, ``az://``; ``http://``, ``https://``, ``hf://`` to
        read), an icechunk repository or session, or a zarr store such as ``zarr.storage.MemoryStore()``.
    mode
        ``"r"`` to read; ``"r+"`` to read and write; ``"a"`` to read and write, created if it does not exist.
    storage_options
        What reaches a URL: ``endpoint``, ``region``, ``access_key_id``, ``skip_signature``, ``timeout``,
        ``max_retries`` and the other keys of obstore. The environment variables of the provider are read as well.
    durability
        ``"full"``: what a local folder has committed outlives a crash of the machine. ``"fast"``: only a crash of the
        process; for this folder, in this process, until it is opened again.

    Raises
    ------
    NotFoundError, StoreFormatError
        Nothing is there; it is not a store, or a newer one.
    NotAllowedError, UnreachableError
        The credentials do not suffice; the place does not answer.
    StoreWriteError
        It cannot be written.
    """
    local = local_root(location, storage_options) if mode == "r" else None
    root = local or open_root(location, mode, storage_options)
    durable.set_durability(local_folder(root), durability)
    return Store(root, mode)


class Store(Mapping[str, "ActivationSet"]):
    """The activation sets of one Zarr hierarchy: a mapping from path to `ActivationSet`, in the order of the paths.

    ``store["CLEVR/patch"]`` takes any part of a path that fits one set only. A set is opened when it is asked for.
    """

    def __init__(self, root: Root, mode: str = "r") -> None:
        self._root = root
        self.mode = mode

    @property
    def root(self) -> zarr.Group:
        """The root group."""
        return group_of(self._root)

    __eq__ = object.__eq__  # two mappings are equal if all their values are: that would open every set
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        paths = self._paths()
        named = ", ".join(paths) or "none"
        return f"<saestore.Store {place_name(self._root)} with {len(paths)} activation sets: {named}>"

    def _repr_html_(self) -> str:
        """A table of the sets; damage is shown, never raised: this is how one looks for it."""
        paths, damaged = find_sets(self._root)
        rows = [_html_row(self._root, path) for path in paths[:_SHOWN]]
        head = ["set", "samples", "features", "non-zeros", "L0", "items", "size", "SAE", "state"]
        more = f"<p>… {len(paths) - _SHOWN:,} more sets</p>" if len(paths) > _SHOWN else ""
        broken = "".join(f"<p>Damaged: {escape(str(error))}</p>" for error in damaged.values())
        body = html.table(head, rows, left=(0, 7, 8)) if paths else "<p>No activation set yet.</p>"
        return f"<strong>saestore.Store</strong> {escape(place_name(self._root))}{body}{more}{broken}"

    def _paths(self) -> list[str]:
        paths, damaged = find_sets(self._root)
        if damaged:
            raise next(iter(damaged.values()))
        return paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths())

    def __len__(self) -> int:
        return len(self._paths())

    def __contains__(self, path: object) -> bool:
        try:
            self.resolve(str(path))
        except NotFoundError:
            return False
        return True

    def __getitem__(self, path: str) -> ActivationSet:
        from saestore.activation_set import ActivationSet

        parts = stripped_path(path).split("/")
        if len(parts) == len(SET_LEVELS):
            with suppress(NotFoundError):  # then the message names what there is
                return ActivationSet(self._root, "/".join(parts))
        return ActivationSet(self._root, self.resolve(path))

    def resolve(self, path: str) -> str:
        """The full path of the one set that `path`, a part of a path, fits.

        Raises
        ------
        NotFoundError
            It fits none, or several; the message names them.
        """
        parts = stripped_path(path).split("/")
        if len(parts) == 3 and is_set_at(self._root, "/".join(parts)):
            return "/".join(parts)
        paths = self._paths()
        fits = [each for each in paths if _contains(each.split("/"), parts)] if path.strip("/") else paths
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise NotFoundError(
                f"{path!r} fits several activation sets; name one of {', '.join(fits)}.", code="ambiguous-set"
            )
        hint = did_you_mean(path, [*paths, *dict.fromkeys(part for each in paths for part in each.split("/"))])
        raise NotFoundError(
            f"There is no activation set {path!r}. {hint}The store has {', '.join(paths) or 'none'}.",
            code="unknown-set",
        )

    def repair(self, path: str, progress: ProgressOption = False) -> Repair:
        """Salvage what is whole of a damaged set: derived arrays and either order of a segment are made again.

        Returns
        -------
        Repair
            ``found`` before, what was ``mended``, and what is ``lost``.
        """
        from saestore.repair import repair_set

        return repair_set(self.root, self._named(path), Progress(progress).line)

    def _named(self, path: str) -> str:
        """The full path of a set, which may be so damaged that it cannot be found."""
        path = stripped_path(path)
        if len(path.split("/")) == len(SET_LEVELS):
            (document,) = SnapshotStore.of(self._root).find([(f"{self._root.path}/{path}/{DOCUMENT}".strip("/"), None)])
            if document is not None:
                return path
        return self.resolve(path)

    def write(
        self,
        path: str,
        matrix: scipy.sparse.sparray | scipy.sparse.spmatrix,
        item_ptr: Any = None,
        items: Any = None,
        *,
        token_spans: Any = None,
        sae: Any = None,
        source: Mapping[str, Any] | None = None,
        images: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        codec: str = "pcodec",
        segment_rows: int | None = None,
        overwrite: bool = False,
        memory: int = DEFAULT_MEMORY,
        durability: str | None = None,
        progress: ProgressOption = False,
    ) -> ActivationSet:
        """Store ready activations exactly: every non-zero, negative ones too; duplicates are summed first.

        The same call resumes an interrupted write. A complete set is left as it is.

        Parameters
        ----------
        path
            ``dataset/sample_type/sae``.
        matrix
            Any scipy sparse matrix or array, samples x features.
        item_ptr
            int (n_items + 1,): item i has the rows ``item_ptr[i]:item_ptr[i + 1]``; or the rows of every item.
            By default the rows divide evenly among `items`, and without items each row is one.
        items
            A ``metadata.csv``, a DataFrame or a mapping of columns.
        token_spans
            First and last character (exclusive) of every token in its text, (n_samples, 2): an array or
            ``file.npz:name``.
        sae
            The SAE that made the activations. A folder, a file or a loaded SAE is recorded with its fingerprint.
            A name, ``release:sae_id`` or a mapping is recorded as it is; nothing is downloaded.
        source
            Where the activations come from: a mapping of JSON-able values, recorded in ``attributes.source``.
        images
            The folder that the keys of image items start in, for plots.
        dtype
            float16, float32 or float64; by default a dtype that holds the values exactly. A value that `dtype` cannot
            hold exactly is an error: only `saestore.build` narrows, and records it.
        codec
            ``pcodec``, or ``blosc`` for readers in other languages.
        segment_rows
            Samples per segment, the unit of commit; by default about two million non-zeros.
        overwrite
            Replace a set of other content.
        memory
            Bound in bytes on the merge at the end.
        durability
            ``"full"`` or ``"fast"``, as `saestore.open` takes it; by default as the store was opened.
        progress
            True shows bars and lines on stderr, False shows nothing, a function receives every line.

        Raises
        ------
        InvalidInputError
            A value is not finite, the dtype cannot hold the values, the items do not fit the rows.
        StoreConflictError
            The store has a set of other content at this path, and `overwrite` is False.
        """
        from saestore.writing.matrix_rows import MatrixRows
        from saestore.writing.pipeline import Destination, check_storage_options, write_set
        from saestore.writing.plan import ItemTable, WritePlan

        split_set_path(path)
        given = source_record(source, images)
        rows = MatrixRows.of(matrix, dtype, given)
        check_storage_options(codec, segment_rows)
        plan = WritePlan(
            path=path,
            rows=rows,
            table=ItemTable.of(rows.n_rows, items, item_ptr, token_spans),
            dtype=rows.dtype,
            codec=codec,
            segment_rows=segment_rows,
            sae=given_sae_record(sae, path, rows.n_features),
            settings={name: f"source {name}" for name in given},
        )
        with durable.at_durability(local_folder(self.root), durability):
            write_set(plan, Destination(self.root), Progress(progress), overwrite=overwrite, memory=memory)
        return self[path]

    def compact(
        self,
        path: str,
        *,
        memory: int = DEFAULT_MEMORY,
        client: Any = None,
        progress: ProgressOption = False,
    ) -> ActivationSet:
        """Merge the segments of a set into one; queries answer the same all the while.

        Parameters
        ----------
        path
            Any part of the set's path that fits one set only.
        memory
            Bound in bytes, of each process that merges.
        client
            A ``distributed.Client`` whose workers merge, each some shards of the result; the bytes are the same. By
            default this process merges.
        progress
            True shows lines on stderr, False shows nothing, a function receives every line.
        """
        from saestore.distributed.engines import engine_of
        from saestore.writing import SetWriter

        memory = check_at_least("memory", memory, 1)
        path, engine = self.resolve(path), None if client is None else engine_of(client)
        with SetWriter(self.root, path) as writer:
            writer.compact(memory=memory, progress=Progress(progress).line, engine=engine)
        return self[path]

    def verify(self, path: str | None = None, progress: ProgressOption = False) -> Report:
        """Re-read everything and check it; see `saestore.verify`."""
        from saestore.verify import verify_set, verify_store

        report = Progress(progress).line
        with reached("the store" if path is None else stripped_path(path)):
            return verify_store(self.root, report) if path is None else verify_set(self.root, self._named(path), report)

    def unlock(self, path: str, *, force: bool = False) -> dict[str, Any] | None:
        """Remove the lock that a writer left which cannot be seen from here, such as one of another host.

        The lock of a writer that ended on this machine, or that did not renew its lease on an object store, needs no
        unlocking: the next writer takes it over.

        Parameters
        ----------
        path
            The set: any part of its path that fits one set only, or its full path.
        force
            Remove the lock of a living writer too; it commits nothing from then on.

        Returns
        -------
        dict or None
            Whose lock it was (``host``, ``pid``, ``time`` …); None where the set is not locked.

        Raises
        ------
        LockedError
            The writer is alive, and `force` is False (code ``owner-alive``).
        """
        from saestore.writing import SetLock

        if stripped_path(path).count("/") != 2:  # a writer may have left nothing else than the lock
            path = self.resolve(path)
        return SetLock(self.root, path).break_(force=force)

    def delete(self, path: str) -> None:
        """Remove an activation set; the same call goes on where an earlier one was killed."""
        from saestore.writing.leftovers import is_half_deleted
        from saestore.writing.writer import SetWriter

        try:
            path = self.resolve(path)
        except NotFoundError:
            if not is_half_deleted(self.root, path.strip("/")):
                raise
            path = path.strip("/")
        with SetWriter(self.root, path) as writer:
            writer.clear()


def reader_of(store: Store, path: str) -> SetReader:
    """A set to ask questions of, which is opened without the modules that analyses and pictures need."""
    from saestore.query.reader import SetReader

    return SetReader(store._root, path)  # noqa: SLF001


def destination_of(store: Any) -> Destination:
    """Where to write to: an open `Store`, or a folder, URL or zarr store."""
    from saestore.writing.pipeline import Destination

    return Destination(store.root if isinstance(store, Store) else store)


def _html_row(root: Root, path: str) -> list[str]:
    try:
        a = read_attributes(root, path)
        if a is None:
            raise NotFoundError("deleted meanwhile")
        numbers = [f"{a.n_samples:,}", f"{a.n_features:,}", f"{a.nnz:,}", html.l0(a), f"{a.n_items:,}"]
        return [path, *numbers, html.size(a.stored_bytes), html.sae_name(a), html.state(a)]
    except (SaestoreError, KeyError) as error:
        return [path, *[""] * 7, str(error)]


def _contains(parts: list[str], part: list[str]) -> bool:
    return any(parts[i : i + len(part)] == part for i in range(len(parts)))
