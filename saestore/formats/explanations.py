"""Explanations of features as other programs keep them: Delphi's folders, Neuronpedia's export, tables."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, NotFoundError, check_path
from saestore.files import damage, existing_file, read_gzip, read_parquet
from saestore.tables.column import TEXT, as_objects
from saestore.tables.items import read_csv
from saestore.tables.label_matrix import listed

if TYPE_CHECKING:
    import os

    from saestore.query.reader import SetReader

EXPLANATION, SOURCE, DATE = "explanation", "explanation_source", "explanation_date"
_LATENT = re.compile(r"(?P<hookpoint>.+)_latent(?P<feature>\d+)\.txt")
_ROW = ("feature", "index", "item", "key", "sample")
_TEXTS = ("name", "note", EXPLANATION, SOURCE, DATE)  # columns of text, also where a CSV file has numbers
_KINDS: list[tuple[re.Pattern[str], Callable[[str], Any]]] = [
    (re.compile("true|false", re.IGNORECASE), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII), int),
    (re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?(inf|nan)", re.ASCII | re.IGNORECASE), float),
]
_TABLES = {"feature": "features", "index": "features", "item": "items", "key": "items", "sample": "samples"}


@dataclass
class Annotations:
    """Values for rows of a table, by column."""

    table: str = "features"  # ``features``, ``items`` or ``samples``
    # Of each column a mapping of rows (numbers, or keys of items) to values.
    columns: dict[str, dict[Any, Any]] = field(default_factory=dict)
    # What the file records of its SAE: ``d_sae`` and ``fingerprint``, where it does.
    sae: dict[str, Any] = field(default_factory=dict)
    dated: bool = False  # whether source and date follow from the file, instead of being values of it

    def add(self, row: Any, values: Mapping[str, Any], where: str) -> None:
        """Add the known values of a row; a row that has another value already is an error."""
        for name, value in values.items():
            if value is None or (isinstance(value, float) and math.isnan(value)):
                continue
            before = self.columns.setdefault(name, {}).setdefault(row, value)
            if before is not value and before != value:
                raise InvalidInputError(
                    f"{where} has two values of {name!r} for {row!r}: {before!r} and {value!r}; keep one, or name "
                    "the explainer as source= (--source).",
                    code="duplicate-name",
                )


def read_annotations(reader: SetReader, path: str | os.PathLike[str], source: str | None = None) -> Annotations:
    """Read what a file or folder knows of features, items or samples of a set.

    `ActivationSet.import_explanations` explains `path` and `source`; explanations may also be in a folder alone.
    """
    path = check_path("path", path)
    kinds = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
    with damage(path, "cannot be read", *kinds, code="unreadable-file"):
        annotations = _read(reader, path, source)
    _check_sae(annotations, reader, str(path))
    _match_provenance(annotations, reader)
    return annotations


def _match_provenance(annotations: Annotations, reader: SetReader) -> None:
    """An explanation that the set has keeps its source and date; one that is replaced loses them."""
    given, stored = annotations.columns.get(EXPLANATION, {}), reader.features.names()
    if annotations.table != "features" or EXPLANATION not in stored:
        return
    before = as_objects(reader.features.column(EXPLANATION, list(given))).tolist()
    for (row, text), known in zip(given.items(), before, strict=True):
        for name in (SOURCE, DATE):
            if text == known and annotations.dated:
                annotations.columns.get(name, {}).pop(row, None)
            elif text != known and known is not None and name in stored:
                annotations.columns.setdefault(name, {}).setdefault(row, None)
    if annotations.dated:
        annotations.columns = {name: values for name, values in annotations.columns.items() if values}


def _read(reader: SetReader, path: Path, source: str | None) -> Annotations:
    if path.is_dir():
        batches = sorted(path.glob("batch-*.jsonl*"))
        rows = [row for batch in batches for row in _read_jsonl(batch)[0]]
        return _neuronpedia(rows, source, path) if batches else _delphi(path, source)
    suffixes = [s for s in existing_file(path).suffixes if s != ".gz"]
    read = _READERS.get(suffixes[-1] if suffixes else "")
    if read is None:
        raise InvalidInputError(
            f"{path} is not a file of annotations; give a .csv, .json, .jsonl or .parquet file, or a folder of Delphi.",
            code="unknown-format",
        )
    rows, sae = read(path)
    if rows and {"index", "description"} <= set(rows[0]):
        return _neuronpedia(rows, source, path)
    result = _table(rows, sae, path)
    if read is _read_csv:
        stored = reader.table(result.table)
        texts = {*_TEXTS, *(name for name in stored.info.columns if stored.dtype(name) == TEXT)}
        result.columns = {n: v if n in texts else _typed(v) for n, v in result.columns.items()}
    return result


def _check_sae(annotations: Annotations, reader: SetReader, where: str) -> None:
    """Refuse annotations of another SAE: of another width, fingerprint, or with a feature that the set lacks."""
    if annotations.table != "features":
        return
    n_features, recorded = reader.shape[1], reader.attributes.sae.get("fingerprint")
    largest = max((int(row) for rows in annotations.columns.values() for row in rows), default=-1)
    width, fingerprint = annotations.sae.get("d_sae"), annotations.sae.get("fingerprint")
    problem = ""
    if width is not None and width != n_features:
        problem = f"it is of an SAE with {width} features"
    elif largest >= n_features:
        problem = f"it explains feature {largest}"
    elif fingerprint and recorded and fingerprint != recorded:
        problem = f"its SAE has the fingerprint {str(fingerprint)[:12]}, the set's has {recorded[:12]}"
    if problem:
        raise InvalidInputError(
            f"{where} is not of the SAE of {reader.path}: {problem}; the set has {n_features:,} features. Nothing was "
            "written.",
            code="other-sae",
        )


def _delphi(folder: Path, source: str | None) -> Annotations:
    inner = folder / "explanations" if (folder / "explanations").is_dir() else folder
    files = {match: file for file in sorted(inner.iterdir()) if (match := _LATENT.fullmatch(file.name))}
    scored = [(file, match) for file in sorted(folder.glob("scores/*/*")) if (match := _LATENT.fullmatch(file.name))]
    hookpoint = _one_source({match["hookpoint"] for match in [*files] or [m for _, m in scored]}, source, folder)
    result = Annotations(dated=True)
    for match, file in files.items():
        if match["hookpoint"] != hookpoint:
            continue
        date = datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
        values = {EXPLANATION: _explanation(file), SOURCE: f"delphi: {hookpoint}", DATE: date}
        result.add(int(match["feature"]), values, str(file))
    for file, found in scored:
        if found["hookpoint"] == hookpoint.replace("/", "--"):
            result.add(int(found["feature"]), {f"{file.parent.name}_score": _balanced_accuracy(file)}, str(file))
    return result


def _explanation(file: Path) -> str:
    text = _text_of(file)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()
    return str(value[0] if isinstance(value, list) and value else value)


def _balanced_accuracy(file: Path) -> float | None:
    """Mean of the true positive and the true negative rate of a scorer's examples, as Delphi's own report has it."""
    try:
        examples = json.loads(_text_of(file))
        judged = [(bool(e["activating"]), e["prediction"] >= 0.5) for e in examples if e.get("prediction") is not None]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InvalidInputError(f"{file} is not a file of a Delphi scorer: {e!r}.", code="unreadable-file") from e
    rates = []
    for truth in (True, False):
        right = [prediction == truth for active, prediction in judged if active == truth]
        rates.append(sum(right) / len(right) if right else 0.0)
    return sum(rates) / 2 if judged else None


def _neuronpedia(rows: Sequence[Mapping[str, Any]], source: str | None, path: Path) -> Annotations:
    rows = list(rows)
    if source in {row.get("explanationModelName") for row in rows}:
        rows, source = [row for row in rows if row.get("explanationModelName") == source], None
    chosen = _one_source({str(row.get("layer", "")) for row in rows}, source, path)
    result = Annotations(dated=True)
    for row in rows:
        if str(row.get("layer", "")) != chosen or row.get("description") is None:
            continue
        by = row.get("explanationModelName") or row.get("typeName")
        date = str(row["createdAt"])[:10] if row.get("createdAt") else None
        values = {EXPLANATION: str(row["description"]).strip(), DATE: date}
        values[SOURCE] = f"neuronpedia: {by}" if by else "neuronpedia"
        result.add(_number(row.get("index"), "index", path), values, str(path))
    return result


def _one_source(sources: set[str], source: str | None, where: Path) -> str:
    if not sources:
        raise NotFoundError(
            f"{where} has no explanation; Delphi keeps them as explanations/<hookpoint>_latent<feature>.txt.",
            code="no-explanations",
        )
    if source is None and len(sources) > 1:
        raise InvalidInputError(
            f"{where} has explanations of several SAEs; name one as source=: {listed(sorted(sources))}.",
            code="several-sources",
        )
    if source is not None and source not in sources:
        raise NotFoundError(
            f"{where} has no source {source!r}; it has {listed(sorted(sources))}.", code="unknown-source"
        )
    return source if source is not None else next(iter(sources))


def _table(rows: list[dict[str, Any]], sae: dict[str, Any], path: Path) -> Annotations:
    names = dict.fromkeys(name for row in rows for name in row)
    row_name = next((name for name in _ROW if name in names), None)
    if row_name is None:
        raise InvalidInputError(
            f"{path} has no column 'feature', 'item', 'key' or 'sample', to name the rows; it has {listed([*names])}.",
            code="unknown-column",
        )
    result = Annotations(_TABLES[row_name], {name: {} for name in names if name != row_name}, sae)
    seen: set[Any] = set()
    for row in rows:
        given = row.get(row_name)
        number = str(given) if row_name == "key" and given is not None else _number(given, row_name, path)
        if number in seen:
            raise InvalidInputError(f"{path} has {row_name} {number!r} twice; keep one row.", code="duplicate-name")
        seen.add(number)
        result.add(number, {name: value for name, value in row.items() if name != row_name}, str(path))
    return result


def _number(value: Any, name: str, path: Path) -> int:
    try:
        number = int(float(value))
        if number < 0 or number != float(value) or isinstance(value, bool):
            raise ValueError(value)
    except (TypeError, ValueError, OverflowError) as e:
        raise InvalidInputError(f"{path}: {name} {value!r} is not the number of a row.", code="not-an-index") from e
    return number


def _read_json(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    document = json.loads(_text_of(path), object_pairs_hook=_once)
    sae = document.get("sae", {}) if isinstance(document, dict) else {}
    rows = document["features"] if isinstance(document, dict) and "features" in document else document
    if isinstance(rows, dict):  # {"1884": "green object"}, or a mapping of columns for each feature
        rows = [{"feature": k, **(v if isinstance(v, dict) else {EXPLANATION: v})} for k, v in rows.items()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("a list of objects was expected")
    return rows, dict(sae)


def _read_jsonl(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = _text_of(path).split("\n")
    return [json.loads(line, object_pairs_hook=_once) for line in lines if line.strip()], {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file; refuses a name that it has twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError(f"an object of the file has {twice!r} twice; keep one.", code="duplicate-name")
    return result


def _text_of(path: Path) -> str:
    return read_gzip(path).decode() if path.suffix == ".gz" else existing_file(path).read_text("utf-8")


def _read_csv(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    names, columns = read_csv(path)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{path} has the column {twice!r} twice; keep one.", code="duplicate-name")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [{name: text or None for name, text in zip(names, row, strict=True)} for row in rows], {}


def _typed(values: dict[Any, str]) -> dict[Any, Any]:
    """The texts of a column of a CSV file as true and false, ints or floats where all of them are."""
    for kind, parse in _KINDS:
        if all(map(kind.fullmatch, values.values())):
            return {row: parse(text) for row, text in values.items()}
    return values


def _read_parquet(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return records(read_parquet(path).to_pandas()), {}


def records(frame: Any) -> list[dict[str, Any]]:
    """The rows of a DataFrame, with None where a value is unknown."""
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InvalidInputError(f"there is more than one column {twice!r}; keep one.", code="duplicate-name")
    columns = {str(name): frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


_READERS: dict[str, Callable[[Path], tuple[list[dict[str, Any]], dict[str, Any]]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
