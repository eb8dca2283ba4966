"""Timing several peers on the same queries, taking turns, in one process."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers import Peer, Unsupported
from benchmarks.tasks import Task, same


class Race:
    """Asks every peer every query, in turns of a few queries, and checks that all answer alike.

    What disturbs one peer on a shared machine so disturbs the others as well: ratios of the times of the same query are
    steady where the times are not. Turns are of a few queries, not of one, because a peer that scans everything leaves
    nothing of the others in the processor's cache, and a warm query is one that follows another.

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
        """Ask these queries, one peer after the other, each all of them.

        Memory: the answers of two peers.
        """
        order = self.peers[self._turn :] + self.peers[: self._turn]
        self._turn = (self._turn + 1) % len(self.peers)
        expected: list[Any] = []
        for peer in order:
            answers = []
            for query in queries:
                started, cpu = time.perf_counter(), time.process_time()
                answers.append(self.task.ask(peer, query))
                self.cpu_seconds[peer.key].append(time.process_time() - cpu)
                self.seconds[peer.key].append(time.perf_counter() - started)
            expected = expected or answers
            for query, one, other in zip(queries, expected, answers, strict=True):
                if not same(self.task, one, other):
                    raise AssertionError(f"{peer.key} answers {self.task.key} {query!r} otherwise than {order[0].key}")

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
