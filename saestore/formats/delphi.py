"""Delphi's latent cache (EleutherAI/delphi 0.1.3): safetensors of (sequence, position, latent) and activations.

A folder per hookpoint holds ``<start>_<end>.safetensors``, each with a range of latents, and ``config.json``.
"""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import load_array, load_npy, read_json
from saestore.formats.base import Format, Opened, Source, Written, check_ids, stored_dtype
from saestore.formats.issues import Issue
from saestore.formats.selection import Block, Selected
from saestore.formats.spool import Spool, blocks
from saestore.interop.optional import require
from saestore.sparse_rows import pointers

Array = np.ndarray[Any, Any]

_NAME = re.compile(r"(?P<start>[0-9]+)_(?P<end>[0-9]+)\.safetensors\Z")
_LARGEST = 65504.0  # of float16, the only dtype that such a cache has
_SPLITS = 5  # what Delphi's own CacheConfig writes
_ENTRIES_OF_SPLIT = 1 << 26  # Delphi loads a file whole: half a GiB
_SAFETENSORS = {"uint16": "U16", "uint32": "U32", "float16": "F16", "int64": "I64"}
_AXES = ("sequence", "position", "latent")
_RECORD = np.dtype([("place", "<u4", (3,)), ("value", "<f2")])  # the place along the three axes
_IDS = "token"  # the column of samples with token ids
_SOURCE = ("model_name", "dataset_repo", "dataset_split", "dataset_name", "dataset_column")


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
        if self.ids is None:
            return {}
        return {_IDS: self.ids.reshape(-1) if self.keep is None else self.ids[self.keep]}

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
    """The folder of one hookpoint: `path`, or the only one below it; None where there is none.

    Raises
    ------
    NotFoundError
        There are several.
    """
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
    """Open the cache of one hookpoint; its entries, which are stored by latent, go through a `Spool`.

    Raises
    ------
    NotFoundError, InvalidInputError
        There is no cache, a file is damaged, or files leave out latents or contradict each other.
    """
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
    return Opened(
        "delphi",
        str(folder),
        tuple(part.path for part in parts),
        tokens.n_rows,
        parts[-1].end + 1,
        dtype,
        spool.read,
        spool.step,
        item_ptr=tokens.item_ptr,
        issues=tuple(issues),
        columns=tokens.columns,
        sae={"hook_name": folder.name},
        source={"layout": f"delphi, {len(parts)} files", **{name: config[name] for name in _SOURCE if name in config}},
    )


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


def _tensor(path: Path, name: str) -> Any:
    """A tensor of a file, not read yet."""
    safetensors = require("safetensors", "sae", f"reading {path}")
    try:
        opened = safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        message = f"{path} is truncated or not a .safetensors file ({error})"
        raise InvalidInputError(message, code="damaged-file") from error
    names = list(opened.keys())
    if name not in names:
        message = f"{path} has no tensor {name!r}; it has {', '.join(names) or 'none'}."
        raise InvalidInputError(message, code="no-such-tensor")
    return opened.get_slice(name)


def _tokens(parts: list[_Part], config: dict[str, Any], pad_token: int | None) -> tuple[_Tokens, list[Issue]]:
    """From the copy in the first file; without one, from the context length and the last sequence that is active."""
    folder, first = parts[0].path.parent, parts[0].path
    shapes = {part.path.name: _shape(part.path, "tokens") for part in parts}
    shape = shapes[first.name]
    for name, other in shapes.items():
        if other != shape:
            raise InvalidInputError(
                f"{folder}: tokens of {name} are {other}, of the first file {shape}.", code="bad-shape"
            )
    if shape is not None:
        if len(shape) != 2 or 0 in shape:
            raise InvalidInputError(
                f"{first}: tokens have the shape {shape}; they are sequences by positions.", code="bad-shape"
            )
        ids = np.asarray(_tensor(first, "tokens")[:])
        check_ids(ids, f"{first}: tokens")
        return _Tokens(shape[0], shape[1], None if pad_token is None else ids != pad_token, ids), []
    ctx = config.get("cache_ctx_len")
    if pad_token is not None or type(ctx) is not int:
        reason = "so that it does not show padding" if pad_token is not None else "and config.json no cache_ctx_len"
        raise InvalidInputError(f"{first} has no tokens, {reason}.", code="no-tokens")
    last = max(int(rows[:, 0].max(initial=0)) for part in parts for rows, _ in _blocks(part))
    message = f"the cache has no tokens: samples after sequence {last}, the last active one, are unknown"
    return _Tokens(last + 1, ctx, None), [Issue("no_tokens", "info", message)]


