"""Writes `benchmarks/results/*.json` into the pages and plots: `python -m benchmarks.report`.

A page has blocks between `<!-- benchmarks: NAME -->` and `<!-- end -->`; a function of this module makes each.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.figures import QUESTIONS, ROOT, STATES, Results, by_samples, figure, load
from benchmarks.goals import GOALS, of_a_scan, of_the_limit
from benchmarks.peers import PEERS
from benchmarks.plots import draw
from benchmarks.tasks import SCALE_TASKS, SCORES, TASKS

PAGES = (*(ROOT / "docs" / f"{name}.md" for name in ("performance", "scale", "analysis")), ROOT / "README.md")
BLOCK = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
OTHERS = [key for key in PEERS if key != "saestore"]
PARALLEL = (64, 256)  # reads at once: of a process, and what an object store serves to one machine
WAITS = (0.03, 0.05)  # seconds per read of an object store
MEMORIES = (256 << 20, 1 << 30)  # bounds on a merge
SEGMENT_ROWS, MAX_ROWS, N_FEATURES = 65_536, (1 << 32) - 1, 65_536  # of a segment as written, and merged


def render(page: str, results: Results) -> str:
    """The page with every block made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{_block(m[2], results)}\n{m[3]}", page)


def _block(name: str, results: Results) -> str:
    try:
        return BLOCKS[name](results)
    except KeyError as missing:
        return f"Not measured yet ({missing} is missing): run `make bench`."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def peer_rows(keys: Iterable[str], columns: Sequence[Results], cell: Callable[[Any], str]) -> list[list[str]]:
    """A row for each peer that is in any column."""
    there = [key for key in keys if any(key in column for column in columns)]
    return [[PEERS[key].label, *(cell(column.get(key)) for column in columns)] for key in there]


# --- docs/performance.md ------------------------------------------------------------------------------------------


def goals(results: Results) -> str:
    return table(["", "to reach", "reached", ""], [goal.row(results) for goal in GOALS])


def questions(results: Results) -> str:
    asked = [results["queries"][f"clustered {name}"] for name in (*TASKS, SCORES.key)]
    ours = ["saestore, ms", *(figure(a["peers"]["saestore"]["median_ms"]) for a in asked)]
    rows = [ours, *peer_rows(OTHERS, [a["peers"] for a in asked], _times)]
    return f"Data: {asked[0]['shape']}.\n\n{table(['', *(a['label'] for a in asked)], rows)}"


def _times(peer: Results | None) -> str:
    if peer is None:
        return ""
    return "cannot" if "unsupported" in peer else f"{figure(peer['times'])} x"


def _sets(results: Results) -> Results:
    return {name: value for name, value in results["size"].items() if name not in ("machine", "versions")}


def sizes(results: Results) -> str:
    sets = _sets(results)
    rows = [
        ["non-zeros", *(f"{f['nnz']:,}" for f in sets.values())],
        ["**saestore, both matrices**", *(f"**{f['saestore_matrices']:.2f}**" for f in sets.values())],
        ["the same, `--dtype float16`", *(_bytes(f.get("saestore_float16")) for f in sets.values())],
        *peer_rows(PEERS, [f["bytes_per_nonzero"] for f in sets.values()], _bytes),
        ["entropy, both orders", *(_bytes(2 * f["entropy"]["bits"] / 8) for f in sets.values())],
    ]
    return table(["bytes per non-zero", *sets], rows)


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def writing(results: Results) -> str:
    sets = {name: f for name, f in _sets(results).items() if "write_ms" in f}
    times = [
        {key: {"times": ms / f["write_ms"]["saestore"]} for key, ms in f["write_ms"].items()} for f in sets.values()
    ]
    ours = ["saestore, s", *(f"{f['write_ms']['saestore'] / 1e3:.1f}" for f in sets.values())]
    head = ["", *(f"{name}, {f['nnz'] / 1e6:.1f} million non-zeros" for name, f in sets.items())]
    return table(head, [ours, *peer_rows(OTHERS, times, _times)])


def processes(results: Results) -> str:
    process = results["process"]
    first = process["first answer"]["median_ms"]
    peaks = [process[f"peak {name}"] for name in TASKS if f"peak {name}" in process]

    def row(key: str, label: str) -> list[str]:
        cells = [f"{p['peak_bytes'][key] / 1e6:,.0f}" if key in p["peak_bytes"] else "cannot" for p in peaks]
        return [label, f"{first[key] / 1e3:.2f}", *cells]

    rows = [["`saestore top-samples`", f"{first['saestore-cli'] / 1e3:.2f}", *[""] * len(peaks)]]
    rows += [row(key, f"{peer.label}, in Python") for key, peer in PEERS.items() if key in first]
    return table(["", "first answer, s", *(f"{p['label']}, MB" for p in peaks)], rows)


