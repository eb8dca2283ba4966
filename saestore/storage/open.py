"""Opening a store wherever zarr can open one, and turning errors of the file system into one clear error."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from saestore.errors import (
    CorruptStoreError,
    MissingDependencyError,
    NotFoundError,
    SaestoreError,
    StoreFormatError,
    StoreWriteError,
    check_choice,
    check_path,
    first_line,
    raise_unreachable,
    refuse_unusable,
)
from saestore.format import DELETED, FORMAT_VERSION, check_version, digest
from saestore.storage import durable
from saestore.storage.batch import DOCUMENT, group_document
from saestore.storage.durable import PARTIAL
from saestore.storage.places import describe, local_path, place_of

if TYPE_CHECKING:
    import zarr

_BAD_PATH = (errno.ENAMETOOLONG, errno.ELOOP)

_GROUP = {"attributes", "node_type", "zarr_format"}
ROOT_ATTRIBUTES = {"format": FORMAT_VERSION, "encoding-type": "saestore"}


def root_attributes(n_deleted: int = 0) -> dict[str, Any]:
    """Attributes of a store from which this many sets have been deleted, with a checksum where there are any."""
    if not n_deleted:
        return dict(ROOT_ATTRIBUTES)
    result = {**ROOT_ATTRIBUTES, DELETED: n_deleted}
    return {**result, "checksum": digest(result)}


class LocalRoot:
    """The root of a store in a local folder that is only read: zarr is imported when its group is asked for."""

    path = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._group: zarr.Group | None = None

    @property
    def group(self) -> zarr.Group:
        """The root group."""
        if self._group is None:
            self._group = open_root(self.folder, "r")
        return self._group

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalRoot, (self.folder,)


Root = Union["zarr.Group", LocalRoot]


def local_root(location: Any, storage_options: Mapping[str, Any] | None = None) -> LocalRoot | None:
    """The root of a store in a local folder, to read. None for all that `open_root` opens, or refuses, instead."""
    if storage_options or getattr(location, "options", None):
        return None
    folder = local_path(Path(os.fsdecode(location)) if isinstance(location, os.PathLike | bytes) else location)
    attributes = None if folder is None else group_attributes(folder)
    if folder is None or attributes is None or attributes.get("encoding-type") != ROOT_ATTRIBUTES["encoding-type"]:
        return None
    check_version(attributes, describe(location))
    return LocalRoot(folder)


def group_attributes(folder: Path) -> dict[str, Any] | None:
    """The attributes of a group in a local folder; None where zarr must say what is there instead."""
    try:
        document = json.loads(durable.read_file(folder / DOCUMENT))
    except IsADirectoryError as e:  # or a pipe, for which zarr would wait
        raise StoreFormatError(f"{folder / DOCUMENT} is not a file.", code="unreadable-store") from e
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or set(document) != _GROUP or not isinstance(document["attributes"], dict):
        return None
    return document["attributes"] if (document["node_type"], document["zarr_format"]) == ("group", 3) else None


def group_of(root: Root) -> zarr.Group:
    """The root group of an opened store."""
    return root.group if isinstance(root, LocalRoot) else root


def place_name(root: Root) -> str:
    """The place of a store as zarr names it."""
    return f"file://{root.folder.as_posix()}" if isinstance(root, LocalRoot) else str(root.store)


def open_root(location: Any, mode: str, storage_options: Mapping[str, Any] | None = None) -> zarr.Group:
    """Open the root group of a store: a folder, a URL, a zip file, an icechunk session, a zarr store.

    `mode` is ``"r"`` to read, ``"r+"`` to read and write, ``"a"`` to read and write, created if it does not exist.
    `storage_options` reach a URL: endpoint, region, credentials …
    """
    check_choice("mode", mode, ("r", "r+", "a"), "unknown-mode")
    label = describe(location)
    try:
        location, local = place_of(location, mode, storage_options)
        if local is not None:
            _check_local(local)
    except (OSError, ValueError) as error:
        if isinstance(error, SaestoreError):
            raise
        if getattr(error, "errno", None) not in _BAD_PATH:
            raise_unreachable(label, error)
        raise StoreFormatError(f"{label} cannot be a path: {first_line(error)}.") from error
    root = _find(location, "r" if mode == "r" else "r+", label)
    if root is None:
        if mode != "a":
            raise NotFoundError(
                f"There is no saestore store at {label}. Build one with `saestore build`, or name another with "
                "--store PATH or $SAESTORE_PATH.",
                code="no-store",
            )
        with write_errors(label):
            return _create(location, local, label)
    if root.attrs.get("encoding-type") != ROOT_ATTRIBUTES["encoding-type"]:
        raise StoreFormatError(
            f"{label} is a Zarr group but no saestore store: its attributes lack 'encoding-type': 'saestore'. "
            "Name the folder that `saestore build` made.",
            code="not-a-store",
        )
    check_version(root.attrs.asdict(), label)
    return root


def _find(location: Any, mode: Any, label: str) -> zarr.Group | None:
    """The root group, or None where there is no document of one."""
    from zarr.abc.store import Store
    from zarr.errors import GroupNotFoundError

    from saestore.storage.snapshot import SnapshotStore

    place = Path(location) if isinstance(location, str) else location
    for _ in range(2):  # another process may make it meanwhile
        try:
            return _open_existing(location, mode, label)
        except (GroupNotFoundError, FileNotFoundError):  # zarr says so of damaged documents, too
            if not isinstance(place, Path | Store) or SnapshotStore(place).find([(DOCUMENT, None)]) == [None]:
                return None
    raise StoreFormatError(
        f"{label}: its zarr.json does not describe a group. Restore it from a copy.", code="unreadable-store"
    )


def _open_existing(location: Any, mode: Any, label: str) -> zarr.Group:
    import zarr
    from zarr.errors import ContainsArrayError, GroupNotFoundError, NodeTypeValidationError

    try:
        return zarr.open_group(location, mode=mode, zarr_format=3, use_consolidated=False)
    except (ContainsArrayError, NodeTypeValidationError) as e:
        raise StoreFormatError(f"{label} is a Zarr array, not a saestore store.", code="not-a-store") from e
    except (GroupNotFoundError, FileNotFoundError, MemoryError, SaestoreError):
        raise
    except ImportError as e:
        raise MissingDependencyError(f"{label} needs a package: {e}. Try `pip install 'zarr[remote]'`.") from e
    except OSError as e:
        raise_unreachable(label, e)
        raise StoreFormatError(
            f"{label} cannot be read ({e.strerror or e}). Name another path with --store.", code="unreadable-store"
        ) from e
    except Exception as e:
        raise_unreachable(label, e)
        if "read-only" in str(e) or "read only" in str(e):
            raise StoreWriteError(
                f"{label} is read-only: open it with mode='r', or make a writable copy.", code="read-only"
            ) from e
        # zarr parses a damaged document into almost any error there is.
        raise StoreFormatError(
            f"{label}: its zarr.json cannot be read ({e}). Restore it from a copy.", code="unreadable-store"
        ) from e


def _create(location: Any, local: Path | None, label: str, attempts: int = 3) -> zarr.Group:
    import zarr
    from zarr.abc.store import Store
    from zarr.errors import ContainsGroupError

    from saestore.storage.conditional import put_if_absent

    if isinstance(location, Store):
        put_if_absent(location, DOCUMENT, group_document(ROOT_ATTRIBUTES))
        return _open_existing(location, "r+", label)
    for half in () if local is None else local.glob(f"*{PARTIAL}"):  # of a process that was killed while it did this
        half.unlink(missing_ok=True)
    try:
        root = zarr.create_group(location, zarr_format=3, attributes=dict(ROOT_ATTRIBUTES))
        folder = local_folder(root)
        if folder is not None:
            durable.flush([folder / "zarr.json"], folder.parent)
        return root
    except (FileNotFoundError, ContainsGroupError):
        # Another process creates the same store: it was quicker, or took our document for a dead one's half.
        if not attempts:
            raise
    found = _find(location, "r+", label)
    return _create(location, local, label, attempts - 1) if found is None else found


def _check_local(path: Path) -> None:
    if "\0" in str(path):
        raise StoreFormatError(f"{path} cannot be a path: it has a character of value 0.")
    if path.is_file():
        raise StoreFormatError(
            f"{path} is a file; a store is a folder or a zip file. Name another path.", code="not-a-store"
        )
    group_attributes(path)  # which refuses a document that is not a file
    if path.is_dir() and not (path / "zarr.json").exists() and any(p.suffix != PARTIAL for p in path.iterdir()):
        raise StoreFormatError(
            f"{path} is a folder but no saestore store (it has no zarr.json). Name the folder that "
            "`saestore build` made, or a new path to build one.",
            code="not-a-store",
        )


@contextmanager
def write_errors(label: str) -> Iterator[None]:
    """Turn the error of a full, read-only or forbidden place into a `StoreWriteError` with advice."""
    try:
        yield
    except SaestoreError:
        raise
    except Exception as e:
        code, reason = _write_reason(e)
        if code is None:
            if isinstance(e, ValueError):
                refuse_unusable(e)
            if getattr(e, "errno", None) != errno.EPIPE:  # of a pipe that the program prints to
                raise_unreachable(label, e, "written")
            raise
        raise StoreWriteError(f"Cannot write {label}: {reason}", code=code) from e


def check_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of a device, a pipe or a socket, which would be gone."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise StoreWriteError(
            f"Cannot write {path}: it is a device, a pipe or a socket, which a file would replace. Name a file.",
            code="not-a-file",
        )


def save_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file that a user asked for, whole or not at all, and return its path."""
    target = check_path("path", path)
    with write_errors(str(path)):
        check_replaceable(target)
        durable.make_folder(target.parent)
        durable.replace_file(target, content)
        for draft in durable.drafts(target.parent, old=True):  # of processes killed while they wrote this file
            if draft.name.startswith(f"{target.name}."):
                draft.unlink(missing_ok=True)
    return target


