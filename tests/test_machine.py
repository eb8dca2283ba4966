"""A machine that does anything to a store in any order, killed at any moment, beside a model of it in memory."""

import copy
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import examples
from faults import Faults, Killed, as_a_process_that_ends
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from raising import raises
from strategies import Case, append_segments, layout, make_case, write_case, write_segments

import saestore
from saestore.errors import NotFoundError, StoreConflictError
from saestore.writing import SetWriter

pytestmark = pytest.mark.once
PATHS = ("Shapes/patch/a", "Shapes/patch/b")
N_ROWS, N_FEATURES, SEGMENT = 9, 3, 3

paths, seeds, names = st.sampled_from(PATHS), st.integers(0, 20), st.sampled_from(["x", "y"])
tables = st.sampled_from(["samples", "items", "features"])


def case_of(seed: int) -> Case:
    return make_case(seed, N_ROWS, N_FEATURES, density=0.5, segment_rows=SEGMENT, ragged=seed % 2 == 1)


@dataclass
class Model:
    """What a set holds: the first rows of a case, columns by table, concepts of items."""

    seed: int
    n_rows: int = N_ROWS
    complete: bool = True
    columns: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    concepts: dict[str, list[bool]] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return case_of(self.seed)


def values_of(model: Model, table: str, seed: int) -> list[int]:
    n = {"samples": N_ROWS, "items": model.case.n_items, "features": N_FEATURES}[table]
    return np.random.default_rng(seed).integers(0, 9, n).tolist()


Models = dict[str, Model]


