"""One peer and one task in a process of its own: `python -m benchmarks.process PEER FOLDER TASK QUERY`, QUERY in JSON.

FOLDER holds the peer's files; the splits of the items are in the folder above it. The process prints its peak memory as
JSON; the caller measures its time.
"""

import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS
from benchmarks.synthetic import Items
from benchmarks.tasks import SCORES, TASKS

ROOT = Path(__file__).parent.parent
STATUS = Path("/proc/self/status")
ITEMS = "items.npz"


def peak_bytes(pid: int | str = "self") -> int:
    """Peak resident memory of this process, or on Linux of another one.

    Linux's VmHWM where there is one: `ru_maxrss` of a child starts with the size of the process that started it.
    """
    if STATUS.exists():
        return _status("VmHWM", pid)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def private_bytes() -> int:
    """Resident memory that is not mapped from a file (on Linux; elsewhere the peak)."""
    return _status("RssAnon") if STATUS.exists() else peak_bytes()


def _status(name: str, pid: int | str = "self") -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return 1024 * int(fields[name].split()[0])


def run(command: list[str]) -> tuple[float, dict[str, Any]]:
    """Run Python with these arguments; return the seconds it takes and the JSON that it prints."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    return seconds, json.loads(done.stdout)


def run_task(key: str, folder: Path, task: str, query: Any) -> tuple[float, dict[str, Any]]:
    plain = query.tolist() if isinstance(query, np.ndarray) else query
    return run(["-m", "benchmarks.process", key, str(folder), task, json.dumps(plain)])


def save_items(folder: Path, item_size: int, items: Items) -> None:
    np.savez(folder / ITEMS, item_size=item_size, split=items["split"])


def main() -> None:
    key, name, task, query = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr), np.load(Path(name).parent / ITEMS) as saved:  # some packages greet
        peer = PEERS[key](Path(name), int(saved["item_size"]), {"split": saved["split"]})
        peer.open()
        if task != "open":
            arguments = np.array(json.loads(query)) if task == "rows" else json.loads(query)
            (TASKS | {SCORES.key: SCORES})[task].ask(peer, arguments)
    print(json.dumps({"peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
