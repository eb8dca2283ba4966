"""Texts from a file or a list, as they are or through a chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import below, damage, existing_file
from saestore.sae.hub import one_line
from saestore.tables.items import Items, as_items


def find_texts(
    spec: str | os.PathLike[str] | Sequence[Any], table: Any, chat: Callable[[list[Any]], str] | None = None
) -> Items:
    """Read texts, into a table with a column ``text``.

    `spec` is a ``.txt`` with a text per line, a ``.csv`` with a column ``text`` (or ``text_path``, files beside it), a
    ``.jsonl`` with objects that have ``text``, or a list of texts. Other columns become columns and labels of the
    items; `table` has more of them, one row per text. `chat` makes a text of messages, ``{"role": …, "content": …}``,
    which a ``.jsonl`` (as ``messages``) and a list may then have; a text becomes the message of a user.
    """
    items, contents = _read(spec)
    if chat is not None:
        rendered = [_rendered(key, each, chat) for key, each in zip(items.key.tolist(), contents, strict=True)]
        items = Items(items.key, {**items.columns, "text": np.array(rendered, np.dtypes.StringDType())}, items.concepts)
    elif not all(isinstance(each, str) for each in contents):
        raise InvalidInputError(
            "lists of messages become texts by the chat template of a model: pass --chat (chat=True)",
            code="invalid-texts",
        )
    if table is None:
        return items
    more = as_items(table)
    if len(more) != len(items):
        raise InvalidInputError(
            f"the items have {len(more):,} rows, but there are {len(items):,} texts; both must agree", code="item-count"
        )
    return Items(more.key, {**more.columns, "text": items.columns["text"]}, more.concepts)


def _rendered(key: str, content: Any, chat: Callable[[list[Any]], str]) -> str:
    """A text or messages through the chat template."""
    try:
        return chat([{"role": "user", "content": content}] if isinstance(content, str) else content)
    except Exception as error:  # a template raises what it likes
        raise InvalidInputError(
            f"the tokenizer's chat template cannot render text {key}: {type(error).__name__}: {one_line(error)}",
            code="invalid-chat",
        ) from error


def _is_content(value: Any) -> bool:
    """Whether it is a text, or messages."""
    if isinstance(value, list):
        return len(value) > 0 and all(isinstance(each, dict) for each in value)
    return isinstance(value, str)


def _read(spec: str | os.PathLike[str] | Sequence[Any]) -> tuple[Items, list[Any]]:
    """The items, and of each the text or messages."""
    if not isinstance(spec, str | os.PathLike):
        if not all(map(_is_content, spec)) or not len(spec):
            raise InvalidInputError("texts are a file, or a list of at least one str", code="invalid-texts")
        return as_items({"text": list(map(_shown, spec))}), list(spec)
    path = existing_file(spec)
    if path.suffix == ".jsonl":
        columns = _json_lines(path)
        contents = columns["text"]
        return as_items({**columns, "text": list(map(_shown, contents))}), contents
    if path.suffix == ".csv":
        items = _with_texts(Items.from_csv(path), path)
    elif path.suffix == ".txt":
        lines = [line.removesuffix("\r") for line in _decoded(path).removesuffix("\n").split("\n")]
        items = as_items({"text": lines})
    else:
        raise InvalidInputError(
            f"{path} has the suffix {path.suffix!r}; texts are .txt, .csv or .jsonl", code="unknown-suffix"
        )
    return items, items.columns["text"].tolist()


def _shown(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _with_texts(items: Items, path: Path) -> Items:
    if "text" in items.columns:
        return items
    texts = []
    for key in items.key.tolist():
        file = next((file for file in below(key, path.parent, path.parent.parent) if file.is_file()), None)
        if file is None:
            raise NotFoundError(
                f"{path} has no column text, and the file {key} that it names is not in {path.parent}",
                code="text-missing",
            )
        texts.append(_decoded(file))
    column = np.array(texts, np.dtypes.StringDType())
    return Items(items.key, {**items.columns, "text": column}, items.concepts)


def _decoded(path: Path) -> str:
    try:
        with damage(path, "cannot be read"):
            content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not in UTF-8 (byte {error.start}); convert it", code="not-utf-8") from error


def _json_lines(path: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{path} line {number} is not JSON: {error}", code="invalid-json") from error
        text = row.get("text", row.get("messages")) if isinstance(row, dict) else None
        if not _is_content(text):
            raise InvalidInputError(
                f"{path} line {number} is not an object with a text: {line[:60]}", code="invalid-json"
            )
        rows.append({**{name: value for name, value in row.items() if name != "messages"}, "text": text})
    if not rows:
        raise InvalidInputError(f"{path} is empty; it needs an object with a text on each line", code="invalid-texts")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
