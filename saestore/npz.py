"""Arrays of ``.npz`` files, in slices, so that one may be far larger than memory; never unpickled."""

from __future__ import annotations

import math
import os
import zipfile
from contextlib import AbstractContextManager, ExitStack
from typing import IO, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import LIBRARY_DAMAGE, PICKLED, check_inflation, damage, existing_file, load_npy, split_member
from saestore.sparse_rows import Array

_SKIP = 1 << 24  # bytes that are decompressed at once to get past them


def load_array(spec: str | os.PathLike[str], ndim: int) -> tuple[str, np.ndarray] | None:
    """Read ``file.npy`` or ``file.npz:name``, without a name its only array of `ndim` dimensions, and name it.

    None for a file of another suffix.
    """
    path, name = split_member(spec)
    if path.suffix != ".npz":
        return (str(path), load_npy(path)) if path.suffix == ".npy" else None
    with ExitStack() as resources:
        archive = NpzFile(path, resources)
        names = archive.names
        arrays = [archive[each] for each in names if name in (None, each)]
        arrays = [array for array in arrays if name is not None or len(names) == 1 or len(array.shape) == ndim]
        if len(arrays) != 1:
            n = f"no array {name!r}" if name is not None else f"{len(arrays) or 'no'} arrays of {ndim} dimension(s)"
            raise NotFoundError(
                f"{path} holds {n}; it has {', '.join(names)}: choose one as {path.name}:NAME", code="no-such-array"
            )
        return arrays[0].where, arrays[0].read_all()


class NpzFile:
    """A ``.npz`` file as a mapping from name to `NpzArray`; open until `resources` are closed."""

    def __init__(self, path: str | os.PathLike[str], resources: ExitStack) -> None:
        self.path = existing_file(path)
        self._resources = resources
        with self.errors():
            self._zip = resources.enter_context(zipfile.ZipFile(self.path))
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> NpzArray:
        if name not in self:
            raise NotFoundError(
                f"{self.path} has no array {name!r}; it has {', '.join(self.names) or 'none'}.", code="no-such-array"
            )
        return NpzArray(self, name)

    def read(self, name: str) -> Array:
        """One whole array."""
        return self[name].read_all()

    def scalar(self, name: str, kinds: str) -> Any:
        """The one value of an array, None where there is no such array; its dtype is of one of `kinds`."""
        if name not in self:
            return None
        values = self.read(name)
        if values.size != 1 or values.dtype.kind not in kinds:
            raise InvalidInputError(
                f"{self.path}:{name} is {values.dtype} {values.shape}; it must be one value.", code="not-a-matrix"
            )
        return values.item()

    def check_size(self, *names: str) -> None:
        """Refuse to read whole arrays that are out of all proportion to the file (``too-large``)."""
        for name in names:
            size = self._zip.getinfo(f"{name}.npy").file_size
            check_inflation(size, self.path.stat().st_size, f"{self.path}:{name}")

    def open(self, name: str) -> IO[bytes]:
        """The bytes of one array's file, decompressed."""
        return self._resources.enter_context(self._zip.open(f"{name}.npy"))

    def errors(self) -> AbstractContextManager[None]:
        """Turn errors of numpy and zip into one that names the file."""
        return damage(self.path, "is truncated, or not a .npz file of plain arrays", *LIBRARY_DAMAGE)


class NpzArray:
    """One array of a ``.npz``, read in slices of its flat values, so that it may be far larger than memory.

    Reading backwards starts from the beginning of the array again. Memory: the slice.
    """

    def __init__(self, archive: NpzFile, name: str) -> None:
        self._archive, self._name = archive, name
        self._stream: IO[bytes] | None = None
        self._next = 0
        with archive.errors():
            self.shape, self.dtype, self.is_fortran = self._rewind()
        self.length = math.prod(self.shape)

    @property
    def where(self) -> str:
        """``file.npz:name``, for messages."""
        return f"{self._archive.path}:{self._name}"

    def read_all(self) -> Array:
        """The whole array in its shape."""
        self._archive.check_size(self._name)
        values = self.read(0, self.length)
        with self._archive.errors():
            return values.reshape(self.shape, order="F" if self.is_fortran else "C")

    def read(self, start: int, stop: int) -> Array:
        """The values from `start` up to `stop`, in the order of the file."""
        with self._archive.errors():
            if start < self._next or self._stream is None:
                self._rewind()
            stream = self._stream
            assert stream is not None  # noqa: S101  (_rewind opened it)
            skip = (start - self._next) * self.dtype.itemsize
            while skip > 0 and (n := len(stream.read(min(skip, _SKIP)))):
                skip -= n
            size = (stop - start) * self.dtype.itemsize
            data = stream.read(size)
            if skip or len(data) != size:
                raise EOFError(f"{self._name} ends before value {stop:,}")
            self._next = stop
            values = np.frombuffer(data, self.dtype)
            return values if self.dtype.isnative else values.astype(self.dtype.newbyteorder("="))

    def _rewind(self) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        """Go to the first value; returns shape, dtype, and whether the array is in Fortran order."""
        if self._stream is not None:
            self._stream.close()
        self._stream = stream = self._archive.open(self._name)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject:
            raise InvalidInputError(f"{self.where} holds pickled Python objects, {PICKLED}", code="pickled")
        self._next = 0
        return shape, dtype, fortran and len(shape) > 1
