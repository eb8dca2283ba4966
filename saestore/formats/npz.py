"""Arrays in a ``.npz``, read forwards a slice at a time: the archive may be far larger than memory."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_file

Array = np.ndarray[Any, Any]

_DAMAGE = (
    ValueError, EOFError, OSError, KeyError, RuntimeError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile,
    zlib.error, NotImplementedError,
)  # fmt: skip
_SKIP = 1 << 24


class Archive:
    """A ``.npz`` file, as a mapping from name to `Member`; open until `resources` are closed."""

    def __init__(self, path: Path, resources: ExitStack) -> None:
        self.path = existing_file(path)
        self.resources = resources
        with self._errors():
            self._zip = resources.enter_context(zipfile.ZipFile(self.path))
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Member:
        if name not in self:
            raise NotFoundError(f"{self.path} has no array {name!r}; it has {', '.join(self.names) or 'none'}.")
        return Member(self, name)

    def read(self, name: str) -> Array:
        """All of one array."""
        member = self[name]
        return member.read(0, member.length).reshape(member.shape)

    def open(self, name: str) -> IO[bytes]:
        """The bytes of one array's file, decompressed."""
        return self.resources.enter_context(self._zip.open(f"{name}.npy"))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except InvalidInputError:
            raise
        except _DAMAGE as error:
            raise InvalidInputError(
                f"{self.path} is truncated, or not a .npz file of plain arrays ({' '.join(str(error).split())[:160]})"
            ) from error


class Member:
    """One array of an archive, read by slices of its flat values; reading backwards begins anew.

    Memory: the slice.
    """

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive, self._name = archive, name
        self._stream: IO[bytes] | None = None
        self._next = 0
        with archive._errors():  # noqa: SLF001  (of the same file)
            self.shape, self.dtype = self._rewind()
        self.length = int(np.prod(self.shape, dtype=np.int64))

    @property
    def where(self) -> str:
        """``file.npz:name``, for messages."""
        return f"{self._archive.path}:{self._name}"

    def read(self, start: int, stop: int) -> Array:
        """The values from `start` to `stop`."""
        with self._archive._errors():  # noqa: SLF001
            if start < self._next:
                self._rewind()
            self._skip((start - self._next) * self.dtype.itemsize)
            wanted = (stop - start) * self.dtype.itemsize
            data = self._opened().read(wanted)
            if len(data) != wanted:
                raise EOFError(f"{self._name} ends after {start + len(data) // self.dtype.itemsize:,} values")
            self._next = stop
            found = np.frombuffer(data, self.dtype)
            return found if self.dtype.isnative else found.astype(self.dtype.newbyteorder("="))

    def _opened(self) -> IO[bytes]:
        if self._stream is None:
            raise RuntimeError(f"{self.where} is not open")
        return self._stream

    def _skip(self, n_bytes: int) -> None:
        while n_bytes > 0:
            got = len(self._opened().read(min(n_bytes, _SKIP)))
            if not got:
                raise EOFError(f"{self._name} is too short")
            n_bytes -= got

    def _rewind(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if self._stream is not None:
            self._stream.close()
        self._stream = stream = self._archive.open(self._name)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject:
            raise InvalidInputError(
                f"{self.where} holds pickled Python objects, which are not unpickled because that could run code"
            )
        if fortran and len(shape) > 1:
            raise InvalidInputError(f"{self.where} is in Fortran order; save it with numpy.ascontiguousarray")
        self._next = 0
        return shape, dtype
