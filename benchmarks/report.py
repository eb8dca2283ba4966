"""Puts what `benchmarks/results/*.json` say into the pages: `python -m benchmarks.report`.

A page has blocks between `<!-- benchmarks: NAME -->` and `<!-- end -->`; what stands there is made here.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS
from benchmarks.peers import PEERS
from benchmarks.recorder import RESULTS
from benchmarks.tasks import TASKS

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")
BLOCK = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
KINDS = {"clustered": "clustered, k 32", "jumprelu": "JumpReLU, variable L0", "uniform": "uniform, k 32"}
Results = dict[str, Any]


def load() -> Results:
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def render(page: str, results: Results) -> str:
    """The page with every block made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{_block(m[2], results)}\n{m[3]}", page)


def _block(name: str, results: Results) -> str:
    try:
        return BLOCKS[name](results)
    except KeyError as missing:
        return f"Not measured yet ({missing} is missing): run `make bench`."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(value: float) -> str:
    """Two digits that count: 0.034, 0.34, 3.4, 34, 340."""
    if value >= 10:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def questions(results: Results) -> str:
    """Clustered data of CLEVR's shape: all questions."""
    return _asked(results, "clustered")


def coco(results: Results) -> str:
    """The same of COCO's shape."""
    return _asked(results, "coco")


def _asked(results: Results, kind: str) -> str:
    found = {t: results["queries"][f"{kind} {t}"] for t in TASKS}
    found |= {t: f for t in ("scores",) if (f := results["queries"].get(f"{kind} {t}"))}
    head = ["", *(f["label"] for f in found.values())]
    rows = [["saestore, ms", *(figure(f["peers"]["saestore"]["median_ms"]) for f in found.values())]]
    rows += [
        [PEERS[key].label, *(_times(f["peers"].get(key)) for f in found.values())]
        for key in PEERS
        if key != "saestore" and any(key in f["peers"] for f in found.values())
    ]
    return f"Data: {next(iter(found.values()))['shape']}.\n\n{table(head, rows)}"


def _times(peer: Results | None) -> str:
    if peer is None:
        return ""
    return "cannot" if "unsupported" in peer else f"{figure(peer['times'])} x"


def kinds(results: Results) -> str:
    """Three questions on every kind of data, beside anndata and the limit."""
    rows = []
    for kind, label in KINDS.items():
        for task in ("top20", "column", "rows"):
            f = results["queries"][f"{kind} {task}"]
            peers = f["peers"]
            cells = [_times(peers.get(key)) for key in ("anndata", "delphi", "limit")]
            rows.append([f"{label}: {f['label']}", figure(peers["saestore"]["median_ms"]), *cells])
    return table(["", "saestore, ms", *(PEERS[key].label for key in ("anndata", "delphi", "limit"))], rows)


def _sized(results: Results) -> dict[str, Results]:
    return {name: value for name, value in results["size"].items() if name not in ("machine", "versions")}


def sizes(results: Results) -> str:
    found = _sized(results)
    keys = [key for key in PEERS if any(key in f["bytes_per_nonzero"] for f in found.values())]
    rows = [["non-zeros", *(f"{f['nnz']:,}" for f in found.values())]]
    rows += [["**saestore, both matrices**", *(f"**{f['saestore_matrices']:.2f}**" for f in found.values())]]
    rows += [["the same, `--dtype float16`", *(_bytes(f.get("saestore_float16")) for f in found.values())]]
    rows += [
        [f"{PEERS[key].label}, all files", *(_bytes(f["bytes_per_nonzero"].get(key)) for f in found.values())]
        for key in keys
    ]
    rows += [["entropy, both orders", *(f"{2 * f['entropy']['bits'] / 8:.2f}" for f in found.values())]]
    return table(["bytes a non-zero", *found], rows)


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def bits(results: Results) -> str:
    found = _sized(results)
    names = {
        "by_sample/indices": "feature ids, by sample",
        "by_sample/data": "activations, by sample",
        "by_feature/indices": "sample ids, by feature",
        "by_feature/data": "activations, by feature",
    }
    rows = [[label, *(f"{f['saestore_bits'][name]:.1f}" for f in found.values())] for name, label in names.items()]
    for part, label in (("ids_bits", "entropy of ids"), ("values_bits", "entropy of activations")):
        rows.append([label, *(f"{f['entropy'][part]:.1f}" for f in found.values())])
    return table(["bits a non-zero", *found], rows)


def writing(results: Results) -> str:
    found = {name: f for name, f in _sized(results).items() if "write_ms" in f}
    rows = [["saestore, s", *(f"{f['write_ms']['saestore'] / 1e3:.1f}" for f in found.values())]]
    for key in (key for key in PEERS if key != "saestore" and any(key in f["write_ms"] for f in found.values())):
        taken = ((f["write_ms"].get(key), f["write_ms"]["saestore"]) for f in found.values())
        rows.append([PEERS[key].label, *("" if ms is None else f"{figure(ms / ours)} x" for ms, ours in taken)])
    return table(["", *(f"{name}, {f['nnz'] / 1e6:.1f} million non-zeros" for name, f in found.items())], rows)


