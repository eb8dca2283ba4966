"""One peer, one task, in a process of its own: `python -m benchmarks.one PEER FOLDER TASK QUERY`, QUERY in JSON.

FOLDER is that of the peer's files; beside it lies the table of items. The task `write` writes the matrix in the file
that QUERY names into it. Prints the peak memory of the process as JSON. What the process takes in all, its start and
imports included, is for the caller to time.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.labels import Items
from benchmarks.memory import peak_bytes
from benchmarks.peers import PEERS, Peer
from benchmarks.tasks import SCORES, TASKS

ITEMS, SIZE = "items.npz", "item_size"
WRITE = "write"


def save_items(folder: Path, item_size: int, items: Items) -> None:
    np.savez(folder / ITEMS, **{SIZE: np.array(item_size)}, **items)


def peer_of(key: str, folder: Path, task: str) -> Peer:
    with np.load(folder.parent / ITEMS) as saved:
        wanted = [name for name in saved.files if name != SIZE] if task == WRITE else ["split"]
        return PEERS[key](folder, int(saved[SIZE]), {name: saved[name] for name in wanted})


def do(peer: Peer, task: str, query: Any) -> None:
    if task == WRITE:
        import scipy.sparse as sp

        peer.write(sp.load_npz(query))
        return
    peer.open()
    if task != "open":
        (TASKS | {SCORES.key: SCORES})[task].ask(peer, np.array(query) if task == "rows" else query)


def main() -> None:
    key, folder, task, query = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):  # some packages greet
        do(peer_of(key, Path(folder), task), task, json.loads(query))
    print(json.dumps({"peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
