"""``--feature`` and ``--level``, and the name of a feature beside its number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from saestore.cli.options import Decorator, option
from saestore.cli.table import Column, numbers
from saestore.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

_NAMED = 5  # features that a heading names one by one


def feature_option(text: str = "The feature", *, required: bool = False, multiple: bool = True) -> Decorator:
    """Give a command ``--feature``, which `features_of` resolves."""
    more = "; may be repeated" if multiple else ""
    return option(
        "--feature N",
        f"{text}: its number, its name, or a condition ('name contains \"green\"'){more}.",
        multiple=multiple,
        required=required,
    )


def level_option(text: str, default: str = "sample") -> Decorator:
    """Give a command ``--level``."""
    choices = ["sample", "item"] if default == "sample" else ["item", "sample"]
    return option("--level", text, choices=choices, default=default)


def features_of(acts: SetReader, given: Sequence[str]) -> list[int]:
    """The features that are meant, in their order."""
    return [feature for text in given for feature in _features(acts, text)]


def one_feature(acts: SetReader, given: str) -> int:
    """The one feature that is meant."""
    found = _features(acts, given)
    if len(found) != 1:
        raise _bad(f"{len(found):,} features fulfil {given!r}; this command takes one.")
    return found[0]


def _features(acts: SetReader, text: str) -> list[int]:
    try:
        return [int(text)]
    except ValueError:
        pass
    names = acts.features["name"].tolist() if "name" in acts.features.names() else []
    named = [feature for feature, name in enumerate(names) if name == text]
    if named:
        return named
    try:
        found: list[int] = acts.features.where(text).tolist()
    except (InvalidInputError, NotFoundError) as e:
        reason = str(e).removeprefix("where=: ")
        raise _bad(f"{text!r} is not a number or a feature's name; as a condition: {reason}") from e
    if not found:
        raise _bad(f"no feature fulfils {text!r}.")
    return found


def _bad(message: str) -> click.BadParameter:
    return click.BadParameter(message, click.get_current_context(), param_hint="'--feature'")


def feature_columns(acts: SetReader, features: Iterable[int], head: str = "feature") -> list[Column]:
    """Numbers of features and, where one of them has a name, the names."""
    ids = list(features)
    names = names_of(acts, ids)
    columns = [numbers(head, ids)]
    return [*columns, Column("name", [name or "" for name in names], cut="end")] if any(names) else columns


def called(acts: SetReader, features: Sequence[int]) -> str:
    """Features in a heading, some one by one, with their names."""
    shown = list(features[:_NAMED])
    texts = [f"{f} ({name})" if name else str(f) for f, name in zip(shown, names_of(acts, shown), strict=True)]
    return f"feature{'s' * (len(features) > 1)} {', '.join(texts)}" + (", …" if len(features) > _NAMED else "")


def names_of(acts: SetReader, features: Sequence[int]) -> list[str | None]:
    """Names of features, None where one has none."""
    import numpy as np

    from saestore.query.details import feature_names

    names = feature_names(acts, np.array(features, np.int64)) if len(features) else None
    return [None] * len(features) if names is None else names.tolist()


def with_names(
    acts: SetReader, rows: Sequence[dict[str, Any]], of: str = "feature", key: str = "name"
) -> list[dict[str, Any]]:
    """Rows with the name of their feature beside its number, None where there is none."""
    names = names_of(acts, [row[of] for row in rows])
    return [
        {k: v for own, value in row.items() for k, v in ((own, value), *([(key, name)] if own == of else []))}
        for row, name in zip(rows, names, strict=True)
    ]