class Machine(RuleBasedStateMachine):
    """Each rule changes the store and the model; `kill` ends one of them before it is done, and repeats it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "s.zarr"
        self.models: Models = {}
        self.kill_at: int | None = None
        self.readers: list[tuple[Any, Model]] = []
        saestore.open(self.folder, "a")

    def teardown(self) -> None:
        with suppress(AssertionError):  # hypothesis shows the first failure
            self.ask()
        shutil.rmtree(self.folder.parent)

    def store(self) -> saestore.Store:
        return saestore.open(self.folder, "a")

    def do(self, work: Callable[[saestore.Store], object], change: Callable[[Models], object]) -> None:
        """Run a job, killed first where a kill is due; the model follows."""
        before, after = copy.deepcopy(self.models), copy.deepcopy(self.models)
        change(after)
        if self.kill_at is not None:
            faults, self.kill_at = Faults(self.folder, None, self.kill_at), None
            with suppress(Killed), as_a_process_that_ends(), faults.active():
                work(self.store())
            for path in PATHS:
                self.check_one_of(path, [state.get(path) for state in (before, after)])
            with suppress(StoreConflictError, NotFoundError):  # it was done already
                work(self.store())
        else:
            work(self.store())
        self.models = after

    def check_one_of(self, path: str, allowed: list[Model | None]) -> None:
        """A killed job leaves the state before or after, or the first rows of what it writes."""
        try:
            acts = saestore.open(self.folder)[path]
        except NotFoundError:
            assert None in allowed, f"{path} is lost"
            return
        dense = acts.dense().tolist()
        known = [model for model in allowed if model is not None]
        assert any(dense == m.case.dense[: len(dense)].tolist() for m in known), f"{path} holds what nobody wrote"

    @rule(n=st.integers(1, 120))
    def kill(self, n):
        """Kill the next job at its n-th change."""
        self.kill_at = n

    @rule(path=paths, seed=seeds)
    def write(self, path, seed):
        if path in self.models and self.models[path].seed != seed:
            with raises(StoreConflictError, "different-content"):
                write_case(self.store(), case_of(seed), path)
            return
        if path in self.models and (self.models[path].columns or self.models[path].concepts):
            return
        self.do(lambda store: write_case(store, case_of(seed), path), lambda models: models.update({path: Model(seed)}))

    @rule(path=paths, seed=seeds)
    def overwrite(self, path, seed):
        if path in self.models and self.models[path].seed == seed:
            return  # which resumes it, and keeps its columns
        self.do(
            lambda store: write_case(store, case_of(seed), path, overwrite=True),
            lambda models: models.update({path: Model(seed)}),
        )

    @rule(path=paths, seed=seeds)
    def begin(self, path, seed):
        if path not in self.models:
            self.do(
                lambda store: write_segments(store, case_of(seed), path, upto=SEGMENT),
                lambda models: models.update({path: Model(seed, SEGMENT, complete=False)}),
            )

    @rule(path=paths, finish=st.booleans())
    def append(self, path, finish):
        model = self.models.get(path)
        if model is None or model.complete:
            return
        stop = N_ROWS if finish else min(N_ROWS, model.n_rows + SEGMENT)

        def work(store):
            with layout(model.case), SetWriter(store.root, path) as writer:
                append_segments(writer, model.case, stop)
                if finish:
                    writer.finish()

        def change(models):
            models[path].n_rows, models[path].complete = stop, finish

        self.do(work, change)

    @rule(path=paths, table=tables, name=names, seed=seeds)
    def column(self, path, table, name, seed):
        model = self.models.get(path)
        if model is None or (table == "samples" and not model.complete):
            return
        values = values_of(model, table, seed)
        self.do(
            lambda store: getattr(store[path], table).set(name, values),
            lambda models: models[path].columns.update({(table, name): values}),
        )

    @rule(path=paths, table=tables, name=names)
    def remove(self, path, table, name):
        if path in self.models and (table, name) in self.models[path].columns:
            self.do(
                lambda store: getattr(store[path], table).remove(name),
                lambda models: models[path].columns.pop((table, name)),
            )

    @rule(path=paths, name=st.sampled_from(["c", "d"]), seed=seeds)
    def label(self, path, name, seed):
        if path in self.models:
            mask = np.random.default_rng(seed).random(self.models[path].case.n_items) < 0.5
            self.do(
                lambda store: store[path].concepts.add({name: mask}, level="item", overwrite=True),
                lambda models: models[path].concepts.update({name: mask.tolist()}),
            )

    @rule(path=paths)
    def compact(self, path):
        if path in self.models:
            self.do(lambda store: store.compact(path), lambda models: models)

    @rule(path=paths)
    def delete(self, path):
        if path in self.models:
            self.do(lambda store: store.delete(path), lambda models: models.pop(path))

    @rule(path=paths)
    def open_a_reader(self, path):
        if path in self.models:
            self.readers.append((self.store()[path], copy.deepcopy(self.models[path])))

    @precondition(lambda self: self.readers)
    @rule()
    def ask_old_readers(self):
        """They answer of the set that they opened, as it was or is, or refuse."""
        readers, self.readers = self.readers, []
        for acts, model in readers:
            with suppress(StoreConflictError, NotFoundError):
                dense = acts.dense()
                assert dense.tolist() == model.case.dense[: len(dense)].tolist()
                assert len(dense) >= model.n_rows

    @rule()
    def verify(self):
        assert self.store().verify().problems == ()

    @rule()
    def ask(self):
        store = saestore.open(self.folder)
        assert sorted(store) == sorted(self.models)
        for path, model in self.models.items():
            acts, dense = store[path], model.case.dense[: model.n_rows]
            assert acts.dense().tolist() == dense.tolist()
            for feature in range(N_FEATURES):
                column = dense[:, feature]
                assert acts.feature(feature).activation.tolist() == sorted(column[column != 0].tolist(), reverse=True)
            for table in ("samples", "items", "features"):
                expected = {name: values for (of, name), values in model.columns.items() if of == table}
                found = getattr(acts, table)
                assert {name: found[name].tolist() for name in found.columns if name in ("x", "y")} == expected
            added = set(acts.concepts.names("item")) - {"color::red"}
            assert added == set(model.concepts)
            for name, mask in model.concepts.items():
                where = np.flatnonzero(mask)
                assert acts.items.where(name).tolist() == where.tolist()


Machine.TestCase.settings = settings(
    max_examples=examples(12),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
TestMachine = Machine.TestCase
