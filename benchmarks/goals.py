"""The goals of the project, and whether the last measurement reaches them."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Results = dict[str, Any]
MIB, GIB = 1 << 20, 1 << 30
COMPARE = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Goal:
    """A figure to reach: in words, and as a comparison of numbers from the results. A missing result is a KeyError."""

    what: str
    target: str
    unit: str  # a format for one number
    sign: str
    limit: float
    values: Callable[[Results], Sequence[float]]

    def row(self, results: Results) -> list[str]:
        try:
            values = self.values(results)
        except KeyError:
            return [self.what, self.target, "not measured", ""]
        reached = all(COMPARE[self.sign](value, self.limit) for value in values)
        shown = " and ".join(self.unit.format(value) for value in values)
        return [self.what, self.target, shown, "met" if reached else "**not met**"]


def _top20(results: Results, peer: str) -> Results:
    return results["queries"]["clustered top20"]["peers"][peer]


def _examples(results: Results, name: str) -> list[float]:
    return [results["size"][f"example {example}"][name] for example in ("clevr", "isarcasm")]


def _encode(results: Results, mode: str, *kinds: str) -> list[float]:
    return [results["encode"][kind]["steps"][mode]["of_the_product"] for kind in kinds]


def _growth(results: Results, few: int, many: int, value: Callable[[Results, int], float]) -> list[float]:
    small, large = (value(results["scale"][str(n)], n) for n in (few, many))
    return [large / small]


def _cpu_per_sample(result: Results, samples: int) -> float:
    write, compact = result["write"], result["compact"]
    return write["cpu_seconds"] / write.get("rows", samples) + compact["cpu_seconds"] / samples


def _build_memory(results: Results) -> list[float]:
    few, many = (peak["private_bytes"] for peak in results["build"]["peak"].values())
    return [(many - few) / MIB]


def _median_top20(result: Results, _: int) -> float:
    return float(np.median(result["compacted"]["top20_ms"]))


def of_a_scan(results: Results, key: str = "saestore") -> float:
    """Speed of shuffled batches as a share of that of batches in order."""
    seconds = results["streams"]["clustered"]["seconds"]
    return float(np.median(np.divide(seconds[f"{key} in order"], seconds[f"{key} shuffled"])))


def of_the_limit(results: Results) -> float:
    """Speed of batches in order as a share of that of bare decoding."""
    seconds = results["streams"]["clustered"]["seconds"]
    return float(np.median(np.divide(seconds["limit"], seconds["saestore in order"])))


def _two_processors(results: Results) -> list[float]:
    seconds = results["cores"]["work"]["seconds"]
    return [took["one"] / took["all"] for took in seconds.values()]


# fmt: off
GOALS = (
    Goal("top 20 of a feature, warm, in-process", "at most 1 ms", "{:.2f} ms", "<=", 1,
         lambda r: [_top20(r, "saestore")["median_ms"]]),
    Goal("the same compared with anndata's CSC column", "10 times as fast", "{:.0f} times", ">=", 10,
         lambda r: [_top20(r, "anndata")["times"]]),
    Goal("the same compared with Delphi's loader", "100 times as fast", "{:.0f} times", ">=", 100,
         lambda r: [_top20(r, "delphi")["times"]]),
    Goal("the same compared with `os.pread` and decoding of the same bytes", "at most 1.4 times its time",
         "{:.1f} times", "<=", 1.4, lambda r: [1 / _top20(r, "limit")["times"]]),
    Goal("100 random samples, sparse", "at most 3 ms", "{:.1f} ms", "<=", 3,
         lambda r: [r["queries"]["clustered rows"]["peers"]["saestore"]["median_ms"]]),
    Goal("batches in order compared with decoding on all processors", "70 % of its speed", "{:.0%}", ">=", 0.7,
         lambda r: [of_the_limit(r)]),
    Goal("shuffled batches compared with batches in order", "95 % of their speed", "{:.0%}", ">=", 0.95,
         lambda r: [of_a_scan(r)]),
    Goal("merge, verify, scores (80, 1), detection: two processors compared with one", "1.8 times as fast",
         "{:.1f}", ">=", 1.8, _two_processors),
    Goal("top 20 at 10^7 samples compared with 10^5", "at most 1.5 times its time", "{:.2f} times", "<=", 1.5,
         lambda r: _growth(r, 10**5, 10**7, _median_top20)),
    Goal("memory of a merge at 10^7 samples compared with 10^6", "constant (at most 1.1 times)", "{:.2f} times", "<=",
         1.1, lambda r: _growth(r, 10**6, 10**7, lambda result, _: result["compact"]["peak_bytes"])),
    Goal("processor time per sample, written and merged, at 10^7 compared with 10^5", "constant (at most 1.1 times)",
         "{:.2f} times", "<=", 1.1, lambda r: _growth(r, 10**5, 10**7, _cpu_per_sample)),
    Goal("both orders, float32, lossless, the two examples", "under 8.2 bytes per non-zero", "{:.2f}", "<=", 8.2,
         lambda r: _examples(r, "saestore_matrices")),
    Goal("the same in float16", "under 5.2 bytes per non-zero", "{:.2f}", "<=", 5.2,
         lambda r: _examples(r, "saestore_float16")),
    Goal("encoding by the float32 product, TopK at CLIP-Scope's shape", "92 % of the bare product's speed", "{:.0%}",
         ">=", 0.92, lambda r: _encode(r, "float32", "topk")),
    Goal("encoding from bfloat16 candidates, exactly the same activations", "1.5 times the float32 product's speed",
         "{:.2f} times", ">=", 1.5, lambda r: _encode(r, "auto", "topk")),
    Goal("encoding JumpReLU, ReLU, at Gemma Scope's shape", "90 % of the bare product's speed", "{:.0%}", ">=", 0.9,
         lambda r: _encode(r, "auto", "jumprelu", "relu")),
    Goal("memory of a build of 1,000,000 samples compared with 100,000", "at most 256 MiB more, the bound on its merge",
         "{:.0f} MiB more", "<=", 256, _build_memory),
    Goal("detection, 80 concepts x 12 thresholds, COCO's 45 million non-zeros, all features in use", "under 10 min",
         "{:.1f} min", "<=", 10, lambda r: [r["detect"]["COCO"]["seconds"] / 60]),
    Goal("the same: peak memory of the process", "under 4 GiB", "{:.2f} GiB", "<=", 4,
         lambda r: [r["detect"]["COCO"]["peak_bytes"] / GIB]),
    Goal("AUROC of all features, 80 concepts, CLEVR's shape", "under 60 s", "{:.1f} s", "<=", 60,
         lambda r: [r["queries"]["clustered scores"]["peers"]["saestore"]["median_ms"] / 1e3]),
    Goal("the same: peak memory of the process", "under 3 GiB", "{:.2f} GiB", "<=", 3,
         lambda r: [r["queries"]["clustered scores"]["peak_bytes"] / GIB]),
    Goal("`saestore top-samples`, whole process", "at most 0.35 s", "{:.2f} s", "<=", 0.35,
         lambda r: [r["process"]["first answer"]["median_ms"]["saestore-cli"] / 1e3]),
)
# fmt: on
