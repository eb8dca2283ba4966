"""Timing several peers on the same queries, in one process, in an order that is drawn anew for each query."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers import Peer, Unsupported
from benchmarks.tasks import Task, same

FEWEST = 3  # queries that also the slowest peer is asked
WARM_UPS, WARM_SECONDS = 10, 0.005  # what is asked untimed before each query: so often, until so long has passed


class Race:
    """Asks every peer every query, in an order drawn anew for each, and checks that all answer as the first does.

    What disturbs one peer on a shared machine so disturbs the others as well: ratios of the times of the same query are
    steady where the times are not. Before the query that is timed, a peer is asked another one, which is not, again
    and again for some milliseconds: a peer that scans everything leaves nothing of the others in the processor's cache
    and threads that come to rest only after its answer, and a warm query is one that follows others of the same
    peer.

    Parameters
    ----------
    task
        The question.
    peers
        Those that take part; the others are compared with the first.
    budget
        Seconds after which a peer is asked no more, once it was asked a few queries. Its times are compared with the
        first's on the queries that it was asked.
    """

    def __init__(self, task: Task, peers: Sequence[Peer], budget: float = 3.0) -> None:
        self.task, self.peers, self.budget = task, list(peers), budget
        self.first = self.peers[0].key
        self.seconds: dict[str, list[float]] = {peer.key: [] for peer in peers}  # NaN where it was not asked
        self.cpu_seconds: dict[str, list[float]] = {peer.key: [] for peer in peers}  # of all threads
        self.unsupported: dict[str, str] = {}
        self._spent = dict.fromkeys(self.seconds, 0.0)
        self._rng = np.random.default_rng(0)

    def warm_up(self, query: Any) -> None:
        """Ask once without timing; who cannot answer drops out."""
        for peer in list(self.peers):
            try:
                self.task.ask(peer, query)
            except Unsupported as reason:
                self.unsupported[peer.key] = str(reason)
                self.peers.remove(peer)
                del self.seconds[peer.key]

    def run(self, before: Any, query: Any) -> None:
        """Ask the peers this query, each right after another one.

        Memory: the answers of all peers.
        """
        answers = {}
        for place in self._rng.permutation(len(self.peers)):
            peer = self.peers[place]
            if self._is_done(peer.key):
                self._note(peer.key, np.nan, np.nan)
            else:
                answers[peer.key] = self._ask(peer, before, query)
        for key, answer in answers.items():
            if not same(self.task, answers[self.first], answer):
                raise AssertionError(f"{key} answers {self.task.key} {query!r} otherwise than {self.first}")

    def _is_done(self, key: str) -> bool:
        return key != self.first and self._spent[key] > self.budget and len(self.seconds[key]) >= FEWEST

    def _ask(self, peer: Peer, before: Any, query: Any) -> Any:
        beginning = time.perf_counter()
        for _ in range(WARM_UPS):
            self.task.ask(peer, before)
            if time.perf_counter() - beginning > WARM_SECONDS:
                break
        started, cpu = time.perf_counter(), time.process_time()
        answer = self.task.ask(peer, query)
        cpu, ended = time.process_time() - cpu, time.perf_counter()
        self._note(peer.key, ended - started, cpu)
        self._spent[peer.key] += ended - beginning
        return answer

    def _note(self, key: str, seconds: float, cpu_seconds: float) -> None:
        self.seconds[key].append(seconds)
        self.cpu_seconds[key].append(cpu_seconds)

    def results(self) -> dict[str, Any]:
        """Medians and 90th percentiles in ms; ``times``, the median over queries of how many times the first's."""
        base = np.array(self.seconds[self.first])
        found: dict[str, Any] = {"queries": len(base), "peers": {}}
        for key, seconds in self.seconds.items():
            found["peers"][key] = {
                "median_ms": 1e3 * float(np.nanmedian(seconds)),
                "p90_ms": 1e3 * float(np.nanquantile(seconds, 0.9)),
                "cpu_ms": 1e3 * float(np.nanmedian(self.cpu_seconds[key])),
                "times": float(np.nanmedian(np.array(seconds) / base)),
                "asked": int(np.isfinite(seconds).sum()),
            }
        found["peers"] |= {key: {"unsupported": reason} for key, reason in self.unsupported.items()}
        return found