_WRITE_REASONS = (
    (
        (errno.ENOSPC, errno.EDQUOT),
        "disk-full",
        "no space is left on the device. What is committed is safe: free some space and run the same command again, it "
        "resumes.",
    ),
    (
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "read-only",
        "it is read-only for this user ({error.strerror}). Choose another path with --store, or change its mode.",
    ),
    (
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
        "path-is-a-file",
        "a part of the path is a file ({where}). Choose another path with --store.",
    ),
    (_BAD_PATH, "bad-path", "the system cannot follow the path ({error.strerror}). Choose another path with --store."),
    (
        (errno.EMFILE, errno.ENFILE),
        "too-many-files",
        "the process has used its file handles. Close files or raise `ulimit -n`, then run the command again.",
    ),
    (
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
        "device-error",
        "the device or the network folder does not answer well ({error.strerror}). What is committed is safe: check "
        "the device, then run the same command again.",
    ),
)


def _write_reason(error: Exception) -> tuple[str | None, str]:
    """The code and the advice for an error of a place that cannot be written, (None, "") for any other."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        return "read-only", "it was opened read-only. Open it with mode='a'."
    if isinstance(error, FileNotFoundError):  # of the system's own folders, or one that is removed meanwhile
        return "bad-path", f"no file can be made there ({first_line(error)}). Choose another path."
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # under what a library makes of it
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        for numbers, code, advice in _WRITE_REASONS:
            if cause.errno in numbers:
                return code, advice.format(error=cause, where=cause.filename or cause.strerror)
    return None, ""


class missing_as_error:
    """Name the node in any error that zarr and the codecs raise on a damaged or missing chunk or document.

    Every read is inside of one: a generator would take three times as long.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, SaestoreError | MemoryError):
            return
        raise_unreachable(self.what, error)
        # zarr parses a damaged document into almost any error there is.
        raise CorruptStoreError(
            f"{self.what} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:160]}). Run `saestore "
            "verify`, then rebuild the set."
        ) from error


def local_folder(root: Root) -> Path | None:
    """The folder of a group in a local store, else None."""
    if isinstance(root, LocalRoot):
        return root.folder
    from zarr.storage import LocalStore

    return Path(root.store.root) / root.path if isinstance(root.store, LocalStore) else None
