"""Labels of tokens from spans of characters: a token has a concept where it shares a character with a span."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import existing_file
from saestore.format import KEY
from saestore.labels.as_labels import check_names
from saestore.labels.item_keys import OnUnmatched, check_on_unmatched, match_keys, unmatched
from saestore.query.set_table import SetTable
from saestore.sparse_rows import Array
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import LabelMatrix

Span = tuple[int, int, str]
Given = Mapping[Any, Any]  # of sequences of `Span`, which is yet to be checked

_BLOCK = 1 << 20  # tokens at a time
_COLUMNS = ("key", "start", "stop", "concept")
_TEXT = "text"


def from_spans(
    given: Given | str | os.PathLike[str],
    items: SetTable,
    index: ItemIndex,
    spans_of: Callable[[int, int], Array | None],
    n_samples: int,
    *,
    on_unmatched: OnUnmatched = "error",
) -> LabelMatrix:
    """Labels of tokens from spans of characters, given as `Concepts.add_spans` takes them.

    `spans_of` returns the characters of the tokens from one sample to before another, int32 (n, 2), or None. Memory:
    the spans, and about 32 bytes for each of a million tokens.
    """
    where = str(given) if isinstance(given, str | os.PathLike) else "spans"
    if spans_of(0, min(1, n_samples)) is None:
        raise InvalidInputError(
            "the set does not know the characters of its tokens, so spans cannot be matched to them; build it with "
            "--token-spans, or give masks over samples.",
            code="no-token-spans",
        )
    check_on_unmatched(on_unmatched)
    entries = list(_read(given) if isinstance(given, str | os.PathLike) else _of_mapping(given))
    check_names(list(dict.fromkeys(concept for _, _, _, concept in entries)))
    by_item = _by_item(entries, items, index.n_items, where, on_unmatched)
    if not by_item:
        raise InvalidInputError(f"{where} holds no span of an item of the set.", code="no-span")
    _check_ends(by_item, items, where)
    rows: dict[str, list[Array]] = {concept: [] for spans in by_item.values() for _, _, concept in spans}
    for start, tokens in _blocks(spans_of, n_samples):
        _mark(by_item, index, start, tokens, rows)
    joined = {name: np.unique(np.concatenate([np.empty(0, np.int64), *parts])) for name, parts in rows.items()}
    return LabelMatrix.of_rows(joined, n_samples, "sample")


def _blocks(spans_of: Callable[[int, int], Array | None], n_samples: int) -> Iterator[tuple[int, Array]]:
    for start in range(0, n_samples, _BLOCK):
        tokens = spans_of(start, min(start + _BLOCK, n_samples))
        if tokens is not None:
            yield start, tokens


def _mark(
    by_item: Mapping[int, Sequence[Span]], index: ItemIndex, start: int, tokens: Array, rows: dict[str, list[Array]]
) -> None:
    """Add the tokens of one block that share a character with a span."""
    pointers = index.pointers()
    for item, spans in by_item.items():
        first, last = max(int(pointers[item]), start), min(int(pointers[item + 1]), start + len(tokens))
        if first >= last:
            continue
        begins, ends = tokens[first - start : last - start].T
        for a, b, concept in spans:
            # Of a token without characters none is shared.
            shared = np.maximum(begins, a) < np.minimum(ends, b)
            rows[concept].append(first + np.flatnonzero(shared))


def _of_mapping(given: Given) -> Iterator[tuple[Any, int, int, str]]:
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"spans cannot be a {type(given).__name__}; give {{key: [(start, stop, concept), …]}}, or the path of a "
            "CSV or JSONL file.",
            code="unsupported-spans",
        )
    for key, spans in given.items():
        if not isinstance(spans, list | tuple):
            message = f"spans of {key!r} are {spans!r}; give a list of (start, stop, concept)."
            raise InvalidInputError(message, code="invalid-span")
        for span in spans:
            if not isinstance(span, tuple | list) or len(span) != 3:
                raise InvalidInputError(f"span {span!r} of {key!r}: give (start, stop, concept).", code="invalid-span")
            start, stop, concept = span
            yield key, *_ends(start, stop, f"span {span!r} of {key!r}"), concept


def _ends(start: Any, stop: Any, what: str) -> tuple[int, int]:
    for end in (start, stop):
        if isinstance(end, bool) or not isinstance(end, int | np.integer):
            raise InvalidInputError(f"{what}: {end!r} is not the number of a character.", code="invalid-span")
    if not 0 <= start < stop:
        message = f"{what}: a span needs 0 <= start < stop; stop is the character after its last."
        raise InvalidInputError(message, code="invalid-span")
    return int(start), int(stop)


def _read(path: str | os.PathLike[str]) -> Iterator[tuple[str, int, int, str]]:
    file = existing_file(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise InvalidInputError(f"{file} is not in UTF-8: {e}.", code="unreadable-file") from e
    records = _csv_records(text, file) if file.suffix.lower() == ".csv" else _json_records(text, file)
    for line, record in records:
        missing = [column for column in _COLUMNS if record.get(column) is None]
        if missing:
            message = f"{file} line {line} has no {missing[0]!r}; each line needs {', '.join(_COLUMNS)}."
            raise InvalidInputError(message, code="missing-field")
        start, stop = (_number(record[end]) for end in ("start", "stop"))
        yield str(record["key"]), *_ends(start, stop, f"{file} line {line}"), record["concept"]


def _number(value: Any) -> Any:
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _csv_records(text: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
        for record in reader:
            yield reader.line_num, record
    except csv.Error as e:
        raise InvalidInputError(f"{file} is not a CSV file: {e}.", code="unreadable-file") from e


def _json_records(text: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            message = f"{file} line {number} is not JSON: {e}; spans are read from CSV or JSONL."
            raise InvalidInputError(message, code="unreadable-file") from e
        if not isinstance(record, dict):
            message = f"{file} line {number} is not an object with {', '.join(_COLUMNS)}."
            raise InvalidInputError(message, code="missing-field")
        yield number, record


def _by_item(
    entries: Sequence[tuple[Any, int, int, str]], items: SetTable, n_items: int, where: str, on_unmatched: OnUnmatched
) -> dict[int, list[Span]]:
    """Spans of every item that has any; keys are matched, and numbers are item numbers."""
    keys = list(dict.fromkeys(str(key) for key, *_ in entries if not _is_number(key)))
    stored = items.column(KEY).tolist() if KEY in items.names() else [str(i) for i in range(n_items)]
    item_of: dict[Any, int | None] = dict(zip(keys, match_keys(keys, stored, where), strict=True))
    if on_unmatched == "error":
        unmatched([key for key, item in item_of.items() if item is None], "key", stored[0], where)
    by_item: dict[int, list[Span]] = {}
    for key, start, stop, concept in entries:
        item = int(key) if _is_number(key) else item_of[str(key)]
        if item is None:
            continue
        if not 0 <= item < n_items:
            message = f"{where}: item {item} is out of range: there are {n_items:,}."
            raise InvalidInputError(message, code="out-of-range")
        by_item.setdefault(item, []).append((start, stop, concept))
    return by_item


def _is_number(key: Any) -> bool:
    return isinstance(key, int | np.integer) and not isinstance(key, bool)


def _check_ends(by_item: Mapping[int, Sequence[Span]], items: SetTable, where: str) -> None:
    """Refuse spans that run past the end of their text, where the texts are known."""
    if _TEXT not in items.names():
        return
    numbers = np.array(sorted(by_item))
    for item, text in zip(numbers.tolist(), items.column(_TEXT, numbers).tolist(), strict=True):
        for start, stop, concept in by_item[item]:
            if stop > len(text):
                raise InvalidInputError(
                    f"{where}: the span {start} to {stop} ({concept}) of item {item} ends after its text, which has "
                    f"{len(text):,} characters. Characters are counted as Python does, not in bytes.",
                    code="span-out-of-text",
                )
