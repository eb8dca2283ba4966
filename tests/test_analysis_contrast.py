"""Groups and targets: equal to scipy's tests, statsmodels' adjustment and numpy on dense columns."""

import cli_stores
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from raising import raises
from strategies import make_case, memory_store, write_segments

import saestore
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError
from saestore.scoring.fisher import fisher_p

pytestmark = pytest.mark.once

CASE = make_case(11, 200, 14, density=0.25, palette="heavy", segment_rows=80)
HAS_SAMPLE = np.diff(CASE.item_ptr) > 0


@pytest.fixture(scope="module")
def acts():
    return write_segments(memory_store(), CASE)


def pooled(level, keep=None):
    """Activations of items by the maximum, or of samples."""
    if level == "sample":
        return CASE.dense
    ptr, out = CASE.item_ptr, np.zeros((CASE.n_items, CASE.n_features))
    for i in range(CASE.n_items):
        rows = CASE.dense[ptr[i] : ptr[i + 1]]
        rows = rows if keep is None else rows[keep[ptr[i] : ptr[i + 1]]]
        out[i] = rows.max(axis=0, initial=0)
    return out


def test_fisher_is_scipys_on_every_small_table_and_on_large_ones():
    a, b = np.meshgrid(np.arange(8), np.arange(6), indexing="ij")
    expected = [scipy.stats.fisher_exact([[x, y], [7 - x, 5 - y]])[1] for x, y in zip(a.flat, b.flat, strict=True)]
    np.testing.assert_allclose(fisher_p(a.ravel(), b.ravel(), 7, 5), expected, rtol=1e-9)
    rng = np.random.default_rng(0)
    for n_a, n_b in ((3000, 500), (40, 100_000), (20_000, 20_000)):
        k = rng.integers(0, 200, 20) * n_a // max(n_a, 200) % (n_a + 1), rng.integers(0, 200, 20) % (n_b + 1)
        expected = [scipy.stats.fisher_exact([[x, y], [n_a - x, n_b - y]])[1] for x, y in zip(*k, strict=True)]
        np.testing.assert_allclose(fisher_p(*k, n_a, n_b), expected, rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize("level", ["sample", "item"])
def test_diff_is_rates_means_and_p_of_the_columns(acts, level):
    found = acts.diff('split == "train"', 'split == "test"', level)
    of_item = level == "item"
    groups = [((CASE.split == i) & HAS_SAMPLE) if of_item else CASE.split[CASE.item_of_sample] == i for i in (0, 2)]
    x = pooled(level)
    k = [np.count_nonzero(x[group], axis=0) for group in groups]
    assert set(found.feature) == set(np.flatnonzero(k[0] + k[1]))
    assert (np.diff(found.p) >= 0).all()
    for row in found:
        f, (n_a, n_b) = row["feature"], [group.sum() for group in groups]
        assert (row["n_active_a"], row["n_active_b"]) == (k[0][f], k[1][f])
        assert row["difference"] == pytest.approx(k[0][f] / n_a - k[1][f] / n_b)
        assert row["mean_a"] == pytest.approx(x[groups[0], f].mean())
        assert row["mean_b"] == pytest.approx(x[groups[1], f].mean())
        table = [[k[0][f], k[1][f]], [n_a - k[0][f], n_b - k[1][f]]]
        assert row["p"] == pytest.approx(scipy.stats.fisher_exact(table)[1])
    adjusted = pytest.importorskip("statsmodels.stats.multitest").multipletests(found.p, method="fdr_bh")[1]
    np.testing.assert_allclose(found.q, adjusted)


def test_the_second_group_is_the_rest_and_features_can_be_named(acts):
    rest = acts.diff("color::red", level="item", features=[3, 5])
    both = acts.diff("color::red", "not color::red", level="item", features=[5, 3])
    np.testing.assert_array_equal(rest.p, both.p)
    assert set(rest.feature) <= {3, 5}


def test_groups_that_overlap_or_are_empty_are_refused(acts):
    with raises(InvalidInputError, "groups-overlap"):
        acts.diff('split == "train"', "color::red", "sample")
    with raises(InvalidInputError, "groups-overlap", "sample"):
        acts.diff("position == 0", "position == 1", "item")
    with raises(InvalidInputError, "empty-group", "where_b"):
        acts.diff('split == "train"', 'split == "nowhere"')
    with raises(NotFoundError, "unknown-column", "colour"):
        acts.diff("colour")
    with raises(OutOfRangeError, "out-of-range", 99):
        acts.diff("color::red", features=[99])


@pytest.mark.parametrize("level", ["item", "sample"])
def test_correlations_are_scipys(acts, level):
    weight = np.asarray(CASE.items["weight"], float)
    target = weight.copy() if level == "item" else weight[CASE.item_of_sample]
    target[::7] = np.nan
    found = acts.select(target, fdr=1, level=level)
    counted = ~np.isnan(target) & (HAS_SAMPLE if level == "item" else True)
    x = pooled(level)[counted].astype(float)
    alive = [f for f in range(CASE.n_features) if np.ptp(x[:, f])]
    assert set(found.feature) == set(alive)
    for row in found:
        expected = scipy.stats.pearsonr(x[:, row["feature"]], target[counted])
        assert row["effect"] == pytest.approx(expected.statistic)
        assert row["p"] == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(found.q, scipy.stats.false_discovery_control(found.p))


def test_a_label_is_selected_by_fisher_and_unknown_rows_count_for_nothing(acts):
    mask = np.ma.MaskedArray(CASE.red, np.arange(CASE.n_items) % 5 == 0)
    found = acts.select(mask, fdr=1)
    known = ~mask.mask & HAS_SAMPLE
    x = pooled("item") != 0
    for row in found:
        on = x[:, row["feature"]]
        table = [[(on & CASE.red & known).sum(), (on & ~CASE.red & known).sum()]]
        table.append([(CASE.red & known).sum() - table[0][0], (~CASE.red & known).sum() - table[0][1]])
        assert row["p"] == pytest.approx(scipy.stats.fisher_exact(table)[1])
    by_name = acts.select("color::red", fdr=1)
    assert len(acts.select("color::red", fdr=0.5)) == np.count_nonzero(by_name.q <= 0.5)


def test_permutations_are_counted(acts):
    found = acts.select("weight", fdr=1, method="permutation", n_permutations=60, seed=3)
    weight, x = np.asarray(CASE.items["weight"], float), pooled("item")[HAS_SAMPLE]
    y, alive = weight[HAS_SAMPLE], np.sort(found.feature)
    drawn = [y[np.random.default_rng([3, i]).permutation(len(y))] for i in range(60)]
    r = np.abs(np.array([[np.corrcoef(x[:, f], d)[0, 1] for f in alive] for d in drawn]))
    observed = np.abs(np.array([np.corrcoef(x[:, f], y)[0, 1] for f in alive]))
    at = np.searchsorted(alive, found.feature)
    np.testing.assert_allclose(found.p, ((1 + (r >= observed - 1e-12).sum(axis=0)) / 61)[at])
    largest = r.max(axis=1)
    np.testing.assert_allclose(found.p_max, [(1 + (largest >= observed[i] - 1e-12).sum()) / 61 for i in at])


def test_a_column_without_spread_has_no_correlation_and_a_narrow_one_the_right_one():
    rng = np.random.default_rng(0)
    values = np.stack([np.full(500, 0.1), 1000 + 1e-3 * rng.random(500)], axis=1)
    target, acts = rng.random(500), memory_store().write("T/token/x", sp.csr_array(values), 1)
    found = acts.select(target, fdr=1)
    assert found.feature.tolist() == [1]
    assert found.effect[0] == pytest.approx(scipy.stats.pearsonr(values[:, 1], target).statistic)


def test_targets_that_do_not_fit_are_refused(acts):
    with raises(InvalidInputError, "not-finite", "infinite"):
        acts.select(np.where(np.arange(CASE.n_items) == 1, np.inf, np.arange(CASE.n_items)))
    with raises(InvalidInputError, "too-small", "seed"):
        acts.select("weight", method="permutation", seed=-1)
    with raises(NotFoundError, "unknown-column", "wieght", "weight"):
        acts.select("wieght")
    with raises(InvalidInputError, "wrong-length", 3):
        acts.select([1.0, 2.0, 3.0])
    with raises(InvalidInputError, "target-type"):
        acts.select("image_path" if "image_path" in acts.items.names() else "key")
    with raises(InvalidInputError, "target-type"):
        acts.select("weight", method="fisher")
    with raises(InvalidInputError, "constant-target"):
        acts.select(np.ones(CASE.n_items))
    with raises(InvalidInputError, "permutation-level"):
        acts.select(np.arange(200.0), method="permutation", level="sample")
    with raises(InvalidInputError, "unknown-choice", "lasso"):
        acts.select("weight", method="lasso")
    with raises(InvalidInputError, "bad-option", "fdr"):
        acts.select("weight", fdr=0)


def test_the_command_shows_what_python_gives(tmp_path):
    store = cli_stores.image_store(tmp_path / "a.zarr")
    rows = cli_stores.ask_json("diff", "--group-a", "color::red", "-n", 4, store=store)["rows"]
    expected = saestore.open(store.path)[store.name].diff("color::red")[:4]
    assert rows == [row | {"name": None} for row in expected]
    within = cli_stores.ask_json("diff", "--group-a", "color::red", "--where", "item < 4", store=store)["rows"]
    of_python = saestore.open(store.path)[store.name].diff("color::red", where="item < 4")
    assert [row["feature"] for row in within] == of_python.feature.tolist()
    assert of_python.n_active_b.max() <= np.count_nonzero(~np.array(cli_stores.RED[:4], bool))
    shown = cli_stores.ask("diff", "--group-a", "split=train", "--group-b", "split=test", store=store)
    assert str(saestore.open(store.path)[store.name].diff('split == "train"', 'split == "test"').feature[0]) in shown
    failed = cli_stores.invoke("diff", "--group-a", "split=none", store=store)
    assert failed.exit_code == 1
    assert "where_a" in failed.stderr
