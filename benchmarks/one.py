"""One peer, one question, in a process of its own: `python -m benchmarks.one PEER FOLDER TASK QUERY`, QUERY in JSON.

Prints the peak memory of the process as JSON. What the process takes in all, its start and imports included, is for the
caller to time.
"""

import json
import sys
from pathlib import Path

from benchmarks.memory import peak_bytes
from benchmarks.peers import PEERS
from benchmarks.tasks import TASKS


def main() -> None:
    key, folder, task, query = sys.argv[1:]
    peer = PEERS[key](Path(folder))
    peer.open()
    if task != "open":
        TASKS[task].ask(peer, json.loads(query))
    print(json.dumps({"peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