def _shape(path: Path, name: str) -> tuple[int, ...] | None:
    try:
        return tuple(_tensor(path, name).get_shape())
    except InvalidInputError as error:
        if error.code == "no-such-tensor":
            return None
        raise


def _blocks(part: _Part) -> Iterator[tuple[Array, Array]]:
    locations, activations = _tensor(part.path, "locations"), _tensor(part.path, "activations")
    shape, length = tuple(locations.get_shape()), int(activations.get_shape()[0])
    if shape != (length, 3):
        raise InvalidInputError(
            f"{part.path}: {length} activations have locations of shape {shape}, expected ({length}, 3).",
            code="bad-shape",
        )
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


def write_delphi(selected: Selected, path: Path, tokens: Any = None, pad_token: int = 0, *, clip: bool) -> Written:
    """Write ``<path>/<hookpoint>/<start>_<end>.safetensors`` and ``config.json``.

    Every item is a sequence, padded to the longest one. Latents keep their numbers and the files tile the width,
    also where only some features are written.

    Parameters
    ----------
    tokens
        Token id of every sample of the set, (n_samples,) integers: an array, ``file.npy`` or ``file.npz:name``. None
        takes the column ``token`` of the samples, and writes `pad_token` everywhere where there is none.
    clip
        Write what float16 cannot hold as 65,504 instead of refusing it.

    Raises
    ------
    InvalidInputError
        An activation is too large for float16, there is no activation, or `tokens` do not fit.

    Notes
    -----
    Memory: a block. Entries and tokens go through unnamed temporary files beside the target, as large as what is
    written.
    """
    acts = selected.acts
    if tokens is None and _IDS in acts.samples:
        tokens = np.ma.filled(acts.samples[_IDS], pad_token)
    token_ids = _token_ids(tokens, acts.shape[0])
    folder = path / _hookpoint(selected)
    folder.mkdir(parents=True)
    sizes = np.diff(selected.acts.item_index.pointers())[selected.items[0]]
    ctx = max(1, int(sizes.max()))
    with ExitStack() as stack:
        splits = _Splits(selected, ctx, stack, path, clip=clip)
        for block in selected.blocks():
            splits.add(block)
        token_file = _temporary(stack, path)
        for part in _sequences(selected, ctx, token_ids, pad_token):
            token_file.write(part.tobytes())
        splits.write(folder, token_file, (len(sizes), ctx))
    source = selected.acts.attributes.source
    config = {
        **{name: str(source.get(name, "")) for name in _SOURCE},
        "dataset_repo": str(source.get("dataset_repo", selected.acts.path.split("/")[0])),
        "dataset_column": str(source.get("dataset_column", "text")),
        "batch_size": 32,
        "cache_ctx_len": ctx,
        "n_tokens": int(sizes.sum()),
        "n_splits": splits.n_files,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    notes = splits.notes()
    if token_ids is None and acts.path.split("/")[1] == "token":
        notes += (f"the set has no token ids: {pad_token} is written for every token; give them with --tokens",)
    return Written((path.name,), notes)


def _hookpoint(selected: Selected) -> str:
    """Delphi's name for the place in the model; the name of the SAE where the store does not know the place."""
    hook = selected.acts.attributes.sae.get("hook_name")
    return (str(hook) if hook else selected.acts.path.split("/")[2]).replace("/", ".")


def _temporary(stack: ExitStack, folder: Path) -> IO[bytes]:
    return stack.enter_context(tempfile.TemporaryFile(dir=folder))


def _token_ids(tokens: Any, n_samples: int) -> Array | None:
    if tokens is None:
        return None
    where, values = "tokens", tokens
    if isinstance(tokens, str | os.PathLike):
        where, values = load_array(tokens, 1) or (str(tokens), load_npy(tokens))
    values = np.asarray(values)
    if values.shape != (n_samples,) or values.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{where} is {values.dtype} {values.shape}; token ids are integers, one per sample: ({n_samples},).",
            code="bad-tokens",
        )
    return values


