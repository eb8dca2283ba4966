"""What is chosen on and what is reported on: splits of the items by their names, or any conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, did_you_mean
from saestore.kernels import segment_sums
from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

_WORD = re.compile(r"[\w.-]+")


def samples_of(acts: SetReader, where: Any) -> Array:
    """The samples that fulfil a condition, bool (n_samples,)."""
    condition = acts.condition(where)
    return np.ones(acts.shape[0], bool) if condition is None else condition.over_samples(acts.shape[0]).copy()


def items_of(acts: SetReader, samples: Array) -> Array:
    """The items that have one of the samples of a mask, bool (n_items,)."""
    counts = segment_sums(samples, np.minimum(acts.item_index.pointers(), len(samples)))
    has_sample: Array = counts > 0
    return has_sample


def samples_on(acts: SetReader, on: Any) -> Array:
    """The samples of a split, bool (n_samples,).

    Parameters
    ----------
    on
        A value of the items' column ``split``, or a condition as in every query.

    Raises
    ------
    NotFoundError
        The items have no such split, or no column ``split`` at all, or nothing fulfils the condition.
    """
    names, on = split_names(acts), str(on) if isinstance(on, int) else on
    if isinstance(on, str) and on not in names and on.lower() in names:
        on = on.lower()
    if isinstance(on, str) and on not in names and _WORD.fullmatch(on) and on not in _columns(acts):
        if not names:
            message = (
                f"The items of {acts.path} have no column 'split', so no split {on!r}; set it, or give conditions."
            )
            raise NotFoundError(message, code="no-splits")
        message = f"{acts.path} has no split {on!r}. {did_you_mean(on, names)}The items have: {', '.join(names)}."
        raise NotFoundError(message, code="unknown-split")
    mask = samples_of(acts, {"split": on} if isinstance(on, str) and on in names else on)
    if not mask.any():
        raise NotFoundError(f"{acts.path} has no sample in {described(on)!r}.", code="empty-split")
    return mask


def split_names(acts: SetReader) -> list[str]:
    """Values of the items' column ``split``, sorted; none where there is no such column."""
    if "split" not in acts.items.names():
        return []
    return sorted({str(value) for value in np.ma.asarray(acts.items["split"]).compressed().tolist()})


def _columns(acts: SetReader) -> set[str]:
    return {*acts.concept_names(), *acts.items.names(), *acts.samples.names()}


def described(on: Any) -> str:
    """How a split or a condition is named in a report."""
    if isinstance(on, Mapping):
        return ", ".join(f"{name} {value}" for name, value in on.items())
    return str(on) if isinstance(on, str | int) else "a mask"


def disjoint(acts: SetReader, choose_on: Any, report_on: Any, level: str, where: Any = None) -> tuple[Array, Array]:
    """The samples to choose on and to report on, of those that fulfil `where`.

    Raises
    ------
    InvalidInputError
        Only one of them is given, or they share samples or, at the level of items, items.
    """
    if choose_on is None or report_on is None:
        raise InvalidInputError("choose_on= and report_on= belong together; give both.", code="missing-argument")
    chosen, reported = (samples_on(acts, on) for on in (choose_on, report_on))
    shared = np.flatnonzero(chosen & reported)
    if len(shared):
        raise InvalidInputError(
            f"choose_on= and report_on= share {len(shared):,} samples, such as {shared[0]}; choose others.",
            code="groups-overlap",
        )
    shared = np.flatnonzero(items_of(acts, chosen) & items_of(acts, reported)) if level == "item" else shared
    if len(shared):
        raise InvalidInputError(
            f"item {shared[0]} has samples in choose_on= and in report_on=; choose items by one of both.",
            code="groups-overlap",
        )
    allowed = samples_of(acts, where)
    return chosen & allowed, reported & allowed
