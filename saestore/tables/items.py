"""The images or texts that samples come from: their names, splits and labels, read from a table."""

from __future__ import annotations

import io
import math
import numbers
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, raise_unreachable
from saestore.files import existing_file, plain_tensor, read_gzip
from saestore.tables.label_matrix import listed

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "cal", "val", "test", "none")

_KEYS = ("key", "image_path", "text_path")
# Text even where a value looks like a number; never a concept.
_TEXT = (*_KEYS, "text", "split", "class")
# Never a concept, though a column of them may happen to hold nothing but 0 and 1.
_NUMBERS = ("id", "index", "width", "height")
# pandas writes its index into a column without a name; it says nothing that the row number does not.
_PANDAS_INDEX = ("", "Unnamed: 0")

_LABEL_WORDS = {"false": 0.0, "true": 1.0}
# Words that may be meant as labels; a column of them is text, with a warning.
_ANSWERS = ({"yes", "no"}, {"y", "n"}, {"t", "f"}, {"on", "off"})
_INVISIBLE = "\u200b\u2060\ufeff"  # which some programs leave beside names
# A plain column (Coco's `traffic light`) with at least this share of 0 and 1 is a concept with mistakes in it, to be
# told, not a count: 0, 1, 2 has less.
_MOSTLY = 0.75

# 18 digits fit int64. A leading zero ("007") is an id and stays text, as does a longer number.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?((0|[1-9][0-9]{0,16})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, eq=False)
class Items:
    """The images or texts of a dataset, in row order."""

    key: np.ndarray  # texts (n_items,): image path, else text path, else the row number
    # Every other column as it was, (n_items,): text (``StringDType``), int64, float64 or bool; ``split`` has any words
    columns: dict[str, np.ndarray]
    concepts: dict[str, np.ndarray]  # labels, bool (n_items,), in the order of the file; masked where some are unknown

    def __len__(self) -> int:
        return len(self.key)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Items:
        """Read a ``metadata.csv``: ``image_path``, ``text_path`` or ``text``, any 0/1 concepts, maybe ``split``.

        Columns may come in any order. One whose values are all 0 and 1 is a concept, unless it is known to be something
        else (``class``, ``text``, ``width`` …). The whole file is in memory.
        """
        names, columns = read_csv(existing_file(path))
        return _items(names, columns, str(path))

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Items:
        """Take the columns of a pandas DataFrame; with the rules of `from_csv`; the index is not read."""
        columns = [_plain(frame.iloc[:, place]) for place in range(frame.shape[1])]
        return _items([str(name) for name in frame.columns], columns, "items")


def as_items(obj: Items | str | os.PathLike[str] | pd.DataFrame | Mapping[str, Sequence[Any] | np.ndarray]) -> Items:
    """Make `Items` of what describes them: the path of a ``metadata.csv``, a DataFrame, or a mapping of columns."""
    if isinstance(obj, Items):
        return obj
    if isinstance(obj, (str, os.PathLike)):
        return Items.from_csv(obj)
    if isinstance(obj, Mapping):
        return Items.from_frame(_frame(obj))
    # A DataFrame can only come from a pandas that is imported already; importing it to ask would cost half a second.
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(obj, pandas.DataFrame):
        return Items.from_frame(obj)
    raise InvalidInputError(
        f"items cannot be a {type(obj).__name__}; give the path of a metadata.csv, a DataFrame or a dict of columns",
        code="unsupported-items",
    )


