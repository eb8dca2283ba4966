"""Matching the names that a table or files give items to the keys that the items have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from saestore.errors import InvalidInputError, check_choice

OnUnmatched = Literal["error", "ignore"]

_NAMED = 3  # keys that a message names


def match_keys(given: Sequence[str], stored: Sequence[str], where: str) -> list[int | None]:
    """Number of the item that each given key is, or None: the same key, else the only item of the same file name."""
    exact, by_name = _places(stored), _places([file_name(key) for key in stored])
    found: list[int | None] = []
    for key in given:
        fits = exact.get(key) or by_name.get(file_name(key)) or []
        if len(fits) > 1:
            raise InvalidInputError(
                f"{where}: {key!r} fits {len(fits)} items, such as {first_of([stored[i] for i in fits[:2]])}; give "
                "their full keys.",
                code="ambiguous-key",
            )
        found.append(fits[0] if fits else None)
    taken: dict[int, str] = {}
    for key, item in zip(given, found, strict=True):
        if item is not None and item in taken:
            message = f"{where}: both {taken[item]!r} and {key!r} are item {stored[item]!r}; keep one."
            raise InvalidInputError(message, code="duplicate-key")
        if item is not None:
            taken[item] = key
    return found


def file_name(key: str) -> str:
    """What follows the last slash."""
    return PurePosixPath(key.replace("\\", "/")).name


def _places(keys: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    return places


def check_on_unmatched(on_unmatched: str) -> None:
    """Refuse anything but "error" and "ignore"."""
    check_choice("on_unmatched", on_unmatched, ("error", "ignore"))


def unmatched(keys: Sequence[str], what: str, example: str, where: str) -> None:
    """Refuse keys that fit no item, if there are any."""
    if not keys:
        return
    shown = f"{len(keys):,} {what}{'s fit' if len(keys) > 1 else ' fits'}"
    raise InvalidInputError(
        f"{where}: {shown} no item ({first_of(keys)}); keys of items look like {example!r}. Correct them, or skip them "
        "with --on-unmatched ignore (on_unmatched='ignore').",
        code="unmatched-keys",
    )


def first_of(keys: Sequence[str]) -> str:
    """The first few keys, for a message."""
    return ", ".join(map(repr, keys[:_NAMED])) + (", …" if len(keys) > _NAMED else "")
