"""What is known of features, written for Delphi, for Neuronpedia and as tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, check_choice, check_path, require
from saestore.formats.atomic_output import write_atomically
from saestore.formats.explanations import EXPLANATION, SOURCE, records
from saestore.storage import durable, save_file

if TYPE_CHECKING:
    import os

    from saestore.query.reader import SetReader


def export_features(
    reader: SetReader, path: str | os.PathLike[str], file_format: str | None, features: Any, *, overwrite: bool
) -> int:
    """See `ActivationSet.export_explanations`; returns the number of features."""
    target = check_path("path", path)
    chosen = (target.suffix.removeprefix(".") or "delphi") if file_format is None else file_format
    check_choice("format", chosen, _WRITERS, "unknown-format")
    names = reader.features.names()
    if not names or (chosen in ("delphi", "neuronpedia") and EXPLANATION not in names):
        what = "explanations" if names else "columns"
        raise NotFoundError(
            f"The features of {reader.path} have no {what}; nothing was written.", code="no-explanations"
        )
    frame = reader.features.to_pandas(names)
    if features is not None:
        frame = frame.loc[reader.select_features(features).ids]
    frame = frame[frame.notna().any(axis=1)]
    write_atomically(target, [target], lambda file: _WRITERS[chosen](reader, frame, file), overwrite=overwrite)
    return len(frame)


def _rows(frame: Any, *needed: str) -> list[dict[str, Any]]:
    """The known values of each row, of rows with the `needed` ones."""
    rows = [{name: value for name, value in row.items() if value is not None} for row in records(frame.reset_index())]
    return [row for row in rows if {*needed} <= {*row}]


def _write_json(reader: SetReader, frame: Any, path: Path) -> None:
    sae = {name: reader.attributes.sae.get(name) for name in ("name", "fingerprint")}
    document = {"sae": {**sae, "d_sae": reader.shape[1]}, "features": _rows(frame)}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")


def _write_csv(_: SetReader, frame: Any, path: Path) -> None:
    for name in frame.select_dtypes("object"):
        lost = [text for text in frame[name].dropna() if text == "" or "\0" in str(text)]
        if lost:  # readers of CSV take an empty text for a missing one, and end a text at NUL
            raise InvalidInputError(
                f"the column {name!r} has the text {lost[0]!r}, which CSV cannot hold; write .parquet or .json.",
                code="not-in-format",
            )
    # Of a narrow float all digits, and in quotes what would end a line.
    wide = frame.astype({name: np.float64 for name, dtype in frame.dtypes.items() if dtype.kind == "f"})
    wide.to_csv(path, index=True, quoting=csv.QUOTE_NONNUMERIC)


def _write_parquet(_: SetReader, frame: Any, path: Path) -> None:
    require("pyarrow", "arrow", f"writing {path.name}")
    frame.reset_index().to_parquet(path, index=False)


def delphi_hookpoint(reader: SetReader) -> str:
    """The name of the SAE's place in names of Delphi's files."""
    return str(reader.attributes.sae.get("hook_name") or reader.path.split("/")[-1]).replace("/", "--")


def write_delphi(
    folder: Path,
    hookpoint: str,
    explanations: Mapping[int, str],
    judged: Mapping[tuple[str, int], Any],
    save: Callable[[Path, bytes], object] = save_file,
) -> None:
    """Write a folder of Delphi's results: ``explanations/``, and ``scores/<scorer>/`` of what is `judged`."""
    files: dict[Path, dict[int, Any]] = {folder / "explanations": dict(explanations)}
    for (scorer, feature), examples in judged.items():
        files.setdefault(folder / "scores" / scorer, {})[feature] = examples
    for inner, contents in files.items():
        durable.make_folder(inner)
        for feature, content in contents.items():
            text = json.dumps(content, ensure_ascii=False)
            save(inner / f"{hookpoint}_latent{feature}.txt", text.encode("utf-8", "replace"))


def _write_delphi(reader: SetReader, frame: Any, path: Path) -> None:
    texts = {row["feature"]: row[EXPLANATION] for row in _rows(frame, EXPLANATION)}
    write_delphi(path, delphi_hookpoint(reader), texts, {}, Path.write_bytes)


def _write_neuronpedia(reader: SetReader, frame: Any, path: Path) -> None:
    sae = reader.attributes.sae
    model = str(sae.get("model_name") or reader.attributes.source.get("model") or "")
    layer = str(sae.get("neuronpedia_id") or sae.get("name") or reader.path.split("/")[-1]).rpartition("/")[2]
    rows = [
        {
            "modelId": model,
            "layer": layer,
            "index": str(row["feature"]),
            "description": row[EXPLANATION],
            "explanationModelName": str(row.get(SOURCE, "")).removeprefix("neuronpedia: "),
            "typeName": "saestore",
        }
        for row in _rows(frame, EXPLANATION)
    ]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), "utf-8")


_WRITERS: dict[str, Callable[[SetReader, Any, Path], None]] = {
    "json": _write_json,
    "csv": _write_csv,
    "parquet": _write_parquet,
    "delphi": _write_delphi,
    "neuronpedia": _write_neuronpedia,
}
