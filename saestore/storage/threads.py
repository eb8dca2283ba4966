"""Work in threads: numpy, pcodec and the system let other threads run meanwhile."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 16
_KEPT = 17 << 19  # bytes: more than an array of a block takes; with 31 MiB a merge would hold 380 MB more


def n_threads() -> int:
    """How many threads compute at the same time: one per processor that this process may use, 16 at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MAX_THREADS, usable or 1)


def at_once(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """What `work` makes of each of the parts, in threads where there are several."""
    if len(parts) <= 1:
        return [work(part) for part in parts]
    from concurrent.futures import ThreadPoolExecutor

    keep_freed_memory()
    with ThreadPoolExecutor(min(MAX_THREADS, len(parts) - 1)) as pool:
        rest = pool.map(work, parts[1:])
        return [work(parts[0]), *rest]  # this thread takes a part too


def in_order(work: Callable[[T], R], parts: Iterable[T], ahead: int = 0) -> Iterator[R]:
    """What `work` makes of each of the parts, in their order; a result and one part per thread are in memory.

    `ahead` more parts may wait, so that threads have work while the next parts take long to make.
    """
    n = n_threads()
    keep_freed_memory()
    if n == 1:
        yield from map(work, parts)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(n) as pool:
        running: deque[Future[R]] = deque()
        try:
            for part in parts:
                running.append(pool.submit(work, part))
                if len(running) > n + ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


@functools.cache
def keep_freed_memory(n_bytes: int = _KEPT) -> None:
    """Let arrays of up to `n_bytes` take the memory of those before, of which each thread keeps twice as much.

    glibc returns every array above 128 kB to the system, until a larger one was freed: this one, which takes no memory
    as nothing is written to it; of more than 32 MB it returns every one. Mapping and clearing pages again for every
    block was half the time of `verify`.
    """
    np.empty(n_bytes, np.uint8)
