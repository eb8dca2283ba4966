"""ROC AUC of every feature with each of 80 concepts, beside scikit-learn, which takes one pair at a time."""

import time

import numpy as np

from benchmarks.process import run_task
from benchmarks.synthetic import concepts
from benchmarks.tasks import SCORES

PAIRS = 200  # for scikit-learn; all pairs would take hours
ROUNDS = 2


def item_auc(peer, labels, feature, concept):
    """A user of scikit-learn takes each item's largest activation of the feature, 0 where it is not active."""
    from sklearn.metrics import roc_auc_score

    samples, values = peer.column(feature)
    scores = np.zeros(len(labels[concept]), np.float32)
    np.maximum.at(scores, samples // peer.item_size, values)
    return roc_auc_score(labels[concept], scores)


def test_scores_of_items(data, full, recorder):
    labels, peers, took = concepts(data.items), data.peers, []
    for _ in range(ROUNDS if full else 1):
        started = time.perf_counter()
        scores = SCORES.ask(peers["saestore"], None)["roc_auc"]
        took.append(time.perf_counter() - started)
    rng, count = np.random.default_rng(4), PAIRS if full else 5
    features = rng.choice(np.unique(data.matrix.indices), count).tolist()
    pairs = list(zip(features, rng.choice(list(labels), count), strict=True))
    started = time.perf_counter()
    expected = [item_auc(peers["anndata"], labels, *pair) for pair in pairs]
    each = (time.perf_counter() - started) / count
    ours = [scores.sel(concept=concept).isel(feature=feature).item() for feature, concept in pairs]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    n_pairs = data.matrix.shape[1] * len(labels)
    times = {
        "saestore": {"median_ms": 1e3 * min(took), "times": 1.0},
        "anndata": {"median_ms": 1e3 * each * n_pairs, "times": each * n_pairs / min(took), "asked": count},
    }
    _, process = run_task("saestore", peers["saestore"].folder, SCORES.key, None)
    about = {"shape": str(data.shape), "label": SCORES.label, "pairs": n_pairs, **process}
    recorder.add("queries", f"{data.name} scores", {**about, "queries": len(took), "peers": times})
