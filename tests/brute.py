"""Every question, answered by brute force on the dense tensor: what the queries must equal."""

from typing import Any

import numpy as np

from saestore.stats import STATISTICS


def ranked(column: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Samples where a feature is active, strongest first, ties by ascending sample."""
    active = column != 0 if keep is None else (column != 0) & keep
    samples = np.flatnonzero(active)
    return samples[np.lexsort((samples, -column[samples].astype(np.float64)))]


def top_samples(
    dense: np.ndarray,
    features: list[int],
    n: int,
    item_of: np.ndarray,
    *,
    per_item: bool,
    keep: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features and samples of the answer, one feature after the other."""
    found: list[tuple[int, int]] = []
    for feature in features:
        samples = ranked(dense[:, feature], keep)
        if per_item:
            _, first = np.unique(item_of[samples], return_index=True)
            samples = samples[np.sort(first)]
        found += [(feature, int(s)) for s in samples[:n]]
    table = np.array(found, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def top_features(dense: np.ndarray, samples: list[int], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples and features of the answer, one sample after the other."""
    found = [(sample, int(f)) for sample in samples for f in ranked(dense[sample])[:n]]
    table = np.array(found, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def statistics(dense: np.ndarray) -> dict[str, np.ndarray]:
    """Every statistic of every column, over all rows or over those where it is not zero."""
    wide = dense.astype(np.float64)
    active = wide != 0
    count = active.sum(axis=0)
    dead = count == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "n_active": count,
            "frac_nonzero": active.mean(axis=0) if len(dense) else np.full(len(count), np.nan),
            "mean": wide.sum(axis=0) / len(dense),
            "std": np.sqrt(np.square(wide - wide.sum(axis=0) / len(dense)).sum(axis=0) / len(dense)),
            "mean_active": wide.sum(axis=0) / count,
            "min": np.where(dead, np.nan, np.where(active, wide, np.inf).min(axis=0, initial=np.inf)),
            "max": np.where(dead, np.nan, np.where(active, wide, -np.inf).max(axis=0, initial=-np.inf)),
            "sum": wide.sum(axis=0),
            "sum_sq": np.square(wide).sum(axis=0),
        }


def assert_statistics(found: Any, dense: np.ndarray) -> None:
    """All statistics of a table are those of the columns, but for the rounding of sums that cancel."""
    expected = statistics(dense)
    largest = np.abs(dense.astype(np.float64)).max(axis=0, initial=0.0)
    assert {s.name for s in STATISTICS} == set(expected)
    for name, values in expected.items():
        terms = {"mean": 1, "std": 1, "mean_active": 1, "sum": len(dense)}.get(name, 0)
        slack = 1e-13 * largest * terms
        close = np.isclose(found[name].values, values, rtol=1e-11, atol=slack, equal_nan=True)
        assert close.all(), (name, found[name].values[~close], values[~close])


def stored_bytes(group):
    """Bytes of all arrays in a group and below, as zarr counts them."""
    total = sum(array.nbytes_stored() for _, array in group.arrays())
    return total + sum(stored_bytes(below) for _, below in group.groups())