def streams(results: Results) -> str:
    f = results["streams"]["clustered"]
    rows = []
    labels = {key: PEERS[key].label for key in ("saestore", "pt")}
    labels |= {"annbatch": "annbatch, zarr CSR", "limit": "the limit: every chunk decoded"}
    for key, label in labels.items():
        times = [f["seconds"].get(f"{key} {order}") for order in ("in order", "shuffled")]
        if key == "annbatch" and None in times:  # where there is no Python for it
            continue
        rate = [f["rows"] / np.median(t or f["seconds"][key]) / 1e6 for t in times]
        ratio = ["", ""] if key == "limit" else [figure(rate[1]), f"{of_a_scan(results, key):.0%}"]
        rows.append([label, figure(rate[0]), *ratio])
    mixed, best = f["entropy"]
    return (
        f"Data: {f['shape']}. Batches of {f['batch']:,} rows, sparse CSR tensors. {_machine(results['streams'])}\n\n"
        + table(["million rows a second", "in order", "shuffled", "shuffled compared with in order"], rows)
        + f"\n\nA scan in order reaches {of_the_limit(results):.0%} of the limit. The items in a shuffled batch have "
        f"an entropy of {mixed:.2f} bits; of an entirely random order it is {best:.2f}."
    )


def cores(results: Results) -> str:
    f = results["cores"]["work"]
    rows = [
        [name, *(figure(took[key]) for key in ("one", "all")), f"{took['one'] / took['all']:.1f} x"]
        for name, took in f["seconds"].items()
    ]
    head = ["", "one processor, s", f"{f['processors']} processors, s", "times as fast"]
    return f"Data: {f['shape']}. {_machine(results['cores'])}\n\n{table(head, rows)}"


def encoding(results: Results) -> str:
    return _encoded(results["encode"])


def gpu(results: Results) -> str:
    if "gpu" not in results:
        _ = results["encode"]
        return "Skipped: torch finds no CUDA device on the machine of these measurements."
    return f"{results['gpu']['topk']['gpu']}.\n\n{_encoded(results['gpu'])}"


def _encoded(shapes: Results) -> str:
    rows = []
    for f in (f for f in shapes.values() if "steps" in f):
        rows.append([f"**{f['shape']}**, batches of {f['rows']:,}", figure(f["steps"]["product"]["ms"]), "", "", ""])
        for mode in (mode for mode in f["steps"] if mode != "product"):
            step, used = f["steps"][mode], f["encoding"][mode]
            per_row = f"{used['candidates'] / used['rows']:.0f}" if used.get("rows") else ""
            label = "float32 product" if mode == "float32" else f"`{mode}`: {used['mode']}"
            ratios = [f"{step[name]:.2f}" for name in ("of_the_product", "of_the_product_cpu")]
            rows.append([label, figure(step["ms"]), *ratios, per_row])
    return table(["", "ms per batch", "of the product's speed", "by processor time", "candidates per row"], rows)


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


def peers(_: Results) -> str:
    return "\n".join(f"- **{peer.label}**: {peer.usage}" for peer in PEERS.values())


def machine(results: Results) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in results["queries"]["versions"].items())
    return f"{_machine(results['queries'])} {packages}."


def _machine(subject: Results) -> str:
    where = subject["machine"]
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gb']} GB, {where['system']}, on {where['date']}, at a "
        f"load of {where['load'][0]} over the last minute."
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
        f"Both orders together, lossless, take {size:.1f} bytes per non-zero on the CLEVR example. A build runs at "
        f"{speed:.0%} of the speed of the bare float32 matrix product."
    )


def beside(results: Results) -> str:
    """The table of the README: some peers, some questions, and the size."""
    tasks = {t: results["queries"][f"clustered {t}"] for t in ("top20", "top20_where", "column", "rows", "stats")}
    sizes = results["size"]["clustered"]["bytes_per_nonzero"]
    rows = []
    for key in ("saestore", "anndata", "delphi", "pt", "hdf5", "duckdb"):
        if key == "saestore":
            times = [f"{figure(f['peers'][key]['median_ms'])} ms" for f in tasks.values()]
        else:
            times = [_times(f["peers"].get(key)) for f in tasks.values()]
        rows.append([PEERS[key].label, *times, _bytes(sizes[key])])
    return table(["", *(f["label"] for f in tasks.values()), "bytes per non-zero"], rows)


# --- docs/scale.md ------------------------------------------------------------------------------------------------


def _power(n: int) -> str:
    return f"10^{math.log10(n):.0f}" if math.log10(n).is_integer() else f"{n:,}"


def _scale_table(results: Results, head: str, cell: Callable[[Results, str], str], names: Iterable[str]) -> str:
    """A row per question, a column per size and state."""
    states = {f"{_power(n)} {STATES[state]}": f[state] for state in STATES for n, f in by_samples(results).items()}
    return table([head, *states], [[QUESTIONS[name], *(cell(f, name) for f in states.values())] for name in names])


def scale_times(results: Results) -> str:
    return _scale_table(results, "ms, warm", lambda f, name: figure(float(np.median(f[f"{name}_ms"]))), QUESTIONS)


def scale_requests(results: Results) -> str:
    return _scale_table(results, "first and later reads", _reads, QUESTIONS)


def _reads(f: Results, name: str) -> str:
    return ", ".join(f"{f['count'][name][which]['requests']:,}" for which in ("first", "last"))


