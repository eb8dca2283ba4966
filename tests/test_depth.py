"""Requests, and how many of them have to wait for another: what a question takes on a store that is far away."""

import asyncio
import time

import numpy as np
import pytest
import zarr
from strategies import PATH, append_segments, make_case, write_segments
from zarr.storage import MemoryStore

import saestore
from saestore.writing import SetWriter

WAIT = 0.02


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


CASES = {
    n: make_case(5, rows, 40, density=0.6, segment_rows=rows // n) for n, rows in ((1, 320), (10, 320), (150, 450))
}


@pytest.fixture(scope="module", params=CASES, ids=lambda n: f"{n} segments")
def far(request):
    """A set of this many segments, with pointers of items and labels, as it is before they are merged."""
    store = MemoryStore()
    write_segments(saestore.open(store, "a"), CASES[request.param])
    far = FarStore(store._store_dict)
    far.case = CASES[request.param]
    with zarr.config.set({"saestore.requests_at_once": 4096}):  # a step is what waits for another, not a full queue
        yield far


def opened(far):
    acts = saestore.open(far)[PATH]
    far.take()
    return acts


def test_the_first_answers_of_a_process_take_few_steps_at_any_number_of_segments(far):
    """Opening, `info`, and the strongest samples of a feature, of which the next feature's take one step."""
    case = far.case
    far.take()
    acts = saestore.open(far)[PATH]
    assert far.take() == (2, 2)
    assert len(acts.segments) == len(case.dense) // case.segment_rows
    assert acts.info()["dead_features"] == (case.dense == 0).all(axis=0).sum()
    assert far.take() == (0, 0)
    top = acts.top_samples(3)
    assert far.take()[1] == 2
    column = case.dense[:, 3]
    assert top.sample.tolist() == np.lexsort((np.arange(len(column)), -column))[: len(top)].tolist()
    acts.top_samples(7)
    requests, steps = far.take()
    assert steps == 1
    assert requests <= 2 * len(acts.segments)


@pytest.mark.parametrize(
    ("ask", "most"),
    [
        (lambda a: a.top_samples(3, level="item", where='split == "test" and color::red'), 3),
        (lambda a: a.samples.where('split == "test" and color::red and weight > 2'), 2),
        (lambda a: a.dense(np.arange(0, 320, 3)), 2),
        (lambda a: a.sparse(np.arange(0, 320, 3)), 2),
        (lambda a: a.top_features(np.arange(0, 320, 3)), 3),
        (lambda a: a.stats(), 2),
        (lambda a: a.feature(3), 2),
        (lambda a: a.vindex([3, 200], [5, 7]), 3),
        (lambda a: a.concepts.scores("item"), 6),
    ],
    ids=["top", "where", "slice", "rows", "features", "stats", "list", "points", "scores"],
)
def test_the_steps_of_a_first_question(far, ask, most):
    acts = opened(far)
    ask(acts)
    steps = far.costs["steps"]
    assert far.costs["lists"] == 0
    far.take()
    assert 0 < steps <= most


def test_a_set_that_is_written_in_levels_takes_32_requests_for_a_warm_top_20():
    case, store = make_case(6, 160, 20, density=0.6, segment_rows=4), MemoryStore()
    with SetWriter(saestore.open(store, "a").root, PATH) as writer:
        for stop in range(4, 161, 4):
            append_segments(writer, case, stop)
            writer.merge_level(0, 1 << 20)
    acts = opened(far := FarStore(store._store_dict))
    assert 8 <= len(acts.segments) <= 16
    acts.top_samples(3)
    far.take()
    acts.top_samples(7)
    requests, steps = far.take()
    assert (requests <= 32, steps) == (True, 1)


@pytest.mark.parametrize("far", [1], indirect=True)
def test_requests_at_once_are_an_option(far):
    acts = opened(far)
    with zarr.config.set({"saestore.requests_at_once": 1}):
        acts.stats()
    assert far.take()[1] > 2


def test_an_append_takes_few_requests():
    case, far = CASES[10], FarStore()
    root = saestore.open(far, "a").root
    with SetWriter(root, PATH) as writer:
        append_segments(writer, case, 64)
        far.take()
        append_segments(writer, case, 96)
        assert far.costs["requests"] + far.costs["writes"] <= 40
