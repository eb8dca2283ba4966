"""Kill whoever adds labels, at each of its writes: a reader sees the old labels or the new ones, and the next goes on.

    python killing_labels.py FOLDER

A process of its own without threads, so that it can fork; see killing.py.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from killing import CASE, KILLED, PATH, check_answers, count, in_child, killed, succeed
from strategies import layout, write_case

import saestore

N = len(CASE.dense)
OLD = {"object": np.arange(N) % 3 == 0, "other": np.arange(N) % 2 == 0}
NEW = {"object": np.arange(N) % 5 == 0}


def prepare(folder: Path) -> None:
    acts = write_case(saestore.open(folder, "a"), CASE)
    with layout(CASE):
        acts.concepts.add(OLD, level="sample")


def add(folder: Path) -> None:
    with layout(CASE):
        saestore.open(folder, "a")[PATH].concepts.add(NEW, level="sample", overwrite=True)


def state(folder: Path) -> str:
    """Which labels a reader finds; anything but the old or the new ones is an error."""
    acts = saestore.open(folder)[PATH]
    found = {name: acts.concepts.mask(name, "sample").tolist() for name in acts.concepts.names("sample")}
    old = {name: mask.tolist() for name, mask in OLD.items()}
    new = old | {name: mask.tolist() for name, mask in NEW.items()}
    assert found in (old, new), found
    return "old" if found == old else "new"


def check_whole(folder: Path) -> None:
    check_answers(folder)
    report = saestore.open(folder).verify()
    assert report.ok, report.problems
    assert state(folder) == "new"


def write_state(folder: Path, where: Path) -> None:
    check_answers(folder)
    where.write_text(state(folder))


def main(base: Path) -> None:
    template, work, note = base / "template", base / "work", base / "note"
    succeed(prepare, template)
    shutil.copytree(template, work)
    total = count(add, work, note)
    succeed(check_whole, work)
    seen = []
    for n in sorted({*range(1, total, 2), total}):  # killed before a write, after it and in its middle by turns
        shutil.rmtree(work)
        shutil.copytree(template, work)
        assert in_child(killed, add, work, n) == KILLED
        succeed(write_state, work, note)
        seen.append(note.read_text())
        succeed(add, work)
        succeed(check_whole, work)
    assert seen == sorted(seen, key=["old", "new"].index), seen  # one commit: first only old ones, then only new ones
    assert len(set(seen)) == 2
    assert total > 8


if __name__ == "__main__":
    main(Path(sys.argv[1]))
