"""A crash of the machine: what a committed document names is on the disk before it, and removals come after it."""

import json
import os
from pathlib import Path

import pytest
from strategies import PATH, make_case, write_case, write_segments

import saestore


class Recorder:
    """Watches the flushes, renames and removals below a folder; `faults` are those in an order that loses data."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.faults, self.commits, self.removals = folder, [], 0, 0
        self.flushed: dict[int, int] = {}  # by inode: the time of change that is on the disk
        self.unflushed_commit: Path | None = None
        for name in ("fsync", "replace", "rename", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name, call):
        def watched(*args, **options):
            if name == "fsync":
                node = os.fstat(args[0])
                self.flushed[node.st_ino] = node.st_mtime_ns
                if self.unflushed_commit is not None and os.path.samestat(node, self.unflushed_commit.stat()):
                    self.unflushed_commit = None
                return call(*args, **options)
            if "dir_fd" in options and options["dir_fd"] is not None:
                path = Path(f"/proc/self/fd/{options['dir_fd']}").readlink() / args[0]
            else:
                path = Path(args[-1])
            commits = path == self.folder / PATH / "zarr.json" and name in ("replace", "rename")
            if commits:
                self._check_commit(Path(args[0]))
            elif name in ("unlink", "rmdir") and "lock" not in path.parts and path.suffix != ".partial":
                self._check_removal(path)
            clean = name in ("unlink", "rmdir") and path.exists() and self._is_flushed(path.parent)
            answer = call(*args, **options)
            if clean:  # a name that comes back after a crash is removed again
                self.flushed[path.parent.stat().st_ino] = path.parent.stat().st_mtime_ns
            if commits:
                self.unflushed_commit = path.parent
            return answer

        return watched

    def _is_flushed(self, path: Path) -> bool:
        node = path.stat()
        return self.flushed.get(node.st_ino) == node.st_mtime_ns

    def _check_commit(self, draft: Path) -> None:
        self.commits += 1
        attributes = json.loads(draft.read_text())["attributes"]
        base = self.folder / PATH
        named = [base / "segments" / s["name"] for s in attributes.get("segments", [])]
        named += [base / t / node for t, of in attributes.get("tables", {}).items() for node in of["arrays"]]
        named += [base / name for name in attributes.get("arrays", {})]
        nodes = [node for each in named for node in (each, *each.rglob("*"))]
        folders = {parent for node in nodes for parent in node.parents if self.folder in (parent, *parent.parents)}
        # The set's own folder changes with the draft; its names are flushed after the rename, and before any removal.
        for node in {*nodes, *folders, draft} - {base}:
            if not self._is_flushed(node):
                self.faults.append(f"commit {self.commits} before {node.relative_to(self.folder)} was flushed")

    def _check_removal(self, path: Path) -> None:
        if self.folder in path.parents:
            self.removals += 1
            if self.unflushed_commit is not None:
                self.faults.append(f"{path.relative_to(self.folder)} removed before the commit was flushed")


def jobs():
    case = make_case(1, 24, 6, density=0.5, segment_rows=8, ragged=True)
    return {
        "write": (None, lambda store: write_case(store, case)),
        "compact": (lambda store: write_segments(store, case), lambda store: store.compact(PATH)),
        "label": (
            lambda store: write_case(store, case),
            lambda store: store[PATH].concepts.add({"c": case.dense[:, 0] > 0}, level="sample"),
        ),
        "overwrite": (
            lambda store: write_case(store, case),
            lambda store: write_case(store, make_case(2, 30, 6, segment_rows=8), overwrite=True),
        ),
        "delete": (lambda store: write_case(store, case), lambda store: store.delete(PATH)),
    }


@pytest.mark.parametrize("name", ["write", "compact", "label", "overwrite", "delete"])
def test_data_are_on_the_disk_before_the_document_that_names_them_and_removals_after(tmp_path, monkeypatch, name):
    before, job = jobs()[name]
    recorder = Recorder(tmp_path / "a.zarr", monkeypatch)  # also of what the job begins with
    store = saestore.open(tmp_path / "a.zarr", "a")
    if before is not None:
        before(store)
    recorder.commits = recorder.removals = 0
    job(store)
    assert not recorder.faults, recorder.faults[:5]
    assert recorder.commits > 0
    assert recorder.removals > 0 or name == "label"
    assert recorder.unflushed_commit is None
