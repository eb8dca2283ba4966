"""ROC AUC of every feature with each of 80 concepts, beside scikit-learn's, which takes one pair at a time."""

import time

import numpy as np
import pytest

from benchmarks.labels import concepts
from benchmarks.peers import Unsupported
from benchmarks.tasks import SCORES
from benchmarks.test_process import command_of, run

PAIRS = 200  # that scikit-learn is asked; all of them would take hours
ROUNDS = 2


def item_auc(peer, labels, feature, concept):
    """What a user of scikit-learn does: of each item the feature's largest activation, 0 where it is not active."""
    from sklearn.metrics import roc_auc_score

    samples, values = peer.column(feature)
    scores = np.zeros(len(labels[concept]), np.float32)
    np.maximum.at(scores, samples // peer.item_size, values)
    return roc_auc_score(labels[concept], scores)


@pytest.mark.parametrize("data", ["clustered"], indirect=True)
def test_scores_of_items(data, full, recorder):
    labels, peers = concepts(data.items), data.peers
    rng = np.random.default_rng(4)
    count = PAIRS if full else 5
    pairs = list(
        zip(rng.choice(np.unique(data.matrix.indices), count).tolist(), rng.choice(list(labels), count), strict=True)
    )
    took = []
    for _ in range(ROUNDS if full else 1):
        started = time.perf_counter()
        try:
            scores = SCORES.ask(peers["saestore"], None)
        except Unsupported as reason:
            pytest.skip(f"scores of concepts: {reason}")
        took.append(time.perf_counter() - started)
    everything = data.matrix.shape[1] * len(labels)
    times = {"saestore": {"median_ms": 1e3 * min(took), "times": 1.0}}
    found = [scores["roc_auc"].sel(concept=c).isel(feature=f).item() for f, c in pairs]
    started = time.perf_counter()
    expected = [item_auc(peers["anndata"], labels, *pair) for pair in pairs]
    each = (time.perf_counter() - started) / count
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    times["anndata"] = {"median_ms": 1e3 * each * everything, "times": each * everything / min(took), "asked": count}
    _, process = run(command_of("saestore", peers["saestore"].folder, SCORES.key, None))
    about = {"shape": str(data.shape), "label": SCORES.label, "pairs": everything, **process}
    recorder.add("queries", f"{data.name} scores", {**about, "queries": len(took), "peers": times})
