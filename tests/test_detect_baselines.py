"""The ways before SAEs: vectors equal to numpy's and scikit-learn's, scored and chosen as features are."""

from dataclasses import replace

import brute_detect
import numpy as np
import pytest
from raising import raises
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from strategies import make_case, scratch_store, write_case

from saestore.detection import DetectionOptions
from saestore.detection import baselines as made
from saestore.detection.baselines import AGGREGATIONS, METHODS, aggregate
from saestore.detection.inputs import inputs_of
from saestore.errors import InvalidInputError, NotFoundError
from saestore.scoring.metrics import evaluate
from saestore.vocabulary import METRICS

pytest.importorskip("torch", reason="embeddings are read by torch")
from saestore.embeddings.opening import open_embeddings

pytestmark = pytest.mark.once

N_ITEMS, SIZE, WIDTH = 60, 5, 7


def detect(acts, level="item", *, embeddings=None, cls_embeddings=None, **options):
    """Detect with these options."""
    given = DetectionOptions(**options)
    return acts.detect(level, options=given, embeddings=embeddings, cls_embeddings=cls_embeddings)


@pytest.fixture(scope="module")
def world():
    """Embeddings with a direction for the concept, a set of as many samples, and which sample is the concept's."""
    rng = np.random.default_rng(2)
    n = N_ITEMS * SIZE
    red = rng.random(N_ITEMS) < 0.5
    part = np.repeat(red, SIZE) & (rng.random(n) < 0.5)
    embeddings = rng.normal(3, 1, (n, WIDTH)).astype(np.float32)
    embeddings[part, 2] += 3
    case = make_case(3, n, 6, density=0.3, palette="heavy")
    case = replace(case, item_ptr=np.arange(0, n + 1, SIZE), split=rng.integers(0, 3, N_ITEMS), red=red)
    acts = write_case(scratch_store(), case)
    acts.concepts.add({"color::red": part}, "sample")
    return case, acts, embeddings, part


@pytest.fixture(scope="module")
def found(world):
    _, acts, embeddings, _ = world
    return detect(acts, embeddings=embeddings, n_resamples=5)


def rows_of(case, name):
    return np.array(["train", "cal", "test"])[case.split][case.item_of_sample] == name


def item_max(column):
    return column.reshape(-1, SIZE).max(axis=1)


def best_f1(scores, truth):
    """The best F1 that any threshold reaches, but for the one that says yes to all."""
    return max(brute_detect.f1_of(scores >= cut, truth) for cut in np.unique(scores)[1:])


def test_every_method_has_a_row(found):
    methods = [row["method"] for row in found.rows]
    assert set(methods) == {"feature", *METHODS, *(f"difference, {name}" for name in AGGREGATIONS)}
    assert len(methods) == len(set(methods))
    assert found.provenance["embeddings"]["path"] == "numpy array"


def test_difference_of_means_is_that_of_numpy(world, found):
    case, _, embeddings, part = world
    wide, train = embeddings.astype(np.float64), rows_of(case, "train")
    centre = wide[train].mean(axis=0)
    direction = wide[train & part].mean(axis=0) - wide[train & ~part].mean(axis=0)
    cosines = (wide - centre) @ direction / np.linalg.norm(wide - centre, axis=1) / np.linalg.norm(direction)
    scores = item_max(cosines.astype(np.float32).astype(np.float64))
    (row,) = [row for row in found.rows if row["method"] == "difference"]
    cal, test = case.split == 1, case.split == 2
    source = cosines.astype(np.float32)[rows_of(case, "cal") & part]
    cuts = [brute_detect.threshold_of(source, p) for p in brute_detect.SHARES]
    by_quantile = max(brute_detect.f1_of(scores[cal] >= cut, case.red[cal]) for cut in cuts)
    assert row["cal_f1"] == max(by_quantile, best_f1(scores[cal], case.red[cal]))
    assert (row["target_recall"] is None) == (by_quantile < row["cal_f1"])
    values = evaluate(scores[test], case.red[test], row["threshold"])
    assert {name: row[name] for name in METRICS} == pytest.approx(values, abs=1e-12)


