"""Several actors on one store in memory: before each operation on the store, a seed decides who goes on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any
from unittest import mock

import numpy as np
from zarr.storage import MemoryStore, WrapperStore

import saestore
from saestore.storage import conditional

_PATIENCE = 60  # seconds until a run that hangs is an error


class Actor:
    """One process: it runs while it has the turn, and may lose it before any operation on the store."""

    def __init__(self, schedule: "Schedule", name: str, work: Callable[[saestore.Store], object]) -> None:
        self.name, self.error = name, None
        self.turn: Future[None] = Future()
        self._schedule, self._work = schedule, work
        self._one: asyncio.Lock | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.turn.result(_PATIENCE)
        try:
            self._work(saestore.open(SharedMemory(self._schedule.memory, self), "r+"))
        except Exception as error:  # noqa: BLE001 - the test judges it
            self.error = error
        self._schedule.leave(self)

    def step(self) -> None:
        """Before an operation of this actor's thread."""
        wait = self._schedule.next_of(self)
        if wait is not None:
            wait.result(_PATIENCE)

    def rest(self) -> None:
        """Let another one go on, as a process that waits."""
        wait = self._schedule.next_of(self, always=True)
        if wait is not None:
            wait.result(_PATIENCE)

    async def step_in_loop(self) -> None:
        """Before an operation in zarr's event loop, where one step of this actor may wait for many keys."""
        self._one = self._one or asyncio.Lock()
        async with self._one:
            wait = self._schedule.next_of(self)
            if wait is not None:
                await asyncio.wrap_future(wait)


class Schedule:
    """Runs actors on what `memory` holds; the same seed gives the same order of operations."""

    def __init__(self, memory: MemoryStore, seed: int) -> None:
        self.memory, self._random = memory, np.random.default_rng(seed)
        self._switch = self._random.choice([0.02, 0.1, 0.5])
        self._alive: list[Actor] = []
        self.n_switches = 0

    def run(self, works: dict[str, Callable[[saestore.Store], object]]) -> dict[str, Exception | None]:
        """The error of each actor, None where it had none."""
        actors = [Actor(self, name, work) for name, work in works.items()]
        self._alive = list(actors)
        with mock.patch.object(conditional, "_place", _place):
            for actor in actors:
                actor.thread.start()
            self._any().turn.set_result(None)
            for actor in actors:
                actor.thread.join(_PATIENCE)
                assert not actor.thread.is_alive(), f"{actor.name} hangs"
        return {actor.name: actor.error for actor in actors}

    def _any(self) -> Actor:
        return self._alive[int(self._random.integers(len(self._alive)))]

    def next_of(self, actor: Actor, *, always: bool = False) -> Future[None] | None:
        """Give the turn on, or not; what the actor waits for then."""
        others = [each for each in self._alive if each is not actor]
        if not others or (not always and self._random.random() >= self._switch):
            return None
        following = others[int(self._random.integers(len(others)))]
        self.n_switches += 1
        actor.turn = Future()
        following.turn.set_result(None)
        return actor.turn

    def leave(self, actor: Actor) -> None:
        """An actor has ended."""
        self._alive.remove(actor)
        if self._alive:
            self._any().turn.set_result(None)


class SharedMemory(WrapperStore[MemoryStore]):
    """The store as one actor sees it."""

    def __init__(self, store: MemoryStore, actor: Actor) -> None:
        super().__init__(store)
        self.actor = actor

    def _with_store(self, store: MemoryStore) -> "SharedMemory":
        return SharedMemory(store, self.actor)

    def with_read_only(self, read_only: bool = False) -> "SharedMemory":
        return self._with_store(self._store.with_read_only(read_only))

    async def get(self, *args: Any, **options: Any) -> Any:
        await self.actor.step_in_loop()
        return await self._store.get(*args, **options)

    async def exists(self, key: str) -> bool:
        await self.actor.step_in_loop()
        return await self._store.exists(key)

    async def set(self, *args: Any, **options: Any) -> None:
        await self.actor.step_in_loop()
        await self._store.set(*args, **options)

    async def delete(self, key: str) -> None:
        await self.actor.step_in_loop()
        await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        for key in [key async for key in self._store.list_prefix(f"{prefix.rstrip('/')}/")]:
            await self.delete(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        await self.actor.step_in_loop()
        for name in [name async for name in self._store.list_dir(prefix)]:
            yield name


class _Place(conditional._Memory):
    """Conditional operations of one actor, each of them whole."""

    def __init__(self, store: SharedMemory) -> None:
        super().__init__(store._store)
        self._actor = store.actor

    def get(self, key: str) -> Any:
        self._actor.step()
        return super().get(key)

    def put(self, key: str, data: bytes, before: Any) -> Any:
        self._actor.step()
        return conditional._Memory(self._store).put(key, data, before)

    def remove(self, key: str, before: Any) -> None:
        self._actor.step()
        conditional._Memory(self._store).remove(key, before)


def _place(store: Any) -> Any:
    while not isinstance(store, SharedMemory):
        if not isinstance(store, WrapperStore):
            return conditional._Memory(store)
        store = store._store
    return _Place(store)
