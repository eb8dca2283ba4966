"""How many examples a test draws: some, or under `pytest --thorough` many."""

THOROUGH = False  # set by conftest.py
_TIMES = 100


def examples(few: int) -> int:
    """`few`, or a hundred times as many."""
    return few * _TIMES if THOROUGH else few