def sample_of(embeddings, inputs):
    train = inputs.of("fit_on")
    known = ~inputs.row_unknown(train).toarray()
    return made.Sample.of(open_embeddings(embeddings), train, inputs.row_labels(train), known, 0)


def test_separators_are_those_of_scikit_learn(world):
    case, acts, embeddings, part = world
    inputs = inputs_of(acts, "item", None, "max", {"fit_on": "train"})
    drawn = sample_of(embeddings, inputs)
    mask = rows_of(case, "train")
    mean, deviation = embeddings[mask].mean(axis=0), embeddings[mask].std(axis=0)
    scaled = (embeddings - mean) / deviation
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(scaled[mask], part[mask])
    # Scaling is undone, so that a distance is one in the space of the embeddings.
    expected = model.decision_function(scaled) / np.linalg.norm(model.coef_[0] / deviation)
    scores = made.separators(drawn, "logistic", 0).score(embeddings.astype(np.float64))
    np.testing.assert_allclose(scores[:, 0], expected, atol=2e-3)
    for kind in ("logistic", "svm"):
        vectors = made.separators(drawn, kind, 0)
        # The foot of the perpendicular from a sample is on the boundary.
        unit = vectors.directions[0] / np.linalg.norm(vectors.directions[0])
        foot = embeddings[0] - vectors.score(embeddings[:1].astype(np.float64))[0, 0] * unit
        assert vectors.score(foot[None])[0, 0] == pytest.approx(0, abs=1e-9)
        assert np.corrcoef(vectors.score(embeddings.astype(np.float64))[:, 0], part)[0, 1] > 0.6


def test_the_cluster_of_a_concept_is_the_best_on_cal(world, found):
    case, _, embeddings, _ = world
    mask = rows_of(case, "train")
    train = embeddings[mask]
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scaled = (train - mean.astype(np.float32)) / deviation.astype(np.float32)
    model = MiniBatchKMeans(64, random_state=0, n_init=3, batch_size=4096).fit(scaled)
    directions = model.cluster_centers_ * deviation
    centred = embeddings.astype(np.float64) - mean
    cosines = centred @ directions.T / np.linalg.norm(centred, axis=1)[:, None] / np.linalg.norm(directions, axis=1)
    scores = np.array([item_max(column) for column in cosines.T.astype(np.float32)])
    cal = case.split == 1
    each = [best_f1(own[cal], case.red[cal]) for own in scores]
    (row,) = [row for row in found.rows if row["method"] == "k-means"]
    assert row["cal_f1"] == pytest.approx(max(each))
    assert each[int(row["setting"].rsplit(" ", 1)[1])] == pytest.approx(max(each))


def test_aggregations():
    column, starts = np.array([1.0, 5.0, 2.0, -1.0, 7.0, 3.0]), np.array([0, 3, 4])
    np.testing.assert_array_equal(aggregate(column, starts, "last", 0), [2, -1, 3])
    np.testing.assert_array_equal(aggregate(column, starts, "mean", 0), [8 / 3, -1, 5])
    drawn = {tuple(aggregate(column, starts, "random", seed)) for seed in range(60)}
    assert drawn == {(a, -1.0, b) for a in (1.0, 5.0, 2.0) for b in (7.0, 3.0)}


@pytest.fixture(scope="module")
def cls_world(world):
    case, acts, _, _ = world
    cls = np.random.default_rng(5).normal(1, 1, (N_ITEMS, WIDTH)).astype(np.float32)
    cls[case.red, 3] += 2
    return case, acts, cls


