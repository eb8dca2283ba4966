"""The plots and tables of docs/scale.md, from `benchmarks/results/scale.json`: `python -m benchmarks.scale_report`."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorder import RESULTS
from benchmarks.report import BLOCK, ROOT, figure, table
from saestore.format import DEFAULT_SEGMENT_ROWS, SegmentInfo
from saestore.segment import limit_fan_in, plan_merges

PAGE = ROOT / "docs" / "scale.md"
IMAGES = ROOT / "docs" / "images"
QUESTIONS = {
    "open": "open",
    "top20": "top 20 of a feature",
    "top20_item": "top 20 items of a feature",
    "dense": "256 samples, dense",
    "rows": "100 random samples",
    "column": "a whole feature",
    "stats": "statistics of all features",
}
STYLES = {"top20_item": "o--", "column": "o:"}  # these often lie on top of another line
STATES = {"segments": "as written", "compacted": "merged"}
N_FEATURES = 65_536
PARALLEL = (16, 256)  # reads in flight: what a process has today, and what an object store takes from one machine
WAITS = (0.03, 0.05)  # seconds of a range read
GIB = 1 << 30
Results = dict[str, Any]


def load() -> Results:
    return json.loads((RESULTS / "scale.json").read_text())


def sizes(results: Results) -> dict[int, Results]:
    """What was measured, by number of samples."""
    return {int(key): value for key, value in results.items() if key.isdigit()}


def measured(results: Results) -> list[tuple[int, Results, str]]:
    """Number of samples, what was measured, and the state it was in: first as written, then merged."""
    return [(n, f, state) for state in STATES for n, f in sizes(results).items() if state in f]


def head(results: Results, first: str) -> list[str]:
    return [first, *(f"{_power(n)} {STATES[state]}" for n, _, state in measured(results))]


def merged_sizes(results: Results) -> dict[int, Results]:
    return {n: f for n, f in sizes(results).items() if "compact" in f}


def median_ms(result: Results, state: str, question: str) -> float:
    return float(np.median(result[state][f"{question}_ms"]))


# --- tables -------------------------------------------------------------------------------------------------------


def times(results: Results) -> str:
    merged = [(n, f) for n, f, state in measured(results) if state == "compacted"]
    (first, small), (last, large) = merged[0], merged[-1]
    rows = []
    for name, label in QUESTIONS.items():
        cells = [figure(median_ms(f, state, name)) for _, f, state in measured(results)]
        ratio = median_ms(large, "compacted", name) / median_ms(small, "compacted", name)
        rows.append([label, *cells, f"{ratio:.2f}"])
    return table([*head(results, "ms, warm"), f"{_power(last)} / {_power(first)}, merged"], rows)


def requests(results: Results) -> str:
    rows = []
    for name, label in QUESTIONS.items():
        costs = [f[state]["count"][name] for _, f, state in measured(results)]
        rows.append([label, *(f"{c['first']['requests']:,}, {c['last']['requests']:,}" for c in costs)])
    return table(head(results, "first and later reads"), rows)


def peaks(results: Results) -> str:
    rows = [
        [label, *(f"{f[state]['count'][name]['peak_bytes'] / 1e6:,.0f}" for _, f, state in measured(results))]
        for name, label in QUESTIONS.items()
        if name != "open"
    ]
    return table(head(results, "peak memory of a process, MB"), rows)


def per_sample(results: Results) -> str:
    found = sizes(results)

    def row(label: str, part: str, cell: Callable[[int, Results], str]) -> list[str]:
        return [label, *(cell(n, f) if part in f else "not measured" for n, f in found.items())]

    rows = [
        row("segments as written", "write", lambda _, f: str(f["write"]["segments"])),
        row("writing, processor us a sample", "write", lambda n, f: f"{_cpu(f, 'write', n):.1f}"),
        row("merging, processor us a sample", "compact", lambda n, f: f"{_cpu(f, 'compact', n):.1f}"),
        row("peak memory of writing, MB", "write", lambda _, f: f"{f['write']['peak_bytes'] / 1e6:.0f}"),
        row("peak memory of merging, MB", "compact", lambda _, f: f"{f['compact']['peak_bytes'] / 1e6:.0f}"),
        row("bytes a sample, as written", "write", lambda n, f: f"{f['write']['stored_bytes'] / n:.1f}"),
        row("bytes a sample, merged", "compact", lambda n, f: f"{f['compact']['stored_bytes'] / n:.1f}"),
        row("files, merged", "compact", lambda _, f: str(f["compact"]["objects"])),
    ]
    return table(["", *(_power(n) for n in found)], rows)


def bounds(results: Results) -> str:
    b = results["bounds"]
    rows = [
        [f"{c['memory'] >> 20:,} MiB", f"{c['peak_bytes'] / 1e6:,.0f}", f"{1e6 * c['cpu_seconds'] / b['samples']:.1f}"]
        for c in b["compactions"]
    ]
    return table(["bound", "peak of the process, MB", "processor us a sample"], rows)


def waiting(results: Results) -> str:
    """Top-20s where each read waits, beside the formula."""
    rows = []
    for n, f, state in measured(results):
        w = f[state]["wait"]
        asked = [t for t in w["top20"] if t["requests"]]
        expected = [math.ceil(t["requests"] / PARALLEL[0]) * w["delay_ms"] for t in asked]
        rows.append(
            [
                f"{_power(n)}, {STATES[state]}",
                f"{np.median([t['requests'] for t in asked]):.0f}",
                f"{np.median(expected):.0f}",
                f"{np.median([t['ms'] for t in asked]):.0f}",
                f"{w['open']['requests']:,}",
                f"{w['open']['ms']:,.0f}",
            ]
        )
    columns = [
        "reads that wait 40 ms",
        "reads of a top-20",
        "formula, ms",
        "found, ms",
        "reads of opening",
        "opening, ms",
    ]
    return table(columns, rows)


def paper(results: Results) -> str:
    """10^9 and 10^10 samples, calculated."""
    large = list(sizes(results).values())[-1]
    n0, f = list(merged_sizes(results).items())[-1]
    segments = large["write"]["segments"]
    per_segment = large["segments"]["count"]["top20"]["last"]["requests"] / segments
    opening = large["segments"]["count"]["open"]["last"]["requests"] / segments
    pointers = _peak(large, "segments") - _peak(large, "compacted")
    rows = {}
    for n in (10**9, 10**10):
        written = -(-n // DEFAULT_SEGMENT_ROWS)
        merged = -(-n // ((1 << 32) - 1))
        size = n * f["compact"]["stored_bytes"] / n0
        rewritten = {memory: passes(n, memory) for memory in (256 << 20, GIB)}
        rows |= {
            (n, "store, both orders, GB"): f"{size / 1e9:,.0f}",
            (n, "segments as written, and merged"): f"{written:,}, {merged}",
            (n, "reads of opening as written"): f"{written * opening:,.0f}",
            (n, "memory of a process as written, GB"): f"{written * pointers / (segments - 1) / 1e9:,.0f}",
            (n, "reads of a top-20 as written"): f"{written * per_segment:,.0f}",
            (n, "reads of a top-20 merged, first and later"): f"{4 * merged}, {2 * merged}",
            **{
                (n, f"top-20 as written, {p} reads at once, s"): _span(written * per_segment / p * t for t in WAITS)
                for p in PARALLEL
            },
            (n, "top-20 merged, first, ms"): _span(2e3 * t for t in WAITS),
            (n, "top-20 merged, later, ms"): _span(1e3 * t for t in WAITS),
            (n, "writing, core-hours (encoding not counted)"): f"{n * _cpu(f, 'write', n0) / 3.6e9:,.1f}",
            **{
                (n, f"merging in {memory >> 20:,} MiB: times rewritten"): f"{times_:.2f}"
                for memory, times_ in rewritten.items()
            },
            **{
                (n, f"merging in {memory >> 20:,} MiB: core-hours"): f"{times_ * n * _once(f, n0) / 3.6e9:,.1f}"
                for memory, times_ in rewritten.items()
            },
            **{
                (n, f"merging in {memory >> 20:,} MiB: written, TB"): f"{times_ * size / 1e12:,.2f}"
                for memory, times_ in rewritten.items()
            },
        }
    labels = list(dict.fromkeys(label for _, label in rows))
    return table(["", "10^9", "10^10"], [[label, rows[10**9, label], rows[10**10, label]] for label in labels])


def _peak(result: Results, state: str) -> float:
    return float(result[state]["count"]["top20"]["peak_bytes"])


def passes(n_samples: int, memory: int) -> float:
    """How often a sample is rewritten until all segments are merged, by the planning that compaction uses."""
    fan_in = max(2, memory // 4 // (8 * (N_FEATURES + 1)))
    starts = range(0, n_samples, DEFAULT_SEGMENT_ROWS)
    infos = [SegmentInfo(a, min(a + DEFAULT_SEGMENT_ROWS, n_samples), 1, "") for a in starts]
    rewritten = 0
    while any(len(run) > 1 for run in plan_merges(infos)):
        runs = [part for run in plan_merges(infos) for part in limit_fan_in(run, fan_in)]
        rewritten += sum(run[-1].stop - run[0].start for run in runs if len(run) > 1)
        infos = [SegmentInfo(run[0].start, run[-1].stop, 1, "") for run in runs]
    return rewritten / n_samples


def machine(results: Results) -> str:
    where, notes = results["machine"], results.get("notes", "")
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gb']} GB, {where['system']}, on {where['date']}, at a "
        f"load of {where['load'][0]} over the last minute. {notes}".rstrip()
    )


def _cpu(result: Results, part: str, samples: int) -> float:
    """Processor microseconds a sample."""
    return 1e6 * result[part]["cpu_seconds"] / result[part].get("rows", samples)


def _once(result: Results, samples: int) -> float:
    """Of rewriting a sample once."""
    merged = result["compact"]
    return _cpu(result, "compact", samples) / merged.get("rewritten", passes(samples, merged["memory"]))


def _span(values: Any) -> str:
    return " to ".join(figure(v) for v in values)


def _power(n: int) -> str:
    return f"10^{math.log10(n):.0f}" if math.log10(n).is_integer() else f"{n:,}"


_MAKERS: list[Callable[[Results], str]] = [times, requests, peaks, per_sample, bounds, waiting, paper, machine]
BLOCKS = {make.__name__: make for make in _MAKERS}


def render(page: str, results: Results) -> str:
    """The page with every block made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{BLOCKS[m[2]](results)}\n{m[3]}", page)


