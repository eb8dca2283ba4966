"""Delphi's latent cache and its file of neighbours, written."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import load_npy
from saestore.formats.base import Written
from saestore.formats.selection import Block, Selected
from saestore.npz import load_array
from saestore.sparse_rows import Array, pointers

IDS = "token"  # the column of samples with token ids
SOURCE = ("model_name", "dataset_repo", "dataset_split", "dataset_name", "dataset_column")
_LARGEST = 65504.0  # of float16, the only dtype that such a cache has
_SPLITS = 5  # what Delphi's own CacheConfig writes
_ENTRIES_OF_SPLIT = 1 << 26  # Delphi loads a file whole: half a GiB
_SAFETENSORS = {"uint16": "U16", "uint32": "U32", "float16": "F16", "int64": "I64"}
_RECORD = np.dtype([("place", "<u4", (3,)), ("value", "<f2")])  # the place along the three axes
_NEIGHBOURS = 10  # as Delphi writes


def write_delphi(selected: Selected, path: Path, tokens: Any = None, pad_token: int = 0, *, clip: bool) -> Written:
    """Write ``<path>/<hookpoint>/<start>_<end>.safetensors`` and ``config.json``; options as in `saestore.export`.

    Every item is a sequence, padded to the longest one. Latents keep their numbers and the files tile the width, also
    where only some features are written. Memory: a block; entries and tokens go through unnamed temporary files.
    """
    acts = selected.acts
    if tokens is None and IDS in acts.samples:
        tokens = np.ma.filled(acts.samples[IDS], pad_token)
    token_ids = _token_ids(tokens, acts.shape[0])
    folder = path / _hookpoint(selected)
    folder.mkdir(parents=True)
    sizes = np.diff(acts.item_index.pointers())[selected.items[0]]
    ctx = max(1, int(sizes.max()))
    with ExitStack() as stack:
        splits = _Splits(selected, ctx, stack, path, clip=clip)
        for block in selected.blocks():
            splits.add(block)
        token_file = _temporary(stack, path)
        for part in _sequences(selected, ctx, token_ids, pad_token):
            token_file.write(part.tobytes())
        splits.write(folder, token_file, (len(sizes), ctx))
    defaults = {"dataset_repo": acts.path.split("/")[0], "dataset_column": "text"}
    config = {
        **{name: str(acts.attributes.source.get(name, defaults.get(name, ""))) for name in SOURCE},
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
        items, positions = self._index.locate(block.samples[block.rows()])
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
            row, feature, value = block.rows()[over[0]], block.indices[over[0]], block.data[over[0]]
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


def write_neighbours(selected: Selected, path: Path) -> None:
    """Write ``<path>/<hookpoint>-co-occurrence.json``: of each feature the 10 with the largest Jaccard index.

    Delphi finds it as ``neighbours`` beside the folder of its caches. Features that are never active together with the
    feature are left out. Reads all posting lists once for every 2,048 features. Memory: about 400 MB, and 8 bytes per
    sample.
    """
    acts = selected.acts
    where = None if selected.samples is None else np.isin(np.arange(acts.shape[0]), selected.samples)
    found = acts.compare(acts, "jaccard", _NEIGHBOURS + 1, where=where)
    lists: dict[int, list[list[float]]] = {feature: [] for feature in selected.feature_ids.tolist()}
    columns = (found.feature.tolist(), found.other_feature.tolist(), found.score.tolist())
    for feature, other, score in zip(*columns, strict=True):
        if other != feature and feature in lists and len(lists[feature]) < _NEIGHBOURS:
            lists[feature].append([other, score])
            selected.nnz += 1
    path.mkdir(parents=True)
    (path / f"{_hookpoint(selected)}-co-occurrence.json").write_text(json.dumps(lists))
