"""Open the files that people have: one clear error each, and nothing is ever unpickled.

Everything here raises a `NotFoundError` where there is no such file, which names what is near, and an
`InvalidInputError` where the file may not be read, is damaged (``damaged-file``), is of another kind, or holds Python
objects (``pickled``), which would run code.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import (
    InvalidInputError,
    NotFoundError,
    SaestoreError,
    did_you_mean,
    raise_unreachable,
    reached,
    require,
)
from saestore.frames import zstd_size

Array = np.ndarray[Any, Any]

_MEMBER = re.compile(r"(?P<path>.*\.(npz|safetensors|pt|h5|hdf5|parquet)):(?P<name>.+)", re.DOTALL)
# Arrays that are read whole: at most this many bytes, or this many times the size of the file.
MOST_BYTES, _MOST_INFLATION = 256 << 20, 64
_MOST_CHUNKS = 1 << 22  # of an array of zarr
_NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|b?float(16|32|64)|complex(64|128)")  # dtypes that numpy or torch reads
_SKIP = 1 << 24  # bytes that are decompressed at once to get past them

# Neither numpy nor torch has an error of its own for a damaged file: what comes depends on the place of the damage, and
# numpy's header is Python source.
LIBRARY_DAMAGE = (
    ValueError, EOFError, ArithmeticError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile,
    zlib.error, LookupError, RuntimeError, TypeError, AttributeError, struct.error,
)  # fmt: skip
PICKLED = "which are not unpickled because that could run code"


def split_member(spec: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Split ``file.npz:name`` or ``file.safetensors:key`` into path and name; the name is None where none is given."""
    text = os.fspath(spec)
    match = _MEMBER.fullmatch(text)
    # A file may really be called "a.npz:b".
    if match is None or Path(text).exists():
        return Path(text), None
    return Path(match["path"]), match["name"]


def below(name: str, *folders: Path) -> list[Path]:
    """The paths of a name in some folders; a name that leads out of all of them is refused."""
    paths, tops = [folder / name for folder in folders], {folder.absolute() for folder in folders}
    if not any(tops & set(Path(os.path.normpath(path.absolute())).parents) for path in paths):
        raise InvalidInputError(
            f"The name {name!r} leads out of {folders[0]}; files are read from that folder only.", code="outside-folder"
        )
    return paths


def nearby(path: Path) -> str:
    """The end of an error message: the names in the folder of a missing file that are most like its name."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"{folder} cannot be listed ({error.strerror})"
    if not names:
        return f"{folder} is empty"
    near = did_you_mean(path.name, names).strip()
    return near[0].lower() + near[1:] if near else f"{folder} holds {len(names):,} other names"


@reached("the file")
def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path if a readable file is there."""
    file = Path(path)
    if not file.exists():
        raise NotFoundError(f"no file {file}; {nearby(file)}", code="no-such-file")
    if not file.is_file():  # a pipe may never answer, and some devices never end
        kind = "folder" if file.is_dir() else "device, a pipe or a socket"
        raise InvalidInputError(f"{file} is a {kind}; give a file", code="not-a-file")
    if not os.access(file, os.R_OK):
        raise InvalidInputError(f"{file} may not be read: permission denied", code="permission-denied")
    return file


@reached("the folder")
def existing_folder(path: str | os.PathLike[str], what: str = "", code: str = "no-such-folder") -> Path:
    """Return the path if a folder is there; `what` it is of, such as ``"of images "``."""
    folder = Path(path)
    if not folder.is_dir():
        reason = "that is a file" if folder.exists() else nearby(folder)
        raise NotFoundError(f"no folder {what}{folder}; {reason}", code=code)
    return folder


@contextmanager
def damage(where: object, what: str, *kinds: type[Exception], code: str = "damaged-file") -> Iterator[None]:
    """State what is the matter with a file on which a library raises one of these kinds, or an `OSError` for its bytes.

    Where its place does not answer, or the process has no file handle left, nothing is known of the file:
    `UnreachableError`.
    """
    expected: tuple[type[Exception], ...] = (*kinds, OSError)
    try:
        yield
    except SaestoreError:
        raise
    except expected as error:
        raise_unreachable(str(where), error)
        raise InvalidInputError(f"{where} {what} ({' '.join(str(error).split())[:200]})", code=code) from error


