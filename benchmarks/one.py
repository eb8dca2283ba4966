"""One peer, one question, in a process of its own: `python -m benchmarks.one PEER FOLDER TASK QUERY`, QUERY in JSON.

FOLDER is that of the peer's files; beside it lies the table of items. Prints the peak memory of the process as JSON.
What the process takes in all, its start and imports included, is for the caller to time.
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.labels import Items
from benchmarks.memory import peak_bytes
from benchmarks.peers import PEERS
from benchmarks.tasks import SCORES, TASKS

ITEMS = "items.npz"


def save_items(folder: Path, item_size: int, items: Items) -> None:
    np.savez(folder / ITEMS, item_size=item_size, split=items["split"])


def main() -> None:
    key, folder, task, query = sys.argv[1:]
    with np.load(Path(folder).parent / ITEMS) as saved:
        peer = PEERS[key](Path(folder), int(saved["item_size"]), {"split": saved["split"]})
    given = json.loads(query)
    with contextlib.redirect_stdout(sys.stderr):  # some packages greet
        peer.open()
        if task != "open":
            (TASKS | {"scores": SCORES})[task].ask(peer, np.array(given) if task == "rows" else given)
    print(json.dumps({"peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
