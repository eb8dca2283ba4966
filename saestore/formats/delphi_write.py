"""A latent cache for Delphi (EleutherAI/delphi 0.1.3), written in bounded memory."""

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
from saestore.files import load_npy, load_npz, split_member
from saestore.formats.selection import Block, Selected

Array = np.ndarray[Any, Any]

_LARGEST = 65504.0  # of float16, the only dtype that such a cache has
_SPLITS = 5  # what Delphi's own CacheConfig writes
_ENTRIES_OF_SPLIT = 1 << 26  # Delphi loads a file whole: half a GiB
_SAFETENSORS = {"uint16": "U16", "uint32": "U32", "float16": "F16", "int64": "I64"}


def write_delphi(selected: Selected, path: Path, tokens: Any, pad_token: int, *, clip: bool) -> list[str]:
    """Write ``<path>/<hookpoint>/<start>_<end>.safetensors`` and ``config.json``; returns what there is to say of it.

    Every item is a sequence, padded to the longest one. Latents keep their numbers and the files tile the width,
    whatever features were asked for.

    Parameters
    ----------
    tokens
        Token id of every sample of the set, (n_samples,) integers: an array, ``file.npy`` or ``file.npz:name``. None
        writes `pad_token` everywhere, as for image patches.
    clip
        Write what float16 cannot hold as 65,504 instead of refusing it.

    Raises
    ------
    InvalidInputError
        An activation is too large for float16, there is none at all, or `tokens` do not fit.

    Notes
    -----
    Memory: a block. Entries and tokens go through unnamed temporary files beside the target, as large as what is
    written.
    """
    token_ids = _token_ids(tokens, selected.acts.shape[0])
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
    _write_config(selected, folder / "config.json", ctx, int(sizes.sum()), splits.n_files)
    return splits.notes()


def _hookpoint(selected: Selected) -> str:
    """Delphi's name for the place in the model; the name of the SAE where the store does not know it."""
    found = selected.acts.attributes.sae.get("hook_name")
    name = found if isinstance(found, str) and found != "unknown" else selected.acts.path.split("/")[2]
    return name.replace("/", ".")


def _temporary(stack: ExitStack, folder: Path) -> IO[bytes]:
    return stack.enter_context(tempfile.TemporaryFile(dir=folder))


def _token_ids(tokens: Any, n_samples: int) -> Array | None:
    if tokens is None:
        return None
    where, values = "tokens", tokens
    if isinstance(tokens, str | os.PathLike):
        file, name = split_member(tokens)
        where, values = load_npz(file, name, 1) if file.suffix == ".npz" else (str(file), load_npy(file))
    values = np.asarray(values)
    if values.shape != (n_samples,) or values.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{where} is {values.dtype} {values.shape}; token ids are integers, one a sample: ({n_samples},)."
        )
    return values


