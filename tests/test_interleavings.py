"""Two writers, a merger, readers and a person who breaks locks, in orders that seeds draw: no commit is lost.

`pytest --thorough tests/test_interleavings.py` runs 7,500 orders.
"""

import collections
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from effort import examples
from interleaving import Schedule
from strategies import PATH, append_segments, layout, make_case, memory_store, write_case, write_segments
from zarr.storage import MemoryStore

import saestore
from saestore.errors import LockedError, NotFoundError, SaestoreError, StoreConflictError
from saestore.writing import SetWriter

pytestmark = pytest.mark.once

BATCH = 25  # orders of one test
CASE = make_case(3, 6, 4, density=0.5, segment_rows=2, ragged=False)
OTHER = make_case(4, 4, 3, density=0.5, segment_rows=4, ragged=False)
ATTEMPTS = 40
State = dict[str, Any] | None


@dataclass(frozen=True)
class Job:
    """What an actor does, and what it makes of the state of the set; `KeyError` where it cannot be done."""

    work: Callable[[saestore.Store], object]
    apply: Callable[[State], State]


def fresh(case: Any, n: int) -> dict[str, Any]:
    return {"dense": case.dense[:n].tolist(), "names": {}, "labels": {}, "columns": {}}


def of_set(change: Callable[[dict[str, Any]], object]) -> Callable[[State], State]:
    def apply(state: State) -> State:
        if state is None:
            raise KeyError(PATH)
        result = json.loads(json.dumps(state))
        change(result)
        return result

    return apply


def annotate(row: str) -> Job:
    return Job(
        lambda store: store[PATH].features.annotate({"name": {int(row): f"feature {row}"}}),
        of_set(lambda state: state["names"].update({row: f"feature {row}"})),
    )


def label(name: str, odd: int) -> Job:
    def work(store: saestore.Store) -> None:
        acts = store[PATH]
        acts.concepts.add({name: np.arange(len(acts.items)) % 2 == odd}, level="item", overwrite=True)

    def change(state: dict[str, Any]) -> None:
        n = len(CASE.dense) if len(state["dense"][0]) == CASE.n_features else len(OTHER.dense)
        state["labels"][name] = (np.arange(n) % 2 == odd).tolist()

    return Job(work, of_set(change))


def column(name: str, value: int) -> Job:
    def work(store: saestore.Store) -> None:
        acts = store[PATH]
        acts.items.set(name, np.full(len(acts.items), value))

    return Job(work, of_set(lambda state: state["columns"].update({name: value})))


def grow(store: saestore.Store) -> None:
    with SetWriter(store.root, PATH) as writer:
        if writer.attributes is not None and writer.attributes.n_features != CASE.n_features:
            raise StoreConflictError("another set is there", code="different-content")
        append_segments(writer, CASE)
        writer.finish()


def grown(state: State) -> State:
    if state is None:
        return fresh(CASE, len(CASE.dense))
    if len(state["dense"][0]) != CASE.n_features:
        raise KeyError(PATH)
    return {**state, "dense": CASE.dense.tolist()}


JOBS = {
    "first name": annotate("0"),
    "second name": annotate("1"),
    "label": label("c", 1),
    "other label": label("d", 0),
    "column": column("x", 1),
    "same column": column("x", 2),
    "remove": Job(lambda store: store[PATH].items.remove("y"), of_set(lambda state: state["columns"].pop("y"))),
    "grow": Job(grow, grown),
    "overwrite": Job(lambda store: write_case(store, OTHER, overwrite=True), lambda _: fresh(OTHER, len(OTHER.dense))),
    "delete": Job(lambda store: store.delete(PATH), of_set(lambda state: state) and (lambda _: None)),
    "merge": Job(lambda store: store.compact(PATH), of_set(lambda state: state)),
}
_TABLES = ["first name", "second name", "column", "same column", "remove"]  # which meet in one table
_WRITERS = [name for name in JOBS if name != "merge"]
_AGAIN = {"locked", "changed-meanwhile", "lock-lost", "store-conflict"}


@pytest.fixture(scope="module")
def begun():
    """A set that is being built, with a name, a concept and a column."""
    store = memory_store()
    with layout(CASE):
        write_segments(store, CASE, upto=4)
    store[PATH].items.set("y", np.full(len(CASE.dense), 7))
    return store.root.store, state_of(store)


