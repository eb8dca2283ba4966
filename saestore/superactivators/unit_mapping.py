"""Which feature each column of a filtered file really is: found by its values.

The mapping beside such files is often wrong: columns were numbered along an unsorted list, and the mapping was written
from the sorted one. The sparse file that they were made from still has the true ids.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import read_json
from saestore.formats.base import Opened
from saestore.formats.issues import Issue
from saestore.kernels import mix64
from saestore.sparse_rows import Array, SparseRows
from saestore.tables.label_matrix import listed


@dataclass(frozen=True)
class Mapping:
    """A unit mapping: the feature of each column by that file, and the width before filtering."""

    units: Array
    n_original: int


def mapping_name(base: str) -> str:
    """The file name of the unit mapping of the file `base`."""
    return f"{base}_unit_mapping.json"


def read_mapping(path: Path) -> Mapping:
    """Read a unit mapping."""
    try:
        content = read_json(path)
        columns = {int(unit): int(column) for unit, column in content["unit_id_to_new_idx"].items()}
        n_original = int(content["n_original"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{path} is not a unit mapping ({type(error).__name__}: {error}); it needs unit_id_to_new_idx and "
            "n_original",
            code="bad-unit-mapping",
        ) from error
    if sorted(columns.values()) != list(range(len(columns))) or not all(0 <= u < n_original for u in columns):
        raise InvalidInputError(
            f"{path} does not give each column one feature below {n_original:,}.", code="bad-unit-mapping"
        )
    units = np.empty(len(columns), np.int64)
    units[list(columns.values())] = list(columns)
    return Mapping(units, n_original)


def recover_feature_ids(raw: Opened, sparse: Opened, claimed: Mapping | None, *, positive: bool) -> Opened:
    """The same activations under their true features: `raw` has the file's columns, `sparse` is what it was made from.

    `claimed` is the mapping beside it. With `positive` negative values were dropped on the way, and only positive ones
    are matched. Reads both once. Memory: a block, and 24 bytes per column and feature.
    """
    n_features = sparse.n_features or (claimed.n_original if claimed else None)
    if n_features is None or raw.n_features is None:
        raise InvalidInputError(
            f"{sparse.path} does not say how many features the SAE has; pass --n-features.", code="unknown-width"
        )
    if raw.n_rows != sparse.n_rows:
        raise InvalidInputError(
            f"{raw.path} has {raw.n_rows:,} rows and {sparse.path} {sparse.n_rows:,}; give the sparse file that it was "
            "made from.",
            code="wrong-sparse-file",
        )
    columns, features = _Signatures(raw.n_features), _Signatures(n_features)
    columns.add(raw, positive=positive)
    features.add(sparse, positive=positive)
    mapped = None if claimed is None or len(claimed.units) != raw.n_features else claimed.units
    units = _matched(columns, features, mapped, raw.path)
    read = raw.read

    def renamed(start: int, stop: int) -> SparseRows:
        rows = read(start, stop)
        inside = (rows.indices >= 0) & (rows.indices < len(units))
        # Ids that are out of range stay out of range, to be reported.
        ids = np.where(inside, units[np.where(inside, rows.indices, 0)], n_features)
        return SparseRows(rows.indptr, ids, rows.data)

    dropped = int(features.negative[units[columns.count > 0]].sum()) if positive else 0
    active = columns.count > 0
    kept = f"only {len(units):,} of {n_features:,} features were kept; all others have no activations here"
    issues = [*raw.issues, Issue("filtered", "info", kept, n_features - len(units))]
    issues += _mapping_issues(units, active, claimed, mapped)
    if dropped:
        lost = f"{dropped:,} negative activations of these features are in the sparse file and not here"
        issues.append(Issue("negatives_dropped", "info", lost, dropped))
    return replace(
        raw,
        n_features=n_features,
        read=renamed,
        files=(*raw.files, *sparse.files),
        issues=tuple(issues),
        sae={**sparse.sae, **raw.sae},
        source={**raw.source, "kept_features": int(raw.n_features), "matched_against": sparse.path},
    )


class _Signatures:
    """Of each column the number of its values and two sums of hashes of (row, value), in any order of reading."""

    def __init__(self, width: int) -> None:
        self.count, self.negative = np.zeros(width, np.int64), np.zeros(width, np.int64)
        self._sums = np.zeros((2, width), np.uint64)

    def add(self, opened: Opened, *, positive: bool) -> None:
        """Read all rows."""
        for start in range(0, opened.n_rows, opened.step):
            rows = opened.read(start, min(start + opened.step, opened.n_rows))
            row = np.repeat(np.arange(start, start + len(rows)), np.diff(rows.indptr))
            ids, values = rows.indices, rows.data
            inside = (ids >= 0) & (ids < len(self.count))
            np.add.at(self.negative, ids[inside & (values < 0)], 1)
            keep = inside & ((values > 0) if positive else (values != 0))
            self._add(row[keep].astype(np.uint64), ids[keep], values[keep].astype(np.float64))

    def _add(self, row: Array, ids: Array, values: Array) -> None:
        bits = values.view(np.uint64)
        np.add.at(self.count, ids, 1)
        with np.errstate(over="ignore"):
            mixed = mix64(mix64(row + np.uint64(0x9E3779B97F4A7C15)) ^ bits)
            np.add.at(self._sums[0], ids, mixed)
            np.add.at(self._sums[1], ids, mix64(mixed + np.uint64(0xD6E8FEB86659FD93)))

    def keys(self) -> list[tuple[int, int, int]]:
        """One key a column; equal keys mean equal columns."""
        return list(zip(self.count.tolist(), self._sums[0].tolist(), self._sums[1].tolist(), strict=True))


def _matched(columns: _Signatures, features: _Signatures, mapped: Array | None, path: str) -> Array:
    """The feature of each column; of columns without a value the mapped one, since it changes nothing."""
    candidates: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for feature, key in enumerate(features.keys()):
        candidates[key].append(feature)
    units = np.full(len(columns.count), -1, np.int64) if mapped is None else mapped.copy()
    unmatched = []
    for column, key in enumerate(columns.keys()):
        if not key[0]:
            continue
        fits = candidates.get(key)
        if not fits:
            unmatched.append(column)
            continue
        claim = -1 if mapped is None else int(mapped[column])
        # Features with the same values on the same rows cannot be told apart, and need not be.
        units[column] = fits.pop(fits.index(claim) if claim in fits else 0)
    if unmatched:
        raise InvalidInputError(
            f"{len(unmatched)} columns of {path} ({listed(unmatched, 5)}) have values that no feature of the "
            "sparse file has; give the sparse file that it was made from.",
            code="wrong-sparse-file",
        )
    return units


def _mapping_issues(units: Array, active: Array, claimed: Mapping | None, mapped: Array | None) -> list[Issue]:
    """What is wrong in the mapping, of columns that have values."""
    if claimed is None:
        return [Issue("no_unit_mapping", "fixed", "no unit mapping was found; features found by their values")]
    if mapped is None:
        message = f"the unit mapping names {len(claimed.units):,} columns, there are {len(units):,}"
        return [Issue("wrong_unit_mapping", "fixed", f"{message}; features found by their values", len(units))]
    wrong = np.flatnonzero(active & (units != mapped))
    if not len(wrong):
        return []
    j = int(wrong[0])
    message = (
        f"the unit mapping is wrong for {len(wrong):,} of {int(active.sum()):,} columns that have values: column {j} "
        f"is feature {units[j]}, not {mapped[j]}; corrected by their values"
    )
    columns = [[int(c), int(mapped[c]), int(units[c])] for c in wrong]
    return [Issue("wrong_unit_mapping", "fixed", message, len(wrong), {"columns": columns})]