class _Splits:
    """One temporary file of locations and one of activations for each range of latents."""

    def __init__(self, selected: Selected, ctx: int, stack: ExitStack, folder: Path, *, clip: bool) -> None:
        acts = selected.acts
        self._index, self._items, self._clip = acts.item_index, selected.items[0], clip
        n = min(acts.shape[1], max(_SPLITS, -(-acts.nnz // _ENTRIES_OF_SPLIT)))
        self.bounds = np.linspace(0, acts.shape[1], n + 1).astype(np.int64)
        width = int(np.diff(self.bounds).max())
        # Empty ranges become part of their neighbours, which may so reach over the whole width.
        narrow = max(len(self._items), ctx, width) <= 1 << 16 and acts.shape[1] <= 1 << 16
        self._dtype = np.dtype(np.uint16 if narrow else np.uint32)
        self._files = [(_temporary(stack, folder), _temporary(stack, folder)) for _ in range(n)]
        self.counts = np.zeros(n, np.int64)
        self.clipped = self.vanished = self.n_files = 0

    def add(self, block: Block) -> None:
        """Append a block to the files of its latents; samples ascend, so every file stays in order."""
        values = self._half(block)
        keep = values != 0
        self.vanished += int((~keep).sum())
        items, positions = self._index.locate(block.samples[block.rows])
        places = np.stack([np.searchsorted(self._items, items), positions, block.features], axis=1)[keep]
        values, split = values[keep], np.searchsorted(self.bounds, block.features[keep], "right") - 1
        for i in np.unique(split).tolist():
            inside = split == i
            # From the start of the whole width, until it is known where the file begins.
            self._files[i][0].write(places[inside].astype(np.uint32).tobytes())
            self._files[i][1].write(values[inside].tobytes())
            self.counts[i] += int(inside.sum())

    def _half(self, block: Block) -> Array:
        over = np.flatnonzero(np.abs(block.activations) > _LARGEST)
        if len(over) and not self._clip:
            row, feature, value = block.rows[over[0]], block.features[over[0]], block.activations[over[0]]
            raise InvalidInputError(
                f"the activation of sample {block.samples[row]}, feature {feature} is {value:g}; Delphi keeps float16, "
                "which ends at 65,504. Pass --clip (clip=True) to write that instead, or leave the feature out with "
                "--features."
            )
        self.clipped += len(over)
        return np.clip(block.activations, -_LARGEST, _LARGEST).astype(np.float16)

    def write(self, folder: Path, tokens: IO[bytes], shape: tuple[int, int]) -> None:
        """Write the files: none empty, together the whole width."""
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            raise InvalidInputError("there is no activation to write, and Delphi cannot load an empty cache.")
        ends = np.append(self.bounds[filled[1:]], self.bounds[-1])
        start = 0
        for i, end in zip(filled.tolist(), ends.tolist(), strict=True):
            places, values = self._files[i]
            n = int(self.counts[i])
            header = {
                "activations": ("float16", (n,), _read(values, np.dtype(np.float16))),
                "locations": (self._dtype.name, (n, 3), self._locations(places, start)),
                "tokens": ("int64", shape, _read(tokens, np.dtype(np.int64))),
            }
            _save_safetensors(folder / f"{start}_{end - 1}.safetensors", header)
            self.n_files, start = self.n_files + 1, end

    def _locations(self, file: IO[bytes], start: int) -> Iterator[bytes]:
        for part in _read(file, np.dtype(np.uint32)):
            rows = np.frombuffer(part, np.uint32).reshape(-1, 3) - np.array([0, 0, start], np.uint32)
            yield rows.astype(self._dtype).tobytes()

    def notes(self) -> list[str]:
        """What was changed."""
        found = []
        if self.clipped:
            found.append(f"{self.clipped:,} activations beyond 65,504 were written as that")
        if self.vanished:
            found.append(f"{self.vanished:,} activations are too small for float16 and were left out")
        return found


def _sequences(selected: Selected, ctx: int, token_ids: Array | None, pad_token: int) -> Iterator[Array]:
    """Token ids of whole items, (some items, ctx), padded."""
    items, pointers = selected.items[0], selected.acts.item_index.pointers()
    step = max(1, (1 << 20) // ctx)
    for start in range(0, len(items), step):
        some = items[start : start + step]
        part = np.full((len(some), ctx), pad_token, np.int64)
        if token_ids is not None:
            sizes = pointers[some + 1] - pointers[some]
            row = np.repeat(np.arange(len(some)), sizes)
            position = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            part[row, position] = token_ids[pointers[some][row] + position]
        yield part


def _read(file: IO[bytes], dtype: np.dtype[Any]) -> Iterator[bytes]:
    file.seek(0)
    while part := file.read(dtype.itemsize * 3 * (1 << 20)):  # whole rows of three
        yield part


def _save_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], Iterator[bytes]]]) -> None:
    """The library's own `save_file` wants all of it in memory."""
    header, offset = {}, 0
    for name, (dtype, shape, _) in tensors.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, parts in tensors.values():
            for part in parts:
                file.write(part)


def _write_config(selected: Selected, path: Path, ctx: int, n_tokens: int, n_splits: int) -> None:
    source = selected.acts.attributes.source
    config = {
        "dataset_repo": str(source.get("dataset_repo", selected.acts.path.split("/")[0])),
        "dataset_split": str(source.get("dataset_split", "")),
        "dataset_name": str(source.get("dataset_name", "")),
        "dataset_column": str(source.get("dataset_column", "text")),
        "batch_size": 32,
        "cache_ctx_len": ctx,
        "n_tokens": n_tokens,
        "n_splits": n_splits,
        "model_name": str(source.get("model_name", "")),
    }
    path.write_text(json.dumps(config, indent=4))
