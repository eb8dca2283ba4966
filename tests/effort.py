"""How much a test does: a little, or under `pytest --thorough` a lot. The environment takes it to other processes."""

import os
from typing import TypeVar

import numpy as np

VARIABLE = "SAESTORE_TESTS_THOROUGH"  # set by conftest.py
_TIMES = 100
T = TypeVar("T")


def examples(few: int) -> int:
    """`few`, or a hundred times as many."""
    return choose(few, few * _TIMES)


def choose(few: T, many: T) -> T:
    """`few`, or `many`: for what takes seconds each."""
    return many if VARIABLE in os.environ else few


def some_of(n: int, few: int, seed: int = 0) -> list[int]:
    """A few of the numbers from 1 to n, or all."""
    drawn = np.random.default_rng(seed).integers(1, n + 1, few).tolist()
    return sorted(choose(set(drawn), set(range(1, n + 1))))