# --- plots --------------------------------------------------------------------------------------------------------


def draw(results: Results, folder: Path = IMAGES) -> list[Path]:
    """Times, requests, and what writing and merging take, over the number of samples."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams |= {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110}
    folder.mkdir(exist_ok=True)
    return [
        _draw_states(results, folder / "scale-times.png", "milliseconds, warm, median", median_ms),
        _draw_states(results, folder / "scale-requests.png", "reads, indexes known", _later_requests),
        _draw_costs(results, folder / "scale-costs.png"),
    ]


def _later_requests(result: Results, state: str, question: str) -> float:
    return max(1, result[state]["count"][question]["last"]["requests"])


def _draw_states(results: Results, path: Path, what: str, value: Callable[[Results, str, str], float]) -> Path:
    """One panel as written, one merged; a line for each question."""
    import matplotlib.pyplot as plt

    found = sizes(results)
    figure_, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True, layout="constrained")
    for axis, (state, label) in zip(axes, STATES.items(), strict=True):
        there = [n for n, f in found.items() if state in f]
        for name, question in QUESTIONS.items():
            values = [value(found[n], state, name) for n in there]
            axis.plot(there, values, STYLES.get(name, "o-"), ms=4, label=question)
        segments = [found[n]["write" if state == "segments" else "compact"]["segments"] for n in there]
        axis.set(xscale="log", yscale="log", xlabel="samples", title=f"{label}: {_listed(segments)}")
        axis.grid(color="0.9")
    axes[0].set_ylabel(what)
    figure_.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure_.savefig(path)
    plt.close(figure_)
    return path


def _listed(segments: list[int]) -> str:
    return "1 segment" if set(segments) == {1} else f"{', '.join(map(str, segments))} segments"


def _draw_costs(results: Results, path: Path) -> Path:
    import matplotlib.pyplot as plt

    found = sizes(results)
    figure_, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for part, label in (("write", "writing"), ("compact", "merging")):
        there = {n: f for n, f in found.items() if part in f}
        time.plot(list(there), [_cpu(f, part, n) for n, f in there.items()], "o-", label=label)
        memory.plot(list(there), [f[part]["peak_bytes"] / 1e6 for f in there.values()], "o-", label=label)
    time.set(xscale="log", xlabel="samples", ylabel="processor microseconds a sample")
    memory.set(xscale="log", xlabel="samples", ylabel="peak memory of the process, MB")
    for axis in (time, memory):
        axis.set_ylim(0, 1.1 * axis.dataLim.ymax)
        axis.grid(color="0.9")
        axis.legend(frameon=False, loc="lower left")
    figure_.savefig(path)
    plt.close(figure_)
    return path


def main() -> None:
    results = load()
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(*draw(results), sep="\n")


if __name__ == "__main__":
    main()
