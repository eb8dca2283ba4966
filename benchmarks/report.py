"""Puts what `benchmarks/results/*.json` say into the pages: `python -m benchmarks.report`.

A page has blocks between `<!-- benchmarks: NAME -->` and `<!-- end -->`; what stands there is made here.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    """Clustered data, all questions."""
    found = {task: results["queries"][f"clustered {task}"] for task in TASKS}
    keys = [key for key in PEERS if key != "saestore" and any(key in f["peers"] for f in found.values())]
    head = ["", "saestore, ms", *(PEERS[key].label for key in keys)]
    rows = []
    for f in found.values():
        cells = [_times(f["peers"].get(key)) for key in keys]
        rows.append([f["label"], figure(f["peers"]["saestore"]["median_ms"]), *cells])
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
            cells = [_times(peers.get(key)) for key in ("anndata", "limit")]
            rows.append([f"{label}: {f['label']}", figure(peers["saestore"]["median_ms"]), *cells])
    return table(["", "saestore, ms", PEERS["anndata"].label, PEERS["limit"].label], rows)


def sizes(results: Results) -> str:
    found = {name: value for name, value in results["size"].items() if name not in ("machine", "versions")}
    head = ["bytes a non-zero", *found]
    keys = [key for key in PEERS if any(key in f["bytes_per_nonzero"] for f in found.values())]
    rows = [["samples x features", *(f["shape"].split(",  L0")[0].replace(", clustered", "") for f in found.values())]]
    rows = [["non-zeros", *(f"{f['nnz']:,}" for f in found.values())]]
    rows += [["**saestore, both matrices**", *(f"**{f['saestore_matrices']:.2f}**" for f in found.values())]]
    rows += [
        [f"{PEERS[key].label}, all files", *(f"{f['bytes_per_nonzero'][key]:.2f}" for f in found.values())]
        for key in keys
    ]
    rows += [["entropy, both orders", *(f"{2 * f['entropy']['bits'] / 8:.2f}" for f in found.values())]]
    return table(head, rows)


def bits(results: Results) -> str:
    found = {name: value for name, value in results["size"].items() if name not in ("machine", "versions")}
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
    found = results["size"]["clustered"]["write_ms"]
    base = found["saestore"]
    rows = [[PEERS[key].label, f"{ms / 1e3:.1f}", f"{figure(ms / base)} x"] for key, ms in found.items()]
    return table(["writing 8.2 million non-zeros", "s", "of saestore's time"], rows)


def processes(results: Results) -> str:
    found = results["process"]
    first = found["first answer"]["median_ms"]
    tasks = [name for name in ("open", "top20", "dense", "stats") if f"peak {name}" in found]
    head = ["", "first answer, s", *(f"peak of {found[f'peak {t}']['label']}, MB" for t in tasks)]
    rows = [["`saestore top-samples`", f"{first['saestore-cli'] / 1e3:.2f}", *[""] * len(tasks)]]
    for key in (key for key in first if key in PEERS):
        peaks = [f"{found[f'peak {t}']['peak_bytes'][key] / 1e6:,.0f}" for t in tasks]
        rows.append([f"{PEERS[key].label}, in Python", f"{first[key] / 1e3:.2f}", *peaks])
    return table(head, rows)


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


def goals(results: Results) -> str:
    top, size = results["queries"]["clustered top20"]["peers"], results["size"]
    examples = ", ".join(f"{size[f'example {n}']['saestore_matrices']:.2f}" for n in ("clevr", "isarcasm"))
    first = results["process"]["first answer"]["median_ms"]["saestore-cli"] / 1e3
    speed = results["build"]["speed"]
    build = f"{speed['of_the_product']:.0%}, further rows {speed['of_the_product_further_rows']:.0%}"
    few, many = (p["private_bytes"] for p in results["build"]["peak"].values())
    rows = [
        ["top 20, warm, in-process", "under 2 ms", f"{figure(top['saestore']['median_ms'])} ms"],
        ["top 20 beside anndata's column", "6 times faster", f"{figure(top['anndata']['times'])} times"],
        ["top 20 beside the limit", "none yet", f"{figure(1 / top['limit']['times'])} times its time"],
        ["both orders, lossless, the two examples", "8.5 bytes a non-zero", examples],
        ["`saestore top-samples`, whole process", "under 1.5 s", f"{first:.2f} s"],
        ["build, of the product's speed", "85 %", build],
        ["build, private memory, ten times the samples", "no growth", f"{many / few:.2f} times"],
    ]
    return table(["", "to reach", "reached"], rows)


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
    speed = results["build"]["speed"]["of_the_product"]
    return (
        f"Of 256,000 samples and 65,536 features, the 20 strongest samples of a feature take "
        f"{figure(top['saestore']['median_ms'])} ms, {figure(top['anndata']['times'])} times less than reading the "
        f"feature's column from anndata's zarr matrix. Both orders together, lossless, take {size:.1f} bytes a "
        f"non-zero on the CLEVR example. A build runs at {speed:.0%} of the speed of the bare matrix product."
    )


_MAKERS: list[Callable[[Results], str]] = [goals, questions, kinds, sizes, bits, writing, processes, building, peers]
BLOCKS = {make.__name__: make for make in [*_MAKERS, machine, headline]}


def main() -> None:
    results = load()
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        path.write_text(render(page, results), encoding="utf-8")


if __name__ == "__main__":
    main()
