"""Delphi's latent cache: safetensors of (sequence, position, latent) and activations, split by latent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError
from saestore.formats.base import BLOCK, Opened, stored_dtype
from saestore.formats.issues import Issue
from saestore.formats.spool import Spool

Array = np.ndarray[Any, Any]

_NAME = re.compile(r"(?P<start>[0-9]+)_(?P<end>[0-9]+)\.safetensors\Z")


@dataclass(frozen=True)
class _Part:
    """One file: latents `start` to `end`, the last included."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class _Tokens:
    """Which tokens are samples: all of (n_sequences, ctx), or those that are no padding."""

    n_sequences: int
    ctx: int
    keep: Array | None

    @property
    def n_rows(self) -> int:
        return self.n_sequences * self.ctx if self.keep is None else int(self.keep.sum())

    @property
    def item_ptr(self) -> Any:
        if self.keep is None:
            return self.ctx
        return np.concatenate([[0], np.cumsum(self.keep.sum(axis=1))]).astype(np.int64)

    def rows(self, places: Array) -> tuple[Array, Array]:
        """Samples of flat token places, and which of the places are samples."""
        if self.keep is None or self._numbers is None:
            return places, np.ones(len(places), bool)
        return self._numbers[places], self.keep.reshape(-1)[places]

    @cached_property
    def _numbers(self) -> Array | None:
        """Sample of each token, where it is one. Memory: 8 bytes a token."""
        return None if self.keep is None else np.cumsum(self.keep) - 1


def is_cache(folder: Path) -> bool:
    """Whether a folder holds the files of one hookpoint."""
    return folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def find_cache(path: Path) -> Path:
    """The folder of one hookpoint: `path`, or the only one below it.

    Raises
    ------
    NotFoundError
        There is none, or there are several.
    """
    if is_cache(path):
        return path
    below = sorted({file.parent for file in path.rglob("*.safetensors") if _NAME.fullmatch(file.name)})
    if len(below) == 1:
        return below[0]
    if below:
        raise NotFoundError(
            f"{path} has the hookpoints {', '.join(str(b.relative_to(path)) for b in below)}; give one."
        )
    raise NotFoundError(f"{path} has no <start>_<end>.safetensors of a Delphi cache.")


