"""The race is fair, and finds out who answers otherwise."""

from itertools import groupby

import numpy as np
import pytest

from benchmarks.goals import GOALS, Goal
from benchmarks.labels import SPLITS, concepts, labels
from benchmarks.peers.scipy_npz import ScipyNpz
from benchmarks.race import FEWEST, Race
from benchmarks.synthetic import Shape, matrix
from benchmarks.tasks import TASKS

DATA = matrix(Shape(n_items=4, item_size=16, n_features=60, l0=6))


class Noted(ScipyNpz):
    """Notes who is asked what, in which order."""

    asked: list[tuple[str, int]]

    def top_samples(self, feature, n):
        self.asked.append((self.key, feature))
        return super().top_samples(feature, n)


class Other(Noted):
    key = "other"


class Wrong(Noted):
    key = "wrong"

    def top_samples(self, feature, n):
        samples, values = super().top_samples(feature, n)
        return samples, np.nextafter(values, np.float32(np.inf))


def race(folder, kinds, budget):
    asked, peers = [], []
    for kind in kinds:
        (folder / kind.key).mkdir()
        peer = kind(folder / kind.key)
        peer.asked = asked
        peer.write(DATA)
        peer.open()
        peers.append(peer)
    return Race(TASKS["top20"], peers, budget), asked


def test_every_query_follows_another_of_the_same_peer_in_an_order_drawn_anew(tmp_path):
    raced, asked = race(tmp_path, (Noted, Other), budget=60)
    for query in range(0, 60, 2):
        raced.run(query % 50, query % 50 + 1)
    once = [each for each, _ in groupby(asked)]  # what is asked before is asked several times
    turns = [once[i : i + 4] for i in range(0, len(once), 4)]
    for turn, query in zip(turns, range(0, 60, 2), strict=True):
        one, other, first = turn[0][0], turn[2][0], query % 50
        assert {one, other} == {"scipy", "other"}
        assert turn == [(one, first), (one, first + 1), (other, first), (other, first + 1)]
    assert 5 < sum(turn[0][0] == "other" for turn in turns) < 25


def test_who_is_slow_is_asked_a_few_queries(tmp_path):
    raced, asked = race(tmp_path, (Noted, Other), budget=0)
    for query in range(0, 40, 2):
        raced.run(query, query + 1)
    assert sum(key == "other" for (key, _), _ in groupby(asked)) == 2 * FEWEST
    found = raced.results()
    assert (found["peers"]["scipy"]["asked"], found["peers"]["other"]["asked"]) == (20, FEWEST)
    assert found["peers"]["other"]["times"] > 0


def test_a_last_bit_that_differs_is_found(tmp_path):
    raced, _ = race(tmp_path, (Noted, Wrong), budget=60)
    with pytest.raises(AssertionError, match="wrong answers top20"):
        raced.run(DATA.indices[0], DATA.indices[1])


def test_labels_have_every_split_and_no_concept_without_items_or_with_all():
    for n_items in (6, 1_000):
        items = labels(n_items)
        assert set(items["split"]) == set(SPLITS)
        assert len(concepts(items)) == 80
        assert all(0 < column.sum() < n_items for column in concepts(items).values())


def test_goals_say_what_is_not_measured_and_what_is_not_met():
    goal = Goal("x", "at most 2", "{:.1f} ms", lambda r: ([r["ms"]], r["ms"] <= 2))
    assert goal.row({}) == ["x", "at most 2", "not measured", ""]
    assert goal.row({"ms": 1.5})[2:] == ["1.5 ms", "met"]
    assert goal.row({"ms": 2.5})[2:] == ["2.5 ms", "**not met**"]
    assert [goal.row({})[2] for goal in GOALS] == ["not measured"] * len(GOALS)