def image_errors() -> tuple[type[Exception], ...]:
    """What Pillow and its plugins raise for a damaged image, or for one of too many pixels."""
    from PIL import Image

    plain = (ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
    return (OSError, *plain, MemoryError, struct.error, Image.DecompressionBombError)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file."""
    file = existing_file(path)
    with damage(file, "is damaged or not JSON", ValueError, RecursionError):
        return json.loads(file.read_text(encoding="utf-8"))


def load_pt(path: str | os.PathLike[str], *, sparse: bool = False) -> object:
    """Load a file of ``torch.save``, memory-mapped and with ``weights_only``: tensors stay on disk until read.

    Sparse tensors are refused, unless they are asked for.
    """
    torch = require("torch", "sae", f"reading {path}")
    file = existing_file(path)
    damaged = "is truncated or not a .pt file of torch.save; write it again"
    with damage(file, damaged), file.open("rb") as stream:
        start = stream.read(2)
    if start[:1] == b"\x80":
        raise InvalidInputError(
            f"{file} is a bare pickle (or a .pt of torch before 1.6), which is not unpickled because that could run "
            f"code; write the tensor again with torch.save(tensor, path)",
            code="pickled",
        )
    with damage(file, damaged, *LIBRARY_DAMAGE):
        if start != b"PK":
            raise ValueError("it does not start like one")
        with zipfile.ZipFile(file) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    if compressed:  # torch would map the compressed bytes as numbers
        raise InvalidInputError(
            f"{file} was compressed after it was saved; write it again with torch.save(tensor, path)",
            code="compressed-file",
        )
    try:
        with damage(file, damaged, *LIBRARY_DAMAGE):
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            return _plain_tensors(loaded, str(file), sparse=sparse)
    except pickle.UnpicklingError as error:
        # torch's message is a page of advice (to turn the safety off, among others); its one fact is the name.
        match = re.search(r"GLOBAL (\S+)", str(error))
        raise InvalidInputError(
            f"{file} holds Python objects{f' ({match[1]})' if match else ''}, {PICKLED}; save a plain tensor, or a "
            "dict of tensors (of an encoder's output: top_acts and top_indices), with torch.save",
            code="pickled",
        ) from error


def map_safetensors(path: Path, framework: str = "pt") -> Any:
    """Open a ``.safetensors`` file by its own package; it is mapped as long as the result lives."""
    library = require("safetensors", "sae", f"reading {path}")
    file = existing_file(path)
    with damage(file, "is truncated or not a .safetensors file", library.SafetensorError):
        return library.safe_open(file, framework=framework)


def load_tensors(path: Path, *, sparse: bool = False) -> dict[str, Any]:
    """The named tensors of a ``.pt`` or ``.safetensors`` file, mapped from disk; what has no name is called ``""``."""
    if path.suffix == ".safetensors":
        opened = map_safetensors(path)
        return {name: plain_tensor(opened.get_tensor(name), f"{path}:{name}") for name in opened.keys()}  # noqa: SIM118
    loaded = load_pt(path, sparse=sparse)
    return {str(name): value for name, value in loaded.items()} if isinstance(loaded, dict) else {"": loaded}


def _plain_tensors(loaded: Any, where: str, *, sparse: bool) -> Any:
    """What was loaded, its tensors without gradients; refuses tensors that have no numbers or no shape."""
    import torch

    if isinstance(loaded, dict):
        return {name: _plain_tensors(each, f"{where}:{name}", sparse=sparse) for name, each in loaded.items()}
    return plain_tensor(loaded, where, sparse=sparse) if isinstance(loaded, torch.Tensor) else loaded


def unmasked(array: np.ndarray, where: str) -> np.ndarray:
    """A plain array; refuses a masked one, whose hidden values would count."""
    if np.ma.is_masked(array):
        raise InvalidInputError(
            f"{where} is masked at {np.ma.getmaskarray(array).sum():,} places; fill them, such as with .filled(0)",
            code="masked-array",
        )
    return np.asarray(array)


def plain_tensor(tensor: Any, where: str, *, sparse: bool = False) -> Any:
    """A tensor without gradient, and with its numbers as they are stored.

    One without numbers or shape, of a dtype that numpy does not know, or expanded far beyond what is stored is refused.
    """
    kinds = {"meta": tensor.is_meta, "nested": tensor.is_nested, "quantized": tensor.is_quantized}
    kind = next((name for name, is_it in kinds.items() if is_it), None)
    dtype, layout = (str(each).removeprefix("torch.") for each in (tensor.dtype, tensor.layout))
    kind = kind or (None if layout == "strided" or (sparse and "sparse" in layout) else layout.lstrip("_"))
    kind = kind or (None if _NUMBERS.fullmatch(dtype) else dtype)
    if kind is not None:
        raise InvalidInputError(
            f"{where} is a {kind} tensor; give an ordinary dense tensor, of float16 to float64 or integers",
            code="unsupported-tensor",
        )
    if layout == "strided" and tensor.nbytes > max(MOST_BYTES, tensor.untyped_storage().nbytes()):
        raise InvalidInputError(
            f"{where} has {tensor.nbytes:,} bytes, shape {tuple(tensor.shape)}, expanded from fewer",
            code="too-large",
        )
    return tensor.detach().resolve_conj().resolve_neg()


def as_numpy(given: Any, what: str) -> Array:
    """`numpy.asarray`, which takes any tensor with plain numbers and refuses the rest by an error that names it."""
    try:
        if hasattr(given, "is_meta"):
            tensor = plain_tensor(given, what)
            given = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy(force=True)
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{what} is not an array of plain values ({error}).", code="not-values") from error


def check_inflation(size: int, packed: int, where: str) -> None:
    """Refuse what inflates out of all proportion to its compressed bytes (``too-large``)."""
    limit = max(MOST_BYTES, _MOST_INFLATION * packed)
    if size > limit:
        raise InvalidInputError(
            f"{where} inflates to {size:,} bytes or more, and {limit:,} are read; store it without compression if that "
            "is meant.",
            code="too-large",
        )


def check_written(array: Any, where: str) -> None:
    """Refuse an array of zarr or HDF5 with chunks that are missing, which would read as zeros, or that inflate."""
    sizes = zip(array.shape, array.chunks or array.shape, strict=True)
    n_chunks = math.prod(-(-n // size) for n, size in sizes if size)
    if hasattr(type(array), "nchunks_initialized"):  # shards count whole, the last one too, so that more is no error
        if n_chunks > _MOST_CHUNKS:  # zarr would name them all before it looks
            message = f"{where} claims {n_chunks:,} chunks of {array.chunks}; at most {_MOST_CHUNKS:,} are read"
            raise InvalidInputError(message, code="too-large")
        n_chunks, n_written = array.nchunks, array.nchunks_initialized
    elif array.chunks is None:
        n_chunks, n_written = 1, int(not array.size or array.id.get_storage_size() > 0)
    else:
        n_written = array.id.get_num_chunks()
    size = math.prod(array.chunks or (0,)) * array.dtype.itemsize  # a slice of rows needs whole chunks
    if size > MOST_BYTES:
        stored = array.id.get_storage_size() if hasattr(array, "id") else array.nbytes_stored()
        check_inflation(size, stored, f"a chunk of {where}")
    if n_written < n_chunks:
        raise InvalidInputError(
            f"{where}: {n_chunks - n_written:,} of {n_chunks:,} chunks are missing and would read as zeros; write them "
            "(where zeros are meant, with zarr's setting write_empty_chunks)",
            code="missing-chunk",
        )


def open_zarr_node(location: str | os.PathLike[str]) -> Any:
    """A zarr array or group that another program wrote, opened to read."""
    import zarr

    with damage(location, "is not a zarr array or group that can be read", *LIBRARY_DAMAGE):
        node = zarr.open(location, mode="r")
        if not all(getattr(node, "chunks", ())):
            raise ValueError("its chunks hold no value")
        return zarr.open(_checked_store(node.store), path=node.path, mode="r", zarr_format=node.metadata.zarr_format)


def _checked_store(store: Any) -> Any:
    """A store that refuses a chunk before a codec inflates it without measure, and what is not a file."""
    from zarr.storage import LocalStore, WrapperStore

    class Checked(WrapperStore[Any]):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if isinstance(store, LocalStore) and (store.root / key).exists() and not (store.root / key).is_dir():
                existing_file(store.root / key)
            value = await super().get(key, prototype, byte_range)
            if value is not None and len(value) > 16:
                raw = value.as_numpy_array()
                size = _inflated(raw[:18].tobytes(), raw[-4:].tobytes(), len(value))
                check_inflation(size, len(value), f"a chunk of {store}/{key}")
            return value

    return Checked(store)


def _inflated(head: bytes, tail: bytes, n: int) -> int:
    """The size that the header of a chunk of zstd, gzip or blosc claims; 0 of any other."""
    if head[:3] == b"\x1f\x8b\x08":
        return int.from_bytes(tail, "little")
    blosc = int.from_bytes(head[4:8], "little") if int.from_bytes(head[12:16], "little") == n else 0
    return zstd_size(head) or blosc


def read_gzip(path: Path) -> bytes:
    """The content of a file that gzip packed; refuses one that inflates without measure."""
    content = bytearray()
    with damage(path, "is damaged or not packed by gzip", EOFError, zlib.error), gzip.open(existing_file(path)) as file:
        while part := file.read(1 << 24):
            content += part
            check_inflation(len(content), path.stat().st_size, str(path))
    return bytes(content)


def read_parquet(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Any:
    """A `pyarrow.Table` of a Parquet file, or of some columns; refuses one that inflates without measure."""
    arrow = require("pyarrow", "arrow", f"reading {path}")
    parquet = require("pyarrow.parquet", "arrow", f"reading {path}")
    size, packed, batches = 0, existing_file(path).stat().st_size, []
    with damage(path, "is damaged or not a Parquet file", *LIBRARY_DAMAGE):
        file = parquet.ParquetFile(path)  # which its batches hold open
        for batch in file.iter_batches(1 << 12, columns=columns):
            size += batch.nbytes
            check_inflation(size, packed, str(path))
            batches.append(batch)
        table = arrow.Table.from_batches(batches, batches[0].schema if batches else file.schema_arrow)
        return table.replace_schema_metadata(file.schema_arrow.metadata)


def refuse_unused(
    shapes: Mapping[str, tuple[int, ...]], used: Sequence[str], n_rows: int, where: str, *, masks_only: bool = False
) -> None:
    """Refuse a file in which another tensor has a value for each row, such as a mask of padding (``unused-tensor``).

    `shapes` are of all its tensors, `used` the names that are read. With `masks_only` others than masks pass,
    because the caller named the tensor to read.
    """
    rows_by_item = shapes.get(used[0], ())
    for name, shape in shapes.items():
        if "len" in name.lower() and len(rows_by_item) == 3 and tuple(shape) == tuple(rows_by_item[:1]):
            raise InvalidInputError(
                f"{where} has {name!r} beside {used[0]!r}, with one length per item, which saestore does not use. Give "
                "a mask of the rows that count (--mask, mask=), or save the file without it",
                code="unused-tensor",
            )
        if name in used or n_rows < 2 or int(np.prod(shape)) != n_rows:
            continue
        if "mask" in name.lower() or not masks_only:
            raise InvalidInputError(
                f"{where} has {name!r} beside {used[0]!r}, with one value per row, which saestore does not use. If it "
                f"marks padding, pass --mask {name} (mask=); if it holds token ids, --tokens {name} (tokens=); else "
                "save the file without it",
                code="unused-tensor",
            )


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Open a ``.npy`` file memory-mapped."""
    file = existing_file(path)
    with damage(file, "is truncated or not a .npy file of numpy.save; write it again", *LIBRARY_DAMAGE):
        with file.open("rb") as stream:
            start = stream.read(6)
        if start != b"\x93NUMPY":
            raise ValueError("it does not start like one")
        try:
            array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            if "object" not in str(error).lower():
                raise
            raise InvalidInputError(
                f"{file} holds pickled Python objects, {PICKLED}; save a plain numeric array", code="pickled"
            ) from error
    return array