def processes(results: Results) -> str:
    found = results["process"]
    first = found["first answer"]["median_ms"]
    peaks = {name.removeprefix("peak "): f for name, f in found.items() if name.startswith("peak ")}
    tasks = [task for task in ("write", *TASKS) if task in peaks]
    rows = [["`saestore top-samples`", f"{first['saestore-cli'] / 1e3:.2f}", *[""] * len(tasks)]]
    for key in (key for key in first if key in PEERS):
        cells = [
            f"{peaks[t]['peak_bytes'][key] / 1e6:,.0f}" if key in peaks[t]["peak_bytes"] else "cannot" for t in tasks
        ]
        rows.append([f"{PEERS[key].label}, in Python", f"{first[key] / 1e3:.2f}", *cells])
    return table(["", "first answer, s", *(f"{peaks[t]['label']}, MB" for t in tasks)], rows)


def building(results: Results) -> str:
    speed, peak = results["build"]["speed"], results["build"]["peak"]
    rows = [
        [p["shape"], figure(p["seconds"]), f"{p['private_bytes'] / 1e6:,.0f}", f"{p['peak_bytes'] / 1e6:,.0f}"]
        for p in peak.values()
    ]
    return (
        f"{speed['shape']}: the whole of `saestore.build` runs at **{speed['of_the_product']:.0%}** of the speed of "
        "the bare float32 matrix product of the same batches; once the SAE is loaded and prepared, at "
        f"**{speed['of_the_product_further_rows']:.0%}**.\n\n"
        + table(["one process", "s", "peak of private memory, MB", "with mapped file pages, MB"], rows)
    )


def encoding(results: Results) -> str:
    return _encoded(results["encode"])


def gpu(results: Results) -> str:
    if "gpu" not in results:
        return "Not measured: no machine with a GPU was at hand. `make bench` does it where torch sees a CUDA device."
    found = results["gpu"]
    return f"{next(f['gpu'] for f in found.values() if 'gpu' in f)}.\n\n{_encoded(found)}"


def _encoded(found: Results) -> str:
    rows = []
    for f in (f for f in found.values() if "steps" in f):
        rows.append([f"**{f['shape']}**, batches of {f['rows']:,}", figure(f["steps"]["product"]["ms"]), "", "", ""])
        for mode in (mode for mode in f["steps"] if mode != "product"):
            step, used = f["steps"][mode], f["encoding"][mode]
            each = f"{used['candidates'] / used['rows']:.0f}" if used.get("rows") else ""
            label = "float32 product" if mode == "float32" else f"`{mode}`: {used['mode']}"
            ratios = [f"{step[name]:.2f}" for name in ("of_the_product", "of_the_product_cpu")]
            rows.append([label, figure(step["ms"]), *ratios, each])
    head = ["", "ms a batch", "of the product's speed", "by processor time", "candidates a row"]
    return table(head, rows)


def goals(results: Results) -> str:
    return table(["", "to reach", "reached", ""], [goal.row(results) for goal in GOALS])


def peers(results: Results) -> str:
    return "\n".join(f"- **{peer.label}**: {peer.how}" for peer in PEERS.values())


def machine(results: Results) -> str:
    where, versions = results["queries"]["machine"], results["queries"]["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gb']} GB, {where['system']}, on {where['date']}, at a "
        f"load of {where['load'][0]} over the last minute. {packages}."
    )


def headline(results: Results) -> str:
    """One paragraph for the README."""
    top = results["queries"]["clustered top20"]["peers"]
    size = results["size"]["example clevr"]["saestore_matrices"]
    speed = results["build"]["speed"]["of_the_product_further_rows"]
    return (
        f"Of 256,000 samples and 65,536 features, the 20 strongest samples of a feature take "
        f"{figure(top['saestore']['median_ms'])} ms. Reading the feature's column from anndata's zarr matrix takes "
        f"{figure(top['anndata']['times'])} times as long, Delphi's loader {figure(top['delphi']['times'])} times. "
        f"Both orders together, lossless, take {size:.1f} bytes a non-zero on the CLEVR example. A build runs at "
        f"{speed:.0%} of the speed of the bare float32 matrix product."
    )


def beside(results: Results) -> str:
    """The table of the README: some peers, some questions, and the size."""
    tasks = {t: results["queries"][f"clustered {t}"] for t in ("top20", "top20_where", "column", "rows", "stats")}
    sizes = results["size"]["clustered"]["bytes_per_nonzero"]
    rows = []
    for key in ("saestore", "anndata", "delphi", "pt", "scipy", "hdf5", "duckdb"):
        if key == "saestore":
            times = [f"{figure(f['peers'][key]['median_ms'])} ms" for f in tasks.values()]
        else:
            times = [_times(f["peers"].get(key)) for f in tasks.values()]
        rows.append([PEERS[key].label, *times, _bytes(sizes[key])])
    return table(["", *(f["label"] for f in tasks.values()), "bytes per non-zero"], rows)


_MAKERS: list[Callable[[Results], str]] = [
    *(goals, questions, kinds, coco, sizes, bits, writing, processes, encoding, gpu, building, peers, machine),
    *(headline, beside),
]
BLOCKS = {make.__name__: make for make in _MAKERS}


def main() -> None:
    from benchmarks import pictures, scale_report

    results = load()
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        path.write_text(render(page, results), encoding="utf-8")
    pictures.draw(results)
    scale_report.main()


if __name__ == "__main__":
    main()
