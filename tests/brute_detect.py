"""Detection by brute force on dense arrays, a threshold at a time: plain numpy, nothing of saestore."""

from fractions import Fraction

import numpy as np

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def score_of(values, score):
    """What an item scores whose samples have these activations."""
    values = values.astype(np.float64)
    if score == "max":
        return float(values.max())
    ordered = np.sort(values)[::-1]
    if score != "mean":
        ordered = ordered[: int(score.removeprefix("top-"))]
    total = 0.0
    for value in ordered:  # one by one, largest first
        total += value
    return total / len(ordered)


def units_of(dense, item_of, split, name, *, level, score):
    """Scores of the units of a split, (n_units, n_features), and which items or samples they are."""
    rows = np.flatnonzero(split[item_of] == name)
    if level == "sample":
        return dense[rows].astype(np.float64), rows
    items = np.unique(item_of[rows])
    scores = [[score_of(dense[rows[item_of[rows] == item], f], score) for f in range(dense.shape[1])] for item in items]
    return np.array(scores, np.float64).reshape(len(items), dense.shape[1]), items


def f1_of(predicted, truth):
    tp = int((predicted & truth).sum())
    return 2 * tp / (int(predicted.sum()) + int(truth.sum()))


def threshold_of(values, recall):
    """The quantile that the decimal share `recall` of some values reaches, between neighbours as numpy interpolates."""
    ordered = np.sort(values).astype(np.float64)
    rank = (len(values) - 1) * (1 - Fraction(str(recall)))
    low = int(rank)
    below, above = float(ordered[low]), float(ordered[min(low + 1, len(values) - 1)])
    weight = float(rank - low)
    return above - (above - below) * (1 - weight) if weight >= 0.5 else below + (above - below) * weight


def middle(places):
    return places[(len(places) - 1) // 2]


def candidates(dense, item_of, split, truth, rows_true, *, level="item", score="max", known=None):
    """Every feature of one concept with its best target recall on cal: (feature, recall, threshold, f1, n_rows).

    Parameters
    ----------
    truth
        Of every item, or at the level of samples of every sample.
    rows_true
        Of every sample, whether it is one of the concept's.
    known
        Of what `truth` is of, whether the label is known; by default everywhere.
    """
    scores, units = units_of(dense, item_of, split, "cal", level=level, score=score)
    if known is not None:
        scores, units = scores[known[units]], units[known[units]]
    positive = truth[units]
    if not positive.any():
        return []
    found = []
    for feature in range(dense.shape[1]):
        column = dense[:, feature].astype(np.float64)
        active = column[(split[item_of] == "cal") & rows_true]
        active = active[active > 0]
        source = active
        if score != "max" and level == "item":
            source = scores[positive, feature]
            source = source[source > 0]
        if not len(source):
            continue
        thresholds = [threshold_of(source, p) for p in SHARES]
        f1 = [f1_of(scores[:, feature] >= threshold, positive) for threshold in thresholds]
        best = middle([i for i, value in enumerate(f1) if value == max(f1)])
        found.append((int(feature), SHARES[best], float(thresholds[best]), f1[best], len(active)))
    return sorted(found, key=lambda c: (-c[3], -c[4], c[0]))
