"""Delphi's latent cache (EleutherAI/delphi 0.1.3): safetensors of (sequence, position, latent) and activations.

A folder per hookpoint holds ``<start>_<end>.safetensors``, each with a range of latents, and ``config.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import map_safetensors, read_json
from saestore.formats.base import Format, Opened, Source, bad_shape, check_ids, stored_dtype
from saestore.formats.delphi_output import IDS, SOURCE, write_delphi, write_neighbours
from saestore.formats.issues import Issue
from saestore.formats.spool import Spool, blocks, check_claimed
from saestore.sparse_rows import Array, pointers

_NAME = re.compile(r"(?P<start>[0-9]+)_(?P<end>[0-9]+)\.safetensors\Z")
_AXES = ("sequence", "position", "latent")


@dataclass(frozen=True)
class _Part:
    """One file: latents `start` to `end`, the last included."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class _Tokens:
    """Which tokens are samples: all of (n_sequences, ctx), or those that are not padding."""

    n_sequences: int
    ctx: int
    keep: Array | None
    ids: Array | None = None

    @property
    def columns(self) -> dict[str, Array]:
        """The token id of each sample, where the cache has them."""
        return {} if self.ids is None else {IDS: self.ids[... if self.keep is None else self.keep].reshape(-1)}

    @property
    def n_rows(self) -> int:
        return self.n_sequences * self.ctx if self.keep is None else int(self.keep.sum())

    @property
    def item_ptr(self) -> Any:
        return self.ctx if self.keep is None else pointers(self.keep.sum(axis=1))

    def rows(self, places: Array) -> tuple[Array, Array]:
        """Samples of flat token places, and which of the places are samples."""
        if self.keep is None:
            return places, np.ones(len(places), bool)
        return self._numbers[places], self.keep.reshape(-1)[places]

    @cached_property
    def _numbers(self) -> Array:
        """Sample of each token, where it is one. Memory: 8 bytes per token."""
        return np.cumsum(np.asarray(self.keep)) - 1


def find_cache(path: Path) -> Path | None:
    """The folder of one hookpoint: `path`, or the only one below it; None where there is none."""
    if not path.is_dir():
        return None
    if any(_NAME.fullmatch(file.name) for file in path.iterdir()):
        return path
    below = sorted({file.parent for file in path.rglob("*.safetensors") if _NAME.fullmatch(file.name)})
    if len(below) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in below)
        raise NotFoundError(f"{path} has the hookpoints {names}; give one.", code="ambiguous-path")
    return below[0] if below else None


def open_delphi(source: Source) -> Opened:
    """Open the cache of one hookpoint; its entries, which are stored by latent, go through a `Spool`."""
    folder = find_cache(source.path)
    if folder is None:
        raise NotFoundError(f"{source.path} has no <start>_<end>.safetensors of a Delphi cache.", code="no-cache")
    parts, config = _parts(folder), _config(folder)
    tokens, issues = _tokens(parts, config, source.pad_token)
    dtype = stored_dtype(np.dtype(_tensor(parts[0].path, "activations")[:0].dtype), str(parts[0].path))
    padding: list[int] = []
    spool = Spool(tokens.n_rows, _entries(parts, tokens, padding), dtype, source.resources)
    if n := sum(padding):
        issues.append(Issue("padding_tokens", "info", f"{n:,} activations on padding tokens; left out", n))
    if dtype == "float16":
        message = "a cache holds float16: activations are rounded by up to 0.05 %, those within 0.00001 of 0 missing"
        issues.append(Issue("float16_values", "info", message, spool.n_entries))
    files = tuple(part.path for part in parts)
    return Opened(
        "delphi", str(folder), files, tokens.n_rows, parts[-1].end + 1, dtype, spool.read, spool.step,
        item_ptr=tokens.item_ptr,
        issues=tuple(issues),
        columns=tokens.columns,
        sae={"hook_name": folder.name},
        source={"layout": f"delphi, {len(parts)} files", **{name: config[name] for name in SOURCE if name in config}},
    )  # fmt: skip


def _parts(folder: Path) -> list[_Part]:
    matches = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    parts = sorted((_Part(path, int(m["start"]), int(m["end"])) for path, m in matches), key=lambda part: part.start)
    expected = 0
    for part in parts:
        if part.start != expected:
            gap = f"latents {expected} to {part.start - 1} are in no file"
            message = gap if part.start > expected else f"{part.path.name} overlaps the file before it"
            raise InvalidInputError(f"{folder}: {message}; the cache is not complete.", code="incomplete-cache")
        expected = part.end + 1
    return parts


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{path} is not a JSON object.", code="damaged-file") from error


