"""Open the files that people hand us: one clear error each, and nothing is ever unpickled."""

from __future__ import annotations

import difflib
import os
import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError

__all__ = ["existing_file", "load_npy", "load_npz", "load_pt", "nearby", "split_member"]

_MEMBER = re.compile(r"(?P<path>.*\.(npz|safetensors)):(?P<name>.+)", re.DOTALL)
_NEAREST = 5

# numpy has no error of its own for a damaged file; its header is Python source, which has errors of its own.
_NUMPY_DAMAGE = (ValueError, EOFError, OSError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError)
# Nor has torch: what comes depends on the place of the damage.
_TORCH_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
)


def split_member(spec: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Split ``file.npz:name`` or ``file.safetensors:key`` into path and name; the name is None where none is given."""
    text = os.fspath(spec)
    match = _MEMBER.fullmatch(text)
    # A file may really be called "a.npz:b".
    if match is None or Path(text).exists():
        return Path(text), None
    return Path(match["path"]), match["name"]


def nearby(path: Path) -> str:
    """Say which names in the folder of a missing file are most like it, as the end of an error message."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"{folder} cannot be listed ({error.strerror})"
    if not names:
        return f"{folder} is empty"
    near = difflib.get_close_matches(path.name, names, n=_NEAREST, cutoff=0.4)
    return f"nearest names there: {', '.join(near)}" if near else f"{folder} holds {len(names):,} other names"


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path if a readable file is there.

    Raises
    ------
    NotFoundError
        If nothing is there; names what is near.
    InvalidInputError
        If it is a folder, or may not be read.
    """
    found = Path(path)
    if found.is_dir():
        raise InvalidInputError(f"{found} is a folder; give a file")
    if not found.exists():
        raise NotFoundError(f"no file {found}; {nearby(found)}")
    if not os.access(found, os.R_OK):
        raise InvalidInputError(f"{found} may not be read: permission denied")
    return found


def load_pt(path: str | os.PathLike[str]) -> object:
    """Load what ``torch.save`` wrote, memory-mapped and with ``weights_only``: tensors stay on disk until read.

    Raises
    ------
    NotFoundError
        If there is no such file.
    InvalidInputError
        If it is truncated, or no ``.pt`` file, or holds Python objects (which would run code on unpickling).
    MissingDependencyError
        If torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(f"reading {path} needs torch; pip install 'saestore[sae]'") from error
    file = existing_file(path)
    with file.open("rb") as stream:
        start = stream.read(2)
    if start[:1] == b"\x80":
        raise InvalidInputError(
            f"{file} is a bare pickle (or a .pt of torch before 1.6), which is not unpickled because that could run "
            f"code; write the tensor again with torch.save(tensor, path)"
        )
    if start != b"PK":
        raise InvalidInputError(f"{file} is truncated or not a .pt file of torch.save; write it again")
    try:
        loaded: object = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return loaded
    except pickle.UnpicklingError as error:
        reason = _blocked_global(str(error))
        raise InvalidInputError(
            f"{file} holds Python objects{reason}, which are not unpickled because that could run code; "
            f"save the bare tensor with torch.save(tensor, path)"
        ) from error
    except _TORCH_DAMAGE as error:
        raise InvalidInputError(f"{file} is truncated or not a .pt file of torch.save; write it again") from error


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Open a ``.npy`` file memory-mapped.

    Raises
    ------
    NotFoundError
        If there is no such file.
    InvalidInputError
        If it is truncated, or no ``.npy`` file, or holds pickled objects.
    """
    file = existing_file(path)
    with file.open("rb") as stream:
        start = stream.read(6)
    if start != b"\x93NUMPY":
        raise InvalidInputError(f"{file} is truncated or not a .npy file of numpy.save; write it again")
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except _NUMPY_DAMAGE as error:
        if "object" in str(error).lower():
            raise InvalidInputError(
                f"{file} holds pickled Python objects, which are not unpickled because that could run code; "
                f"save a plain numeric array"
            ) from error
        raise InvalidInputError(f"{file} is truncated or not a .npy file of numpy.save ({error})") from error
    return array


def load_npz(path: str | os.PathLike[str], name: str | None, ndim: int) -> tuple[str, np.ndarray]:
    """Read the array called `name` from a ``.npz`` file, or, without a name, its only array of `ndim` dimensions.

    Returns
    -------
    where : str
        ``file.npz:name``, for messages.
    array : ndarray

    Raises
    ------
    NotFoundError
        If there is no such file or name, or no name is given and several would do.
    InvalidInputError
        If the file is truncated, or no ``.npz``, or holds pickled objects.
    """
    file = existing_file(path)
    # numpy opens the file itself but forgets to close it when it is damaged.
    with file.open("rb") as stream:
        try:
            if stream.read(2) != b"PK":
                raise ValueError("it does not start like a zip archive")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                names = list(archive.files)
                wanted = names if name is None else [name] if name in names else []
                arrays = {each: archive[each] for each in wanted}
        except (*_NUMPY_DAMAGE, zipfile.BadZipFile, zlib.error, KeyError, RuntimeError) as error:
            raise InvalidInputError(f"{file} is truncated, or not a .npz file of plain arrays ({error})") from error
    if name is None:
        arrays = {each: array for each, array in arrays.items() if array.ndim == ndim}
    if len(arrays) != 1:
        said = f"no array {name!r}" if name is not None else f"{len(arrays) or 'no'} arrays of {ndim} dimension(s)"
        raise NotFoundError(f"{file} holds {said}; it has {', '.join(names)}: choose one as {file.name}:NAME")
    [(found, array)] = arrays.items()
    return f"{file}:{found}", array


def _blocked_global(message: str) -> str:
    # torch's message is a page of advice (to turn the safety off, among others); the one fact in it is the name.
    match = re.search(r"GLOBAL (\S+)", message)
    return f" ({match[1]})" if match else ""