def read_csv(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """The header of a CSV file, and its columns as texts."""
    import pandas as pd

    try:
        # The header is read as a row, else pandas would rename a column that is there twice. No value is guessed at:
        # a text "NA" is a text.
        packed = read_gzip(path) if path.suffix == ".gz" else None
        options: Any = {"header": None, "dtype": str, "keep_default_na": False, "na_filter": False}

        def read(**more: Any) -> Any:
            source = path if packed is None else io.BytesIO(packed)
            return pd.read_csv(source, encoding="utf-8-sig", **options, **more)

        frame = read()
        # A file that is written by hand may have spaces beside its commas, which are not part of the values then.
        after_commas = frame.iloc[1:, 1:].to_numpy(dtype=object)
        spaced = any(name != name.strip() for name in frame.iloc[0])
        spaced |= after_commas.size > 0 and all(value[:1] in (" ", "") for value in after_commas.flat)
        frame = read(skipinitialspace=True) if spaced else frame
    except pd.errors.EmptyDataError as error:
        raise InvalidInputError(
            f"{path} is empty; it needs a header and one row per item", code="empty-file"
        ) from error
    except (ValueError, OSError) as error:
        raise_unreachable(str(path), error)
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise InvalidInputError(f"{path} is not a CSV file in UTF-8: {reason}", code="unreadable-file") from error
    table = frame.to_numpy(dtype=object, copy=True)  # which pandas 3 would give read-only
    names = [str(name).strip().strip(_INVISIBLE) for name in table[0]]
    for index in [i for i, name in enumerate(names) if name == "split" or (spaced and name != "text")]:
        table[1:, index] = [value.strip() for value in table[1:, index]]
    return names, [_text(table[1:, index], names[index]) for index in range(len(names))]


def _shape(values: Any) -> tuple[int, ...]:
    """Shape of a column; of rows of several lengths -1 stands for their length."""
    try:
        return np.shape(values)
    except ValueError:
        return len(values), -1


def _frame(mapping: Mapping[str, Sequence[Any] | np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    tensors = {name: values for name, values in mapping.items() if hasattr(values, "is_meta")}
    mapping = {**mapping, **{name: plain_tensor(t, f"column {name!r}").tolist() for name, t in tensors.items()}}
    lengths = {name: _shape(values) for name, values in mapping.items()}
    if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
        message = ", ".join(f"{name} {shape}" for name, shape in lengths.items())
        raise InvalidInputError(
            f"every column of items needs the same length and one dimension, not: {message}", code="wrong-length"
        )
    # A column of numpy's StringDType is no type that pandas takes.
    lists = {name: v.tolist() if isinstance(v, np.ndarray) else list(v) for name, v in mapping.items()}
    return pd.DataFrame(lists)


def _plain(series: pd.Series) -> np.ndarray:
    """Turn a pandas column into bool, numbers (a missing one NaN) or text (a missing one empty)."""
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf":
        return np.asarray(series)
    missing = series.isna().to_numpy(dtype=bool)
    values = series.to_numpy(dtype=object, copy=True)
    kinds = (bool, int, float, np.number, np.bool_)
    if not missing.all() and all(isinstance(value, kinds) for value in values[~missing]):
        values[missing] = math.nan
        numbers = np.asarray(values.tolist())
        # An int beyond 64 bits would be an object again; it stays text.
        if numbers.dtype.kind in "biuf":
            return numbers
    values[missing] = ""
    return _text(values, str(series.name))


def _text(values: np.ndarray, name: str) -> np.ndarray:
    """Values as texts; refuses half characters (lone surrogates), which no file can hold, and what has no text."""
    kinds: set[Any] = {type(value) for value in values}
    for kind in kinds:
        if (kind.__str__ is object.__str__ and not issubclass(kind, numbers.Number)) or kind is np.ndarray:
            raise InvalidInputError(
                f"column {name!r} holds a {kind.__name__}; a column holds true and false, numbers or texts.",
                code="unsupported-dtype",
            )
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
        return np.array(texts, dtype=np.dtypes.StringDType())
    except (TypeError, UnicodeError) as error:
        raise InvalidInputError(
            f"column {name!r} holds a text that is not valid Unicode ({error}); correct it.", code="invalid-text"
        ) from error


def _items(names: list[str], columns: list[np.ndarray], where: str) -> Items:
    names = [name.lower() if name.lower() in _TEXT and name.lower() not in names else name for name in names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidInputError(f"{where} has more than one column {twice[0]!r}; keep one", code="duplicate-name")
    table = {name: column for name, column in zip(names, columns, strict=True) if name not in _PANDAS_INDEX}
    if not {*_KEYS, "text"} & set(table):
        raise InvalidInputError(
            f"{where} has the columns {listed([*table], 8)}; it needs key, image_path, text_path or text",
            code="no-keys",
        )
    n_items = len(columns[0])
    if n_items == 0:
        raise InvalidInputError(f"{where} has a header but no rows; it needs one row per item", code="empty-file")
    for name in _TEXT:
        if name in table:
            missing = table[name] != table[name] if table[name].dtype.kind == "f" else []
            table[name] = table[name].astype(np.dtypes.StringDType())
            table[name][missing] = ""
    _check_split(table, where)
    key = _take_key(table, n_items, where)
    concepts = {name: found for name, column in table.items() if (found := _labels(name, column, where)) is not None}
    rest = {name: _numbers(name, column) for name, column in table.items() if name not in concepts}
    return Items(key, rest, concepts)


def _take_key(table: dict[str, np.ndarray], n_items: int, where: str) -> np.ndarray:
    name = next((name for name in _KEYS if name in table), None)
    if name is None:
        return np.arange(n_items).astype(np.dtypes.StringDType())
    key = table.pop(name)
    empty = np.flatnonzero(key == "")
    if empty.size:
        raise InvalidInputError(
            f"{where}: {name} is empty in row {empty[0]} (counting from 0); every item needs one", code="empty-key"
        )
    return key


def _check_split(table: dict[str, np.ndarray], where: str) -> None:
    if "split" not in table:
        return
    words = table["split"].tolist()
    if "" in words:
        raise InvalidInputError(
            f"{where}: split is empty in row {words.index('')} (counting from 0); name the part of the data, such as "
            "train",
            code="unknown-split",
        )
    odd = sorted({word for word in words if word not in SPLITS and word.lower() in SPLITS})
    if odd:
        warnings.warn(f"{where}: split {', '.join(map(repr, odd))} is read in lower case.", stacklevel=2)
        lower = [word.lower() if word in odd else word for word in words]
        table["split"] = np.array(lower, dtype=np.dtypes.StringDType())


def _labels(name: str, column: np.ndarray, where: str) -> np.ndarray | None:
    """Return a concept as bool, masked where cells are empty, and None for another column.

    A column with mostly 0 and 1 in it is a concept with a mistake, which is refused; but one in which a tenth of the
    values are whole numbers from 2 on counts something.
    """
    if name in _TEXT or name in _NUMBERS:
        return None
    if column.dtype.kind in "biuf":
        values = column
        empty = np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)
    else:
        words = [value.strip().lower() for value in column.tolist()]
        values = np.array([_LABEL_WORDS.get(w, float(w) if _FLOAT.fullmatch(w) else math.nan) for w in words])
        empty = np.array([word == "" for word in words])
        if "::" not in name and any(set(words) - {""} <= each for each in _ANSWERS) and not empty.all():
            warnings.warn(
                f"{where}: column {name!r} is text, and holds only {' and '.join(sorted(set(words)))}; a concept has 1 "
                "and 0.",
                stacklevel=2,
            )
    valid, labels = (values == 0) | (values == 1), values == 1
    if (valid | empty).all() and valid.any():
        return np.ma.MaskedArray(labels, empty) if empty.any() else np.asarray(labels)
    others = values[~valid & ~empty]
    mostly = 0.9 if (others >= 2).all() and (others % 1 == 0).all() else _MOSTLY
    if "::" not in name and valid.mean() < mostly:
        return None
    row = int(np.flatnonzero(~valid & ~empty)[0]) if not empty.all() else 0
    value = column.tolist()[row]
    shown = "missing" if empty[row] else repr(value)
    raise InvalidInputError(
        f"{where}: concept {name!r} is {shown} in row {row} (counting from 0); labels are 0, 1 or an empty cell. "
        "Correct it, or leave the column out",
        code="invalid-label",
    )


def _numbers(name: str, column: np.ndarray) -> np.ndarray:
    """Turn text into numbers where every value of the column is one."""
    if name in _TEXT or column.dtype.kind in "biuf":
        return column
    values = [value.strip() for value in column.tolist()]
    if all(_INT.fullmatch(value) for value in values):
        return np.array([int(value) for value in values], dtype=np.int64)
    if all(_FLOAT.fullmatch(value) for value in values):
        return np.array([float(value) for value in values])
    return column
