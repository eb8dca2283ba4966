"""Timing several peers on the same queries, taking turns, in one process."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers import Peer, Unsupported
from benchmarks.tasks import Task, same


class Race:
    """Asks every peer every query, in turns, and checks that all answer alike.

    What disturbs one peer on a shared machine so disturbs the others as well: ratios of the times of the same query are
    steady where the times are not.

    Parameters
    ----------
    task
        The question.
    peers
        Those that take part; the others are compared with the first.
    """

    def __init__(self, task: Task, peers: Sequence[Peer]) -> None:
        self.task = task
        self.peers = list(peers)
        self.seconds: dict[str, list[float]] = {peer.key: [] for peer in peers}
        self.cpu_seconds: dict[str, list[float]] = {peer.key: [] for peer in peers}  # of all threads
        self.unsupported: dict[str, str] = {}
        self._turn = 0

    def warm_up(self, query: Any) -> None:
        """Ask once without timing; who cannot answer drops out."""
        for peer in list(self.peers):
            try:
                self.task.ask(peer, query)
            except Unsupported as reason:
                self.unsupported[peer.key] = str(reason)
                self.peers.remove(peer)
                del self.seconds[peer.key]

    def run(self, queries: Sequence[Any]) -> None:
        """Ask these queries."""
        for query in queries:
            # Each peer follows each other one equally often: the one before leaves its data in the processor's cache.
            order = self.peers[self._turn :] + self.peers[: self._turn]
            self._turn = (self._turn + 1) % len(self.peers)
            answers = {}
            for peer in order:
                started, cpu = time.perf_counter(), time.process_time()
                answers[peer.key] = self.task.ask(peer, query)
                self.cpu_seconds[peer.key].append(time.process_time() - cpu)
                self.seconds[peer.key].append(time.perf_counter() - started)
            first = answers[self.peers[0].key]
            for key, answer in answers.items():
                if not same(self.task, first, answer):
                    raise AssertionError(f"{key} answers {self.task.key} {query!r} otherwise than {self.peers[0].key}")

    def results(self) -> dict[str, Any]:
        """Medians and 90th percentiles in ms; ``times``, the median over queries of how many times the first's."""
        base = np.array(self.seconds[self.peers[0].key])
        found: dict[str, Any] = {"queries": len(base), "peers": {}}
        for key, seconds in self.seconds.items():
            ratio = np.array(seconds) / base
            found["peers"][key] = {
                "median_ms": 1e3 * float(np.median(seconds)),
                "p90_ms": 1e3 * float(np.quantile(seconds, 0.9)),
                "cpu_ms": 1e3 * float(np.median(self.cpu_seconds[key])),
                "times": float(np.median(ratio)),
            }
        found["peers"] |= {key: {"unsupported": reason} for key, reason in self.unsupported.items()}
        return found