def scale_peaks(results: Results) -> str:
    head = "peak memory of a process, MB"
    return _scale_table(results, head, lambda f, name: f"{f['count'][name]['peak_bytes'] / 1e6:,.0f}", SCALE_TASKS)


def scale_writing(results: Results) -> str:
    def column(n: int, write: Results, compact: Results) -> dict[str, str]:
        return {
            "segments as written": f"{write['segments']}",
            "writing, processor us per sample": f"{_cpu_us(write, n):.1f}",
            "merging, processor us per sample": f"{_cpu_us(compact, n):.1f}",
            "peak memory of writing, MB": f"{write['peak_bytes'] / 1e6:.0f}",
            "peak memory of merging, MB": f"{compact['peak_bytes'] / 1e6:.0f}",
            "bytes per sample, as written": f"{write['stored_bytes'] / n:.1f}",
            "bytes per sample, merged": f"{compact['stored_bytes'] / n:.1f}",
            "files, merged": f"{compact['objects']}",
        }

    return _columns({_power(n): column(n, f["write"], f["compact"]) for n, f in by_samples(results).items()})


def _columns(columns: dict[str, dict[str, str]]) -> str:
    """A table of columns with the same labels."""
    first, *_ = columns.values()
    return table(["", *columns], [[label, *(column[label] for column in columns.values())] for label in first])


def _cpu_us(result: Results, samples: int) -> float:
    """Processor microseconds per sample."""
    return 1e6 * result["cpu_seconds"] / result.get("rows", samples)


def scale_beyond(results: Results) -> str:
    """10^9 and 10^10 samples, calculated from the largest set."""
    n0, f = list(by_samples(results).items())[-1]
    segments, count = f["write"]["segments"], f["segments"]["count"]
    pointers = count["top20"]["peak_bytes"] - f["compacted"]["count"]["top20"]["peak_bytes"]

    def column(n: int) -> dict[str, str]:
        written, merged = math.ceil(n / SEGMENT_ROWS), math.ceil(n / MAX_ROWS)
        size = n * f["compact"]["stored_bytes"] / n0
        top20 = written * count["top20"]["last"]["requests"] / segments
        passes = {m: math.ceil(math.log(written, m // 4 // (8 * (N_FEATURES + 1)))) for m in MEMORIES}
        return {
            "store, both orders, GB": f"{size / 1e9:,.0f}",
            "segments as written, and merged": f"{written:,}, {merged}",
            "memory of a process as written, GB": f"{written * pointers / (segments - 1) / 1e9:,.0f}",
            "reads of a top-20 as written": f"{top20:,.0f}",
            "reads of a top-20 in 16 segments, as a build leaves them": f"{2 * 16}",
            "reads of a top-20 merged, first and later": f"{4 * merged}, {2 * merged}",
            **{f"top-20 as written, {p} reads at once, s": _span(top20 / p * t for t in WAITS) for p in PARALLEL},
            "top-20 merged, first, ms": _span(2e3 * t for t in WAITS),
            "top-20 merged, later, ms": _span(1e3 * t for t in WAITS),
            "writing, core-hours (without encoding)": f"{n * _cpu_us(f['write'], n0) / 3.6e9:,.1f}",
            "merging, core-hours per pass": f"{n * _cpu_us(f['compact'], n0) / 3.6e9:,.1f}",
            **{f"merging in {m >> 20:,} MiB: passes, at most": f"{passes[m]}" for m in MEMORIES},
        }

    return _columns({_power(n): column(n) for n in (10**9, 10**10)})


def _span(values: Iterable[float]) -> str:
    return " to ".join(figure(v) for v in values)


def scale_machine(results: Results) -> str:
    return f"{_machine(results['scale'])} {results['scale'].get('notes', '')}".rstrip()


# --- docs/analysis.md ---------------------------------------------------------------------------------------------


def analyses(results: Results) -> str:
    """What each analysis costs, and all together."""
    calls, about = results["analyses"]["calls"], results["analyses"]["set"]
    costs = [[c["cpu_seconds"] for c in calls.values()], [c["peak_bytes"] / 1e9 for c in calls.values()]]
    rows = [[f"`{call}`", *map(figure, both)] for call, *both in zip(calls, *costs, strict=True)]
    rows.append(["all", figure(sum(costs[0])), figure(max(costs[1]))])
    size = f"{about['samples']:,} samples x {about['features']:,} features, {about['nnz']:,} non-zeros"
    head = ["", "seconds of one processor", "peak memory, GB"]
    return f"Data: {size}, synthetic. {_machine(results['analyses'])}\n\n{table(head, rows)}"


_PERFORMANCE = (goals, questions, sizes, writing, processes, streams, cores, encoding, gpu, building, peers, machine)
_SCALE = (scale_times, scale_requests, scale_peaks, scale_writing, scale_beyond, scale_machine)
BLOCKS: dict[str, Callable[[Results], str]] = {
    make.__name__: make for make in (*_PERFORMANCE, *_SCALE, analyses, headline, beside)
}


def main() -> None:
    results = load()
    for path in PAGES:
        path.write_text(render(path.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(*draw(results), sep="\n")


if __name__ == "__main__":
    main()
