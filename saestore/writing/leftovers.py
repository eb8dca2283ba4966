"""What a killed writer or a removal left: found and removed by the next writer."""

from __future__ import annotations

import shutil
from contextlib import suppress

import zarr

from saestore.storage import DOCUMENT, SnapshotStore, local_folder
from saestore.storage.durable import PARTIAL, drafts


def is_half_deleted(root: zarr.Group, path: str) -> bool:
    """Whether something is where no set is: left by a removal that was killed, or by a writer whose lock was broken."""
    parts = path.split("/")
    if len(parts) != 3 or not set(parts).isdisjoint({"", ".", ".."}):
        return False
    group = root.get(path)
    return bool(others(root, path, set())) if group is None else isinstance(group, zarr.Group) and not group.attrs


def others(root: zarr.Group, path: str, keep: set[str]) -> list[str]:
    """Paths of the children of a group, if there is one, but for those to keep; half-written ones of a folder too."""
    folder = local_folder(root)
    if folder is not None:
        names = {p.name for p in (folder / path).iterdir() if p.is_dir()} if (folder / path).is_dir() else set()
    else:
        names = SnapshotStore(root.store).names(f"{root.path}/{path}".strip("/")) - {DOCUMENT}
    return [f"{path}/{name}" for name in sorted(names - keep)]


def remove_group(root: zarr.Group, path: str) -> None:
    """Remove a group that nothing names, if it is there."""
    with suppress(FileNotFoundError, KeyError):
        remove(root, path)


def remove(root: zarr.Group, path: str) -> None:
    """Remove a group, of a folder without asking zarr."""
    folder = local_folder(root)
    if folder is None:
        del root[path]
    else:
        shutil.rmtree(folder / path)


def remove_partial_files(root: zarr.Group, path: str) -> None:
    """Remove the files that a killed write left beside its target; above the set, where others write, only old ones."""
    folder = local_folder(root)
    if folder is not None:
        old = (draft for parent in (folder / path).parents[:3] for draft in drafts(parent, old=True))
        for leftover in (*(folder / path).rglob(f"*{PARTIAL}"), *old):
            leftover.unlink(missing_ok=True)
