"""Statistics: every one equal to numpy on the dense tensor, however the samples were cut into pieces."""

import itertools

import brute
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cases, csr_rows, make_case

from saestore.kernels import to_impact_order
from saestore.stats import STATISTICS, Moments, RunningMoments, statistics_table

pytestmark = pytest.mark.once


def moments_of(case, start, stop):
    rows = csr_rows(case, start, stop)
    indptr, _, data = to_impact_order(rows.indptr, rows.indices, rows.data, case.n_features)
    return Moments.of_lists(indptr, data, stop - start)


@given(cases(max_rows=40), st.lists(st.integers(0, 40), max_size=3))
def test_pieces_add_up_to_numpys_statistics(case, cuts):
    n = len(case.dense)
    bounds = sorted({0, n, *(c for c in cuts if c < n)})
    total = Moments.zeros(case.n_features, 0, case.dense.dtype)
    for start, stop in itertools.pairwise(bounds):
        total = total + moments_of(case, start, stop)
    assert total.n_rows == n
    brute.assert_statistics(statistics_table(total), case.dense)


@given(cases(max_rows=40), st.lists(st.integers(1, 60), min_size=1), st.integers(1, 50))
def test_running_sums_are_the_same_bits_whatever_the_pieces(case, lengths, block):
    rows = csr_rows(case, 0, len(case.dense))
    indptr, _, data = to_impact_order(rows.indptr, rows.indices, rows.data, case.n_features)

    class SmallBlocks(RunningMoments):
        BLOCK = block

    whole, cut = (SmallBlocks(indptr, len(case.dense), data.dtype) for _ in range(2))
    whole.append(data)
    for piece in np.split(data, np.cumsum(lengths)):
        cut.append(piece)
    expected, found = whole.close().arrays(), cut.close()
    for name, values in found.arrays().items():
        assert values.tobytes() == expected[name].tobytes(), name
    brute.assert_statistics(statistics_table(found), case.dense)


def test_a_deviation_far_below_the_mean_is_not_lost():
    # A sum of squares of float64 would have no digit of it left.
    rng = np.random.default_rng(0)
    values = 1e8 + rng.normal(size=5_000)
    halves = [Moments.of_lists(np.array([0, len(v)]), v, len(v)) for v in np.split(values, 2)]
    found = statistics_table(halves[0] + halves[1])["std"].item()
    assert found == pytest.approx(float(np.std(values.astype(np.longdouble))), rel=1e-9)


def test_sums_beyond_float64_are_infinite_and_no_warning():
    values = np.full(4, np.finfo(np.float64).max)
    table = statistics_table(Moments.of_lists(np.array([0, 2, 4]), values, 2))
    assert np.isinf(table["sum"]).all()
    assert np.isinf(table["sum_sq"]).all()
    assert table["max"].values.tolist() == [np.finfo(np.float64).max] * 2


def test_dead_features_have_no_smallest_largest_or_mean_of_the_active():
    table = statistics_table(Moments.zeros(3, 10))
    for name in ("mean_active", "min", "max"):
        assert np.isnan(table[name]).all()
    for name in ("n_active", "frac_nonzero", "mean", "std", "sum", "sum_sq"):
        assert (table[name] == 0).all()


def test_some_features_are_rows_of_the_table_of_all():
    case = make_case(5, 30, 12)
    moments = moments_of(case, 0, 30)
    ids = np.array([7, 0, 7, 11])
    whole, some = statistics_table(moments), statistics_table(moments.take(ids), ids)
    assert some["feature"].values.tolist() == ids.tolist()
    assert some.attrs == {"n_samples": 30}
    for statistic in STATISTICS:
        assert np.array_equal(some[statistic.name], whole[statistic.name][ids], equal_nan=True)
        assert some[statistic.name].attrs["long_name"] == statistic.description
