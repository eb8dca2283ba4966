"""Requests, and how many of them have to wait for another: what a question takes on a store that is far away."""

import asyncio
import time

import numpy as np
import pytest
from strategies import PATH, make_case, write_case, write_segments
from zarr.storage import MemoryStore

import saestore
from saestore.writing import SetWriter

WAIT = 0.05


class FarStore(MemoryStore):
    """A store in memory that answers a while after it was asked; what is asked until then is one step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.costs = {"requests": 0, "steps": 0, "writes": 0, "lists": 0, "waiting": False, "answer_at": 0.0}

    async def _wait(self) -> None:
        self.costs["requests"] += 1
        if not self.costs["waiting"]:  # nobody waits: this is the first request of a step
            self.costs["steps"] += 1
            self.costs.update(waiting=True, answer_at=time.monotonic() + WAIT)
        await asyncio.sleep(max(0, self.costs["answer_at"] - time.monotonic()))
        self.costs["waiting"] = False  # what is asked after the first answer may depend on it

    async def get(self, key, prototype=None, byte_range=None):
        await self._wait()
        return await super().get(key, prototype, byte_range)

    async def set(self, key, value, byte_range=None):
        self.costs["writes"] += 1
        await super().set(key, value, byte_range)

    async def list_dir(self, prefix):
        self.costs["lists"] += 1
        async for name in super().list_dir(prefix):
            yield name

    def with_read_only(self, read_only=False):
        other = super().with_read_only(read_only)
        other.costs = self.costs  # zarr opens such a copy
        return other

    def take(self) -> tuple[int, int]:
        """Requests and steps since the last call."""
        result = self.costs["requests"], self.costs["steps"]
        self.costs.update(requests=0, steps=0, writes=0, lists=0)
        return result


@pytest.fixture(scope="module")
def case():
    return make_case(5, 320, 40, density=0.6, segment_rows=32)


@pytest.fixture(scope="module")
def far(case):
    """A set of ten segments, with pointers of items and labels."""
    store = MemoryStore()
    write_segments(saestore.open(store, "a"), case)
    return FarStore(store._store_dict)


def opened(far):
    acts = saestore.open(far)[PATH]
    far.take()
    return acts


def test_opening_takes_eight_requests_in_three_steps_at_any_number_of_segments(far):
    far.take()
    acts = saestore.open(far)[PATH]
    requests, steps = far.take()
    assert len(acts.segments) == 10
    assert requests <= 8
    assert steps <= 2


def test_a_fresh_process_has_its_first_top_20_in_four_steps(far, case):
    far.take()
    acts = saestore.open(far)[PATH]
    top = acts.top_samples(3)
    assert far.take()[1] <= 4
    column = case.dense[:, 3]
    assert top.sample.tolist() == np.lexsort((np.arange(len(column)), -column))[: len(top)].tolist()
    acts.top_samples(7)
    requests, steps = far.take()
    assert steps == 1
    assert requests <= 32


@pytest.mark.parametrize(
    ("ask", "most"),
    [
        (lambda a: a.top_samples(3, level="item", where='split == "test" and color::red'), 3),
        (lambda a: a.samples.where('split == "test" and color::red and weight > 2'), 2),
        (lambda a: a.dense(np.arange(0, 320, 3)), 2),
        (lambda a: a.sparse(np.arange(0, 320, 3)), 2),
        (lambda a: a.top_features(np.arange(0, 320, 3)), 3),
        (lambda a: a.stats(), 2),
        (lambda a: a.info(), 2),
        (lambda a: a.feature(3), 2),
        (lambda a: a.vindex([3, 200], [5, 7]), 3),
        (lambda a: a.concepts.scores("item"), 6),
    ],
    ids=["top", "where", "slice", "rows", "features", "stats", "info", "list", "points", "scores"],
)
def test_the_steps_of_a_first_question(far, ask, most):
    acts = opened(far)
    ask(acts)
    steps = far.costs["steps"]
    assert far.costs["lists"] == 0
    far.take()
    assert 0 < steps <= most


def test_a_set_that_is_complete_tells_about_itself_by_what_opening_it_reads(case):
    store = MemoryStore()
    write_case(saestore.open(store, "a"), case)
    acts = opened(far := FarStore(store._store_dict))
    assert acts.info()["dead_features"] == (case.dense == 0).all(axis=0).sum()
    assert far.take() == (0, 0)


def test_requests_at_once_are_an_option(far):
    import zarr

    acts = opened(far)
    with zarr.config.set({"saestore.requests_at_once": 5}):
        acts.stats()
    assert far.take()[1] > 2


def test_an_append_takes_few_requests(case):
    far = FarStore()
    root = saestore.open(far, "a").root
    from strategies import append_segments

    with SetWriter(root, PATH) as writer:
        append_segments(writer, case, 64)
        far.take()
        append_segments(writer, case, 96)
        assert far.costs["requests"] + far.costs["writes"] <= 40