def state_of(store: saestore.Store) -> State:
    """What readers see of the set."""
    with suppress(NotFoundError):
        acts = store[PATH]
        names = acts.features["name"].tolist() if "name" in acts.features.names() else []
        labels = [name for name in acts.concepts.names("item") if len(name) == 1]
        columns = {name: acts.items[name].tolist() for name in acts.items.names() if name in ("x", "y")}
        assert all(len(set(values)) == 1 for values in columns.values()), columns
        return {
            "dense": acts.dense().tolist(),
            "names": {str(row): name for row, name in enumerate(names) if name is not None},
            "labels": {name: acts.concepts.mask(name).tolist() for name in labels},
            "columns": {name: values[0] for name, values in columns.items()},
        }
    return None


def until_done(work: Callable[[saestore.Store], object]) -> Callable[[saestore.Store], None]:
    def again(store: saestore.Store) -> None:
        for attempt in range(ATTEMPTS):
            try:
                work(store)
                return
            except (LockedError, StoreConflictError) as error:
                if error.code not in _AGAIN or attempt == ATTEMPTS - 1:
                    raise
                store.root.store.actor.rest()

    return again


def read(store: saestore.Store) -> None:
    """Every answer is of a state that there was, or names why there is none."""
    try:
        acts = store[PATH]
        dense, lists = acts.dense(), acts.feature(0)
    except (NotFoundError, StoreConflictError):
        return
    case = CASE if dense.shape[1] == CASE.n_features else OTHER
    assert dense.tolist() == case.dense[: len(dense)].tolist()
    assert lists.activation.tolist() == case.dense[lists.sample, 0].tolist()
    assert len(lists.sample) >= np.count_nonzero(dense[:, 0])


def unlock(store: saestore.Store) -> None:
    """A person who breaks locks of writers that are alive."""
    broken = 0
    for _ in range(ATTEMPTS):
        broken += store.unlock(PATH, force=True) is not None
        if broken == 3:
            return
        store.root.store.actor.rest()


def allowed(before: State, done: list[str], perhaps: list[str]) -> list[State]:
    """The states after what was acknowledged, in any order, and after none, some or all of what was refused."""
    found = []
    for n in range(len(perhaps) + 1):
        for also in itertools.combinations(perhaps, n):
            for order in itertools.permutations([*done, *also]):
                state = before
                with suppress(KeyError):
                    for name in order:
                        state = JOBS[name].apply(state)
                    found.append(state)
    return found


def run(memory: MemoryStore, before: State, seed: int) -> collections.Counter[str]:
    """One order; counts what happened."""
    random = np.random.default_rng(seed)
    chosen = random.choice(_TABLES if seed % 4 < 2 else _WRITERS, 2, replace=False).tolist()
    chosen += ["merge"] if seed % 3 == 0 else []
    works = {name: until_done(JOBS[name].work) for name in chosen}
    works |= {"reader": read}
    if seed % 2:
        works["person"] = unlock
    mine = MemoryStore(dict(memory._store_dict))
    schedule = Schedule(mine, seed)
    errors = schedule.run(works)
    raw = {name: error for name, error in errors.items() if error is not None and not isinstance(error, SaestoreError)}
    assert not raw, f"seed {seed}: {chosen}: {raw}"
    wrong = {name: error for name, error in errors.items() if getattr(error, "code", None) == "corrupt-store"}
    assert not wrong, f"seed {seed}: {chosen}: {wrong}"
    done = [name for name in chosen if errors[name] is None]
    refused = [name for name in chosen if errors[name] is not None]
    store = saestore.open(mine, "r+")
    after = state_of(store)
    assert after in allowed(before, done, refused), f"seed {seed}: {done} acknowledged: {errors}: {after}"
    if seed % 3 == 0:
        if after is not None:
            store.compact(PATH)
            assert state_of(store) == after, f"seed {seed}"
        else:
            with suppress(NotFoundError):  # of a writer whose lock a person broke, something may be left
                store.delete(PATH)
        problems = store.verify().problems
        assert problems == (), f"seed {seed}: {chosen}: {problems}"
    return collections.Counter(acknowledged=len(done), refused=len(refused), switches=schedule.n_switches, orders=1)


@pytest.mark.parametrize("first", range(0, examples(3) * BATCH, BATCH))
def test_no_order_of_two_writers_a_merger_and_readers_loses_a_commit(begun, first):
    total: collections.Counter[str] = collections.Counter()
    for seed in range(first, first + BATCH):
        total += run(*begun, seed)
    assert total["acknowledged"] > total["refused"]
    assert total["switches"] > 10 * BATCH