def open_delphi(path: Path, pad_token: int | None, resources: ExitStack) -> Opened:
    """Open the cache of one hookpoint; its entries, which are stored by latent, go through a `Spool`.

    Raises
    ------
    InvalidInputError
        A file is damaged, or files leave out latents or contradict each other.
    """
    folder = find_cache(path)
    parts = _parts(folder)
    config = _config(folder)
    tokens, faults = _tokens(parts, config, pad_token)
    dtype = stored_dtype(np.dtype(_tensor(parts[0].path, "activations")[:0].dtype), str(parts[0].path))
    reader = _Entries(parts, tokens)
    spool = Spool(tokens.n_rows, reader.blocks(), dtype, resources)
    if reader.n_padding:
        faults.append(
            Issue(
                "padding_tokens",
                "recorded",
                f"{reader.n_padding:,} activations on padding tokens; left out",
                reader.n_padding,
            )
        )
    if dtype == "float16":
        faults.append(
            Issue(
                "float16_values",
                "recorded",
                "activations were rounded to float16 (a relative error of up to 0.05 %) and those within 0.00001 of 0 "
                "left out when the cache was written",
                spool.n_entries,
            )
        )
    known = ("model_name", "dataset_repo", "dataset_split", "dataset_name", "dataset_column")
    return Opened(
        "delphi",
        str(folder),
        tuple(part.path for part in parts),
        tokens.n_rows,
        parts[-1].end + 1,
        dtype,
        spool.read,
        int(min(tokens.n_rows, max(1, BLOCK * tokens.n_rows // max(1, spool.n_entries)))),
        item_ptr=tokens.item_ptr,
        faults=tuple(faults),
        sae={"hook_name": folder.name},
        source={"layout": f"delphi, {len(parts)} files", **{name: config[name] for name in known if name in config}},
    )


def _parts(folder: Path) -> list[_Part]:
    found = [
        _Part(path, int(match["start"]), int(match["end"]))
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name))
    ]
    parts = sorted(found, key=lambda part: part.start)
    expected = 0
    for part in parts:
        if part.start != expected:
            what = f"latents {expected} to {part.start - 1} are in no file" if part.start > expected else (
                f"{part.path.name} overlaps the file before it"
            )  # fmt: skip
            raise InvalidInputError(f"{folder}: {what}; the cache is not whole.")
        expected = part.end + 1
    return parts


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{path} is damaged ({error}).") from error


def _open(path: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingDependencyError(f"reading {path} needs safetensors; pip install 'saestore[sae]'") from error
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(f"{path} is truncated or not a .safetensors file ({error})") from error


def _tensor(path: Path, name: str) -> Any:
    opened = _open(path)
    if name not in opened.keys():  # noqa: SIM118  (no mapping)
        raise InvalidInputError(f"{path} has no tensor {name!r}; it has {', '.join(opened.keys()) or 'none'}.")
    return opened.get_slice(name)


def _tokens(parts: list[_Part], config: dict[str, Any], pad_token: int | None) -> tuple[_Tokens, list[Issue]]:
    """From the copy in the first file; without one, from the context length and the last sequence that is active."""
    shapes = {part.path.name: _shape(part.path, "tokens") for part in parts}
    first = shapes[parts[0].path.name]
    for name, shape in shapes.items():
        if shape != first:
            raise InvalidInputError(f"{parts[0].path.parent}: tokens of {name} are {shape}, of the first file {first}.")
    if first is not None:
        if len(first) != 2 or 0 in first:
            raise InvalidInputError(f"{parts[0].path}: tokens have the shape {first}; they are sequences by positions.")
        keep = None if pad_token is None else _tensor(parts[0].path, "tokens")[:] != pad_token
        return _Tokens(first[0], first[1], keep), []
    ctx = config.get("cache_ctx_len")
    if pad_token is not None or type(ctx) is not int:
        raise InvalidInputError(
            f"{parts[0].path} has no tokens"
            + ("; padding cannot be told from it." if pad_token is not None else ", and config.json no cache_ctx_len.")
        )
    last = max(int(rows[:, 0].max(initial=0)) for part in parts for rows, _ in _blocks(part))
    fault = Issue(
        "no_tokens",
        "recorded",
        f"the cache has no tokens: samples after sequence {last}, the last one with an activation, cannot be known",
    )
    return _Tokens(last + 1, ctx, None), [fault]


def _shape(path: Path, name: str) -> tuple[int, ...] | None:
    opened = _open(path)
    return tuple(opened.get_slice(name).get_shape()) if name in opened.keys() else None  # noqa: SIM118


def _blocks(part: _Part) -> Iterator[tuple[Array, Array]]:
    locations, activations = _tensor(part.path, "locations"), _tensor(part.path, "activations")
    shape, length = tuple(locations.get_shape()), int(activations.get_shape()[0])
    if len(shape) != 2 or shape != (length, 3):
        raise InvalidInputError(f"{part.path}: {length} activations have locations of shape {shape}, expected (…, 3).")
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        yield locations[start:stop], activations[start:stop]


class _Entries:
    """The entries of all files, in the order of the files, padding left out and counted."""

    def __init__(self, parts: list[_Part], tokens: _Tokens) -> None:
        self._parts, self._tokens = parts, tokens
        self.n_padding = 0

    def blocks(self) -> Iterator[tuple[Array, Array, Array]]:
        for part in self._parts:
            for locations, activations in _blocks(part):
                sequence, position, latent = (locations[:, i].astype(np.int64) for i in range(3))
                self._check(part, sequence, position, latent)
                rows, keep = self._tokens.rows(sequence * self._tokens.ctx + position)
                self.n_padding += int((~keep).sum())
                yield rows[keep], latent[keep] + part.start, activations[keep]

    def _check(self, part: _Part, sequence: Array, position: Array, latent: Array) -> None:
        limits = (self._tokens.n_sequences, self._tokens.ctx, part.end - part.start + 1)
        for name, values, limit in zip(
            ("sequence", "position", "latent"), (sequence, position, latent), limits, strict=True
        ):
            if len(values) and not 0 <= int(values.max()) < limit:
                raise InvalidInputError(
                    f"{part.path} has {name} {int(values.max()):,}; there are {limit:,}. It is damaged."
                )
