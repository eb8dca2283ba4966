"""Timing several peers on the same queries, in one process, in a new random order for each query."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers import Peer, Unsupported
from benchmarks.tasks import Task, same

MIN_QUERIES = 3  # of the slowest peer too
WARM_UPS, WARM_SECONDS = 10, 0.005  # untimed questions before each query: at most this many, for at most this long


class Race:
    """Asks every peer every query, in a new random order for each, and checks that all answers equal the first peer's.

    A disturbance on a shared machine then affects all peers: ratios of times of one query are steady where times are
    not. A peer answers another query, untimed, for some milliseconds before each timed one: a peer that scans its files
    leaves nothing of the others in the processor's cache, and its threads come to rest only after its answer.

    `budget` is the number of seconds after which a peer answers no more queries, once it has answered a few.
    """

    def __init__(self, task: Task, peers: Sequence[Peer], budget: float = 2.0) -> None:
        self.task, self.peers, self.budget = task, list(peers), budget
        self.first = self.peers[0].key
        self.seconds: dict[str, list[float]] = {peer.key: [] for peer in peers}  # NaN where it was not asked
        self.unsupported: dict[str, str] = {}
        self._spent = dict.fromkeys(self.seconds, 0.0)
        self._rng = np.random.default_rng(0)

    def warm_up(self, query: Any) -> None:
        """Ask once without timing, and remove the peers that cannot answer."""
        for peer in list(self.peers):
            try:
                self.task.ask(peer, query)
            except Unsupported as reason:
                self.unsupported[peer.key] = str(reason)
                self.peers.remove(peer)
                del self.seconds[peer.key]

    def run(self, before: Any, query: Any) -> None:
        """Time this query on each peer, after the untimed query `before`."""
        answers = {}
        for i in self._rng.permutation(len(self.peers)):
            peer = self.peers[i]
            if self._is_done(peer.key):
                self.seconds[peer.key].append(np.nan)
            else:
                answers[peer.key] = self._ask(peer, before, query)
        for key, answer in answers.items():
            if not same(self.task, answers[self.first], answer):
                raise AssertionError(f"{key} answers {self.task.key} {query!r} otherwise than {self.first}")

    def _is_done(self, key: str) -> bool:
        return key != self.first and self._spent[key] > self.budget and len(self.seconds[key]) >= MIN_QUERIES

    def _ask(self, peer: Peer, before: Any, query: Any) -> Any:
        beginning = time.perf_counter()
        for _ in range(WARM_UPS):
            self.task.ask(peer, before)
            if time.perf_counter() - beginning > WARM_SECONDS:
                break
        started = time.perf_counter()
        answer = self.task.ask(peer, query)
        ended = time.perf_counter()
        self.seconds[peer.key].append(ended - started)
        self._spent[peer.key] += ended - beginning
        return answer

    def results(self) -> dict[str, Any]:
        """Milliseconds of each peer; ``times`` is the median over queries of its time divided by the first peer's."""
        base = np.array(self.seconds[self.first])
        result: dict[str, Any] = {"queries": len(base), "peers": {}}
        for key, seconds in self.seconds.items():
            result["peers"][key] = {
                "median_ms": 1e3 * float(np.nanmedian(seconds)),
                "p90_ms": 1e3 * float(np.nanquantile(seconds, 0.9)),
                "times": float(np.nanmedian(np.array(seconds) / base)),
                "asked": int(np.isfinite(seconds).sum()),
            }
        result["peers"] |= {key: {"unsupported": reason} for key, reason in self.unsupported.items()}
        return result