def _tensor(path: Path, name: str, *, optional: bool = False) -> Any:
    """A tensor of a file, not read yet; None where an `optional` one is not there."""
    opened = map_safetensors(path, "np")
    if name in opened.keys():  # noqa: SIM118 (no mapping)
        if not opened.get_slice(name).get_shape():
            raise bad_shape(f"{path}: {name} is a single number.")
        return opened.get_slice(name)
    if optional:
        return None
    message = f"{path} has no tensor {name!r}; it has {', '.join(opened.keys()) or 'none'}."
    raise InvalidInputError(message, code="no-such-tensor")


def _tokens(parts: list[_Part], config: dict[str, Any], pad_token: int | None) -> tuple[_Tokens, list[Issue]]:
    """From the copy in the first file; without one, from the context length and the last sequence that is active."""
    folder, first = parts[0].path.parent, parts[0].path
    found = [_tensor(part.path, "tokens", optional=True) for part in parts]
    shape, *others = [None if each is None else tuple(each.get_shape()) for each in found]
    for part, other in zip(parts[1:], others, strict=True):
        if other != shape:
            raise bad_shape(f"{folder}: tokens of {part.path.name} are {other}, of the first file {shape}.")
    if shape is not None:
        if len(shape) != 2 or 0 in shape:
            raise bad_shape(f"{first}: tokens have the shape {shape}; they are sequences by positions.")
        ids = np.asarray(_tensor(first, "tokens")[:])
        check_ids(ids, f"{first}: tokens")
        keep = None if pad_token is None else ids != pad_token
        return _Tokens(shape[0], shape[1], keep, ids), _repeated_ends(ids) if keep is None else []
    ctx = config.get("cache_ctx_len")
    if pad_token is not None or type(ctx) is not int:
        reason = "so that it does not show padding" if pad_token is not None else "and config.json no cache_ctx_len"
        raise InvalidInputError(f"{first} has no tokens, {reason}.", code="no-tokens")
    last = max(int(rows[:, 0].max(initial=0)) for part in parts for rows, _ in _blocks(part))
    n_entries = sum(int(_tensor(part.path, "activations").get_shape()[0]) for part in parts)
    check_claimed((last + 1) * ctx, n_entries, str(folder))
    message = f"the cache has no tokens: samples after sequence {last}, the last active one, are unknown"
    return _Tokens(last + 1, ctx, None), [Issue("no_tokens", "info", message)]


def _repeated_ends(ids: Array) -> list[Issue]:
    """An issue where sequences begin or end with the same token several times, as padding does."""
    issues = []
    for end, rows in (("end", ids[:, ::-1]), ("begin", ids)):
        tokens, counts = np.unique(rows[:, 0], return_counts=True)
        lengths = np.cumprod(rows == tokens[counts.argmax()], axis=1).sum(axis=1)
        lengths = lengths[(lengths > 1) & (lengths < rows.shape[1])]
        if len(lengths) > 1:
            token, n = tokens[counts.argmax()], int(lengths.sum())
            message = (
                f"{len(lengths):,} sequences {end} with the token {token} several times, {n:,} samples in all: if it "
            )
            issues.append(Issue("perhaps_padding", "info", f"{message}is padding, pass --pad-token {token}", n))
    return issues


def _blocks(part: _Part) -> Iterator[tuple[Array, Array]]:
    locations, activations = _tensor(part.path, "locations"), _tensor(part.path, "activations")
    shape, length = tuple(locations.get_shape()), int(activations.get_shape()[0])
    if shape != (length, 3):
        raise bad_shape(f"{part.path}: {length} activations have locations of shape {shape}, expected ({length}, 3).")
    for start, stop in blocks(length):
        yield locations[start:stop], activations[start:stop]


def _entries(parts: list[_Part], tokens: _Tokens, padding: list[int]) -> Iterator[tuple[Array, Array, Array]]:
    """The entries of all files, in their order, without padding, whose counts go to `padding`."""
    for part in parts:
        for locations, activations in _blocks(part):
            limits = (tokens.n_sequences, tokens.ctx, part.end - part.start + 1)
            check_ids(locations, f"{part.path}: locations")
            ends = (locations.min(axis=0, initial=0), locations.max(axis=0, initial=0))
            for name, *numbers, limit in zip(_AXES, *(end.tolist() for end in ends), limits, strict=True):
                wrong = [number for number in numbers if not 0 <= number < limit]
                if wrong:
                    message = f"{part.path} has {name} {wrong[0]:,}; there are {limit:,}. It is damaged."
                    raise InvalidInputError(message, code="damaged-file")
            sequence, position, latent = (locations[:, i].astype(np.int64) for i in range(3))
            rows, keep = tokens.rows(sequence * tokens.ctx + position)
            padding.append(int((~keep).sum()))
            yield rows[keep], latent[keep] + part.start, activations[keep]


FORMATS = (
    Format("delphi", lambda path: find_cache(path) is not None, open_delphi, write_delphi,
           options=("pad_token", "tokens", "clip")),
    Format("delphi-neighbours", write=write_neighbours),
)  # fmt: skip
