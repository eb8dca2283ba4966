"""``saestore.toml``: what a user says of data sets of their own, checked key by key."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError

CONFIG = "saestore.toml"
_PATHS = ("items", "item_ptr", "ground_truth")
_KEYS = ("modality", "sae", "patches", "embeddings", *_PATHS)


def read_config(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Read the tables ``[datasets.<name>]``; none where there is no such file.

    Parameters
    ----------
    path
        By default ``saestore.toml`` in the current folder.

    Returns
    -------
    dict
        The fields of each, with paths relative to the file's folder made whole.

    Raises
    ------
    InvalidInputError
        It is no TOML, or a key or value is none of those that are allowed; the message names it.
    """
    file = Path(CONFIG) if path is None else path
    if not file.is_file():
        return {}
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidInputError(f"{file} cannot be read as TOML: {error}") from error
    _check_keys(document, ("datasets",), str(file), "the file")
    tables = document.get("datasets", {})
    if not isinstance(tables, dict):
        raise InvalidInputError(f"{file}: datasets is no table; write [datasets.NAME], one for each data set.")
    return {name: _fields(file, name, table) for name, table in tables.items()}


def _fields(file: Path, name: str, table: Any) -> dict[str, Any]:
    where = f"[datasets.{name}]"
    if not isinstance(table, dict):
        raise InvalidInputError(f"{file}: datasets.{name} is no table; write {where} above its keys.")
    if not name.strip() or "/" in name:
        raise InvalidInputError(f"{file}: {name!r} is no name of a data set; it may not be empty, nor have a /.")
    _check_keys(table, _KEYS, str(file), where)
    found = dict(table)
    for key, value in table.items():
        if key == "patches":
            if type(value) is not int or value < 1:
                raise InvalidInputError(f"{file}: {where} patches = {value!r}; allowed is an integer from 1 up.")
        elif key == "embeddings":
            found[key] = _embeddings(file, where, value)
        elif not isinstance(value, str) or not value:
            raise InvalidInputError(f"{file}: {where} {key} = {value!r}; allowed is a text.")
        elif key in _PATHS or (key == "sae" and (file.parent / value).exists()):
            found[key] = _whole(file, value)
    return found


def _embeddings(file: Path, where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(path, str) and path for path in value.values()):
        raise InvalidInputError(
            f'{file}: {where} embeddings = {value!r}; allowed is a table of paths, as {{ patch = "…", cls = "…" }}.'
        )
    return {sample_type: _whole(file, path) for sample_type, path in value.items()}


def _whole(file: Path, path: str) -> str:
    return path if "://" in path else str(file.parent / Path(path).expanduser())


def _check_keys(table: dict[str, Any], allowed: tuple[str, ...], file: str, where: str) -> None:
    for key in table:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise InvalidInputError(f"{file}: {where} has {key!r}. {hint}Allowed are {', '.join(allowed)}.")