def test_one_embedding_an_item(cls_world):
    case, acts, cls = cls_world
    found = detect(acts, cls_embeddings=cls, n_resamples=5)
    assert [row["method"] for row in found.rows] == ["feature", "difference, cls"]
    assert found.provenance["cls_embeddings"]["path"] == "numpy array"
    row, wide = found.rows[1], cls.astype(np.float64)
    train, cal, test = (case.split == i for i in range(3))
    centre = wide[train].mean(axis=0)
    direction = wide[train & case.red].mean(axis=0) - wide[train & ~case.red].mean(axis=0)
    cosines = (wide - centre) @ direction / np.linalg.norm(wide - centre, axis=1) / np.linalg.norm(direction)
    cosines = cosines.astype(np.float32).astype(np.float64)
    assert row["cal_f1"] == best_f1(cosines[cal], case.red[cal])
    values = evaluate(cosines[test], case.red[test], row["threshold"])
    assert {name: row[name] for name in METRICS} == pytest.approx(values, abs=1e-12)
    assert row["roc_auc"] > 0.7


def test_nothing_of_the_test_split_changes_the_vector_of_cls(cls_world):
    case, acts, cls = cls_world
    other = cls.copy()
    other[case.split == 2] = np.random.default_rng(6).normal(size=((case.split == 2).sum(), WIDTH))
    one, two = (detect(acts, cls_embeddings=each, n_resamples=5).rows[1] for each in (cls, other))
    assert (one["threshold"], one["cal_f1"]) == (two["threshold"], two["cal_f1"])
    assert one["roc_auc"] != two["roc_auc"]


def test_cls_embeddings_that_cannot_be(cls_world):
    _, acts, cls = cls_world
    with raises(InvalidInputError, "wrong-row-count", "59 rows", f"{N_ITEMS} items"):
        detect(acts, cls_embeddings=cls[1:])
    with raises(InvalidInputError, "wrong-level", "cls_embeddings=", "level='item'"):
        detect(acts, "sample", cls_embeddings=cls)


def test_nothing_of_the_test_split_changes_a_baseline(world, found):
    case, acts, embeddings, _ = world
    other, test = embeddings.copy(), rows_of(case, "test")
    other[test] = np.random.default_rng(1).normal(size=(test.sum(), WIDTH))
    again = detect(acts, embeddings=other, n_resamples=5)
    for a, b in zip(found.rows, again.rows, strict=True):
        assert [a[k] for k in ("method", "target_recall", "threshold", "cal_f1", "setting")] == [
            b[k] for k in ("method", "target_recall", "threshold", "cal_f1", "setting")
        ]
    changed = [a["roc_auc"] != b["roc_auc"] for a, b in zip(found.rows, again.rows, strict=True)]
    assert sum(changed) >= len(METHODS)


def test_samples_have_baselines_too(world):
    _, acts, embeddings, _ = world
    rows = {row["method"]: row for row in detect(acts, "sample", embeddings=embeddings, n_resamples=5).rows}
    assert set(rows) == {"feature", *METHODS}
    for method in ("difference", "logistic", "svm"):
        assert rows[method]["roc_auc"] > 0.9


def test_more_rows_than_are_held_are_drawn(world, monkeypatch):
    _, acts, embeddings, _ = world
    monkeypatch.setattr(made, "_ALL", 50)
    monkeypatch.setattr(made, "_ANY", 20)
    monkeypatch.setattr(made, "_POSITIVE", 10)
    inputs = inputs_of(acts, "item", None, "max", {"fit_on": "train"})
    drawn = sample_of(embeddings, inputs)
    assert 20 <= len(drawn.rows) <= 30
    assert drawn.labels[:, 0].sum() >= 10
    np.testing.assert_array_equal(drawn.rows, sample_of(embeddings, inputs).rows)


def test_wrong_embeddings_are_refused(world, example_store, project_dir):
    import saestore

    _, acts, embeddings, _ = world
    with raises(NotFoundError, "unnamed-embeddings", "embeddings="):
        detect(acts, baselines=True)
    with raises(InvalidInputError, "wrong-row-count", "299 rows", "300"):
        detect(acts, embeddings=embeddings[:-1])
    built = saestore.open(example_store)["CLEVR/patch"]
    right = np.load(project_dir / "examples" / "clevr" / "embeddings.npy")
    with raises(InvalidInputError, "other-embeddings", built.attributes.source["fingerprint"][:12]):
        detect(built, embeddings=right[::-1].copy())
