"""How long the explorer takes for a page: `python -m benchmarks.explorer [--features N] [--items N]`.

Writes a synthetic set of CLEVR's shape with labels and image files, starts a process that answers like the server does,
and asks it for pages of features drawn at random, each once, with nothing computed before. Times are of the answer with
its HTML, without the network. Then 32 clients ask a real server for a minute. Writes
`benchmarks/results/explorer.json`.
"""

import argparse
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

import saestore
from benchmarks.process import peak_bytes
from benchmarks.synthetic import CLEVR, labels

SET, OTHER = "CLEVR/patch/synthetic", "CLEVR/patch/shuffled"
N_CLIENTS = 32
RESULT = Path(__file__).parent / "results" / "explorer.json"


def write_store(folder: Path, n_items: int) -> None:
    """A set, and an image file for each of its items."""
    from PIL import Image

    shape = replace(CLEVR, n_items=n_items)
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (320, 480, 3), np.uint8)).save(image, "JPEG")
    (folder / "images").mkdir()
    items = labels(n_items)
    for key in items["image_path"].tolist():
        (folder / "images" / key.replace(".png", ".jpg")).write_bytes(image.getvalue())
    items["image_path"] = np.array([key.replace(".png", ".jpg") for key in items["image_path"].tolist()])
    store, matrix = saestore.open(folder / "s.zarr", mode="a"), shape.matrix()
    store.write(SET, matrix, items=items, images=folder / "images")
    shuffled = matrix.tocsr()
    shuffled.indices = (
        np.random.default_rng(1).permutation(matrix.shape[1]).astype(shuffled.indices.dtype)[shuffled.indices]
    )
    shuffled.has_sorted_indices = False
    shuffled.sort_indices()
    store.write(OTHER, shuffled, items=items, images=folder / "images")


def measure(folder: Path, n_features: int) -> dict[str, Any]:
    """Seconds of each kind of page, by the clock and of the processor, and the largest memory of the process."""
    from saestore.web.explorer import Explorer
    from saestore.web.request import Request
    from saestore.web.view import StoreView

    explorer = Explorer(StoreView(saestore.open(folder / "s.zarr").root, str(folder / "s.zarr")))

    def seconds(path: str, **query: str) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        answer = explorer.answer(Request(path, query))
        assert answer.status == 200, answer.body
        return time.perf_counter() - start, time.process_time() - cpu

    first = seconds("/")
    set_page = [seconds(f"/{SET}") for _ in range(5)]
    n_active = explorer.store.open(SET).moments.n_active
    features = np.random.default_rng(7).permutation(np.flatnonzero(n_active))[:n_features].tolist()
    seconds(f"/{SET}/features/{int(np.argmax(n_active))}")  # libraries are imported
    times = {
        "feature": [seconds(f"/{SET}/features/{f}") for f in features],
        "feature where": [seconds(f"/{SET}/features/{f}", where='split == "test"') for f in features],
        "feature table": [seconds(f"/{SET}/features", offset=str(50 * i)) for i in range(20)],
        "item": [seconds(f"/{SET}/items/{i}") for i in range(20)],
        "compare": [seconds(f"/{SET}/compare", other=OTHER, offset=str(50 * i)) for i in range(5)],
        "set": set_page,
    }
    quantiles = {
        name: {
            f"{kind}p{q}": float(np.percentile([pair[i] for pair in pairs], q))
            for i, kind in enumerate(("", "cpu "))
            for q in (50, 99)
        }
        for name, pairs in times.items()
    }
    return {"first page": first[0], "pages": quantiles, "n_features": len(features), "peak_bytes": peak_bytes()}


def ask_at_once(folder: Path, seconds: float, n_items: int) -> dict[str, Any]:
    """What `N_CLIENTS` clients get of `saestore serve`: statuses, seconds per answer, and the server's memory."""
    command = [sys.executable, "-m", "saestore", "serve", str(folder / "s.zarr"), "--read-only"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        netloc = urlsplit(server.stdout.readline()).netloc
        statuses: Counter[str] = Counter()
        times: list[float] = []
        end = time.perf_counter() + seconds

        def client(number: int) -> None:
            rng, connection = np.random.default_rng(number), http.client.HTTPConnection(netloc, timeout=60)
            while (start := time.perf_counter()) < end:
                page = [
                    "features/{}",
                    "features/{}?where=split%20%3D%3D%20%22test%22",
                    "items/{}",
                    "features?offset={}",
                ]
                address = rng.choice(page).format(rng.integers(n_items))
                try:
                    connection.request("GET", f"/{SET}/{address}")
                    response = connection.getresponse()
                    response.read()
                    statuses[str(response.status)] += 1
                except (OSError, http.client.HTTPException) as error:
                    statuses[type(error).__name__] += 1
                    connection.close()
                times.append(time.perf_counter() - start)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        peak = peak_bytes(server.pid)
        server.terminate()
    quantiles = {f"p{q}": float(np.percentile(times, q)) for q in (50, 99)}
    return {"clients": N_CLIENTS, "seconds": seconds, "statuses": statuses, **quantiles, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--items", type=int, default=CLEVR.n_items)
    parser.add_argument("--seconds", type=float, default=60, help="of clients at once")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.features)))
        return
    with tempfile.TemporaryDirectory() as name:
        write_store(Path(name), given.items)
        command = [sys.executable, "-m", "benchmarks.explorer", "--measure", name, "--features", str(given.features)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        result["at once"] = ask_at_once(Path(name), given.seconds, given.items)
    result["shape"] = str(replace(CLEVR, n_items=given.items))
    result["load"] = os.getloadavg()[0]
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(RESULT.read_text(), end="")


if __name__ == "__main__":
    main()
