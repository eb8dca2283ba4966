"""What is to be reached, and whether it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]
Found = tuple[Sequence[float], bool]


@dataclass(frozen=True)
class Goal:
    """A figure to reach.

    Attributes
    ----------
    target
        The figure, as a text.
    unit
        How what was measured is written, a format of numbers.
    measured
        Numbers out of the results, and whether they reach the target. A missing result is a KeyError.
    """

    what: str
    target: str
    unit: str
    measured: Callable[[Results], Found]

    def row(self, results: Results) -> list[str]:
        try:
            values, met = self.measured(results)
        except KeyError:
            return [self.what, self.target, "not measured", ""]
        told = " and ".join(self.unit.format(value) for value in values)
        return [self.what, self.target, told, "met" if met else "**not met**"]


def _top20(results: Results, peer: str) -> Results:
    return results["queries"]["clustered top20"]["peers"][peer]


def _at_most(limit: float, *values: float) -> Found:
    return values, max(values) <= limit


def _at_least(limit: float, *values: float) -> Found:
    return values, min(values) >= limit


def _examples(results: Results, figure: str) -> list[float]:
    return [results["size"][f"example {name}"][figure] for name in ("clevr", "isarcasm")]


def _encode(results: Results, kind: str, mode: str) -> float:
    return results["encode"][kind]["steps"][mode]["of_the_product"]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _top20_growth(results: Results) -> float:
    few, many = (_median(results["scale"][n]["compacted"]["top20_ms"]) for n in ("100000", "10000000"))
    return many / few


def _peak_growth(results: Results) -> float:
    few, many = (results["scale"][n]["compact"]["peak_bytes"] for n in ("1000000", "10000000"))
    return many / few


def _cost_growth(results: Results) -> float:
    """Of a sample: writing it, and merging it each time."""
    few, many = (_us_a_sample(results["scale"][n], int(n)) for n in ("100000", "10000000"))
    return many / few


def _us_a_sample(result: Results, samples: int) -> float:
    write, compact = result["write"], result["compact"]
    return 1e6 * (write["cpu_seconds"] / write.get("rows", samples) + compact["cpu_seconds"] / samples)


def _build_memory(results: Results) -> float:
    few, many = (peak["private_bytes"] for peak in results["build"]["peak"].values())
    return (many - few) / (1 << 20)


GOALS = (
    Goal(
        "top 20 of a feature, warm, in-process",
        "at most 1 ms",
        "{:.2f} ms",
        lambda r: _at_most(1, _top20(r, "saestore")["median_ms"]),
    ),
    Goal(
        "the same beside anndata's CSC column",
        "10 times as fast",
        "{:.0f} times",
        lambda r: _at_least(10, _top20(r, "anndata")["times"]),
    ),
    Goal(
        "the same beside Delphi's loader",
        "100 times as fast",
        "{:.0f} times",
        lambda r: _at_least(100, _top20(r, "delphi")["times"]),
    ),
    Goal(
        "the same beside `os.pread` and decoding of the same bytes",
        "at most 3 times its time",
        "{:.1f} times",
        lambda r: _at_most(3, 1 / _top20(r, "limit")["times"]),
    ),
    Goal(
        "top 20 at 10^7 samples beside 10^5",
        "at most 1.5 times its time",
        "{:.2f} times",
        lambda r: _at_most(1.5, _top20_growth(r)),
    ),
    Goal(
        "memory of a merge at 10^7 samples beside 10^6",
        "constant (at most 1.1 times)",
        "{:.2f} times",
        lambda r: _at_most(1.1, _peak_growth(r)),
    ),
    Goal(
        "processor time of a sample, written and merged, at 10^7 beside 10^5",
        "constant (at most 1.1 times)",
        "{:.2f} times",
        lambda r: _at_most(1.1, _cost_growth(r)),
    ),
    Goal(
        "both orders, float32, lossless, the two examples",
        "under 8.2 bytes a non-zero",
        "{:.2f}",
        lambda r: _at_most(8.2, *_examples(r, "saestore_matrices")),
    ),
    Goal(
        "the same in float16",
        "under 5.2 bytes a non-zero",
        "{:.2f}",
        lambda r: _at_most(5.2, *_examples(r, "saestore_float16")),
    ),
    Goal(
        "encoding by the float32 product, TopK at CLIP-Scope's shape",
        "92 % of the bare product's speed",
        "{:.0%}",
        lambda r: _at_least(0.92, _encode(r, "topk", "float32")),
    ),
    Goal(
        "encoding from bfloat16 candidates, exactly the same activations",
        "1.5 times the float32 product's speed",
        "{:.2f} times",
        lambda r: _at_least(1.5, _encode(r, "topk", "auto")),
    ),
    Goal(
        "encoding JumpReLU, ReLU, at Gemma Scope's shape",
        "90 % of the bare product's speed",
        "{:.0%}",
        lambda r: _at_least(0.9, *(_encode(r, kind, "auto") for kind in ("jumprelu", "relu"))),
    ),
    Goal(
        "memory of a build of 1,000,000 samples beside 100,000",
        "at most 256 MiB more, the bound on its merge",
        "{:.0f} MiB more",
        lambda r: _at_most(256, _build_memory(r)),
    ),
    Goal(
        "detection, 80 concepts x 12 thresholds, COCO's 45 million non-zeros, all features in use",
        "under 10 min",
        "{:.1f} min",
        lambda r: _at_most(10, r["detect"]["many concepts, all features"]["seconds"] / 60),
    ),
    Goal(
        "the same: peak memory of a process",
        "under 4 GiB",
        "{:.2f} GiB",
        lambda r: _at_most(4, r["detect"]["many concepts, all features"]["peak_bytes"] / (1 << 30)),
    ),
    Goal(
        "AUROC of all features, 80 concepts, CLEVR's shape",
        "under 60 s",
        "{:.1f} s",
        lambda r: _at_most(60, r["queries"]["clustered scores"]["peers"]["saestore"]["median_ms"] / 1e3),
    ),
    Goal(
        "the same: peak memory of a process",
        "under 3 GiB",
        "{:.2f} GiB",
        lambda r: _at_most(3, r["queries"]["clustered scores"]["peak_bytes"] / (1 << 30)),
    ),
    Goal(
        "`saestore top-samples`, whole process",
        "under 1.5 s",
        "{:.2f} s",
        lambda r: _at_most(1.5, r["process"]["first answer"]["median_ms"]["saestore-cli"] / 1e3),
    ),
)