class _Splits:
    """A temporary file of entries for each range of latents."""

    def __init__(self, selected: Selected, ctx: int, stack: ExitStack, folder: Path, *, clip: bool) -> None:
        acts = selected.acts
        self._index, self._items, self._clip = acts.item_index, selected.items[0], clip
        n = min(acts.shape[1], max(_SPLITS, -(-acts.nnz // _ENTRIES_OF_SPLIT)))
        self._bounds = np.linspace(0, acts.shape[1], n + 1).astype(np.int64)
        # Empty ranges become part of their neighbours, which may so reach over the whole width.
        narrow = max(len(self._items), ctx, acts.shape[1]) <= 1 << 16
        self._dtype = np.dtype(np.uint16 if narrow else np.uint32)
        self._files = [_temporary(stack, folder) for _ in range(n)]
        self._counts = np.zeros(n, np.int64)
        self._clipped = self._vanished = self.n_files = 0

    def add(self, block: Block) -> None:
        """Append a block to the files of its latents; samples ascend, so every file stays in order."""
        values = self._half(block)
        keep = values != 0
        self._vanished += int((~keep).sum())
        items, positions = self._index.locate(block.samples[block.entry_rows])
        records = np.empty(int(keep.sum()), _RECORD)
        records["place"] = np.stack([np.searchsorted(self._items, items), positions, block.indices], axis=1)[keep]
        records["value"] = values[keep]
        split = np.searchsorted(self._bounds, block.indices[keep], "right") - 1
        for i in np.unique(split).tolist():
            self._files[i].write(records[split == i].tobytes())
        self._counts += np.bincount(split, minlength=len(self._counts))

    def _half(self, block: Block) -> Array:
        over = np.flatnonzero(np.abs(block.data) > _LARGEST)
        if len(over) and not self._clip:
            row, feature, value = block.entry_rows[over[0]], block.indices[over[0]], block.data[over[0]]
            raise InvalidInputError(
                f"the activation of sample {block.samples[row]}, feature {feature} is {value:g}; Delphi keeps float16, "
                "which ends at 65,504. Pass --clip (clip=True) to write that instead, or leave the feature out with "
                "--features.",
                code="too-large-for-float16",
            )
        self._clipped += len(over)
        return np.clip(block.data, -_LARGEST, _LARGEST).astype(np.float16)

    def write(self, folder: Path, tokens: IO[bytes], shape: tuple[int, int]) -> None:
        """Write the files: none empty, together the whole width."""
        filled = np.flatnonzero(self._counts)
        if not len(filled):
            raise InvalidInputError(
                "there is no activation to write, and Delphi cannot load an empty cache.", code="nothing-selected"
            )
        ends = np.append(self._bounds[filled[1:]], self._bounds[-1])
        start = 0
        for i, end in zip(filled.tolist(), ends.tolist(), strict=True):
            n, file = int(self._counts[i]), self._files[i]
            tensors = {
                "activations": ("float16", (n,), (part["value"] for part in _read(file, _RECORD))),
                "locations": (self._dtype.name, (n, 3), self._locations(file, start)),
                "tokens": ("int64", shape, _read(tokens, np.dtype(np.int64))),
            }
            _save_safetensors(folder / f"{start}_{end - 1}.safetensors", tensors)
            self.n_files, start = self.n_files + 1, end

    def _locations(self, file: IO[bytes], start: int) -> Iterator[Array]:
        for part in _read(file, _RECORD):
            yield (part["place"] - np.array([0, 0, start], np.uint32)).astype(self._dtype)

    def notes(self) -> tuple[str, ...]:
        """What was changed."""
        clipped = f"{self._clipped:,} activations beyond 65,504 were written as that" if self._clipped else ""
        small = f"{self._vanished:,} activations are too small for float16 and were left out" if self._vanished else ""
        return tuple(filter(None, (clipped, small)))


def _sequences(selected: Selected, ctx: int, token_ids: Array | None, pad_token: int) -> Iterator[Array]:
    """Token ids of whole items, (n_items, ctx), padded."""
    all_items, ptr = selected.items[0], selected.acts.item_index.pointers()
    step = max(1, (1 << 20) // ctx)
    for start in range(0, len(all_items), step):
        items = all_items[start : start + step]
        part = np.full((len(items), ctx), pad_token, np.int64)
        if token_ids is not None:
            sizes = ptr[items + 1] - ptr[items]
            row = np.repeat(np.arange(len(items)), sizes)
            position = np.arange(len(row)) - pointers(sizes)[row]
            part[row, position] = token_ids[ptr[items][row] + position]
        yield part


def _read(file: IO[bytes], dtype: np.dtype[Any]) -> Iterator[Array]:
    file.seek(0)
    while data := file.read(dtype.itemsize << 20):
        yield np.frombuffer(data, dtype)


def _save_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], Iterator[Array]]]) -> None:
    """Write tensors part by part: the library's own `save_file` needs all of them in memory."""
    header, offset = {}, 0
    for name, (dtype, shape, _) in tensors.items():
        end = offset + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, parts in tensors.values():
            for part in parts:
                file.write(part.tobytes())


_OPTIONS = ("pad_token", "tokens", "clip")
FORMATS = (Format("delphi", lambda path: find_cache(path) is not None, open_delphi, write_delphi, _OPTIONS),)
