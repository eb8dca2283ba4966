"""Many texts of few kinds as an array that numpy and xarray take: objects of Python only where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from saestore.sparse_rows import Array

_BLOCK = 1 << 20  # values at a time


class CodedTexts(NDArrayOperatorsMixin):
    """Texts by the number of their kind: `kinds`, objects (n,), and `codes` into them, integers of any shape.

    An object of Python per text takes 8 bytes, and comparing one by one of 10^8 texts takes 4 GB. Where all are
    compared with one text, each kind is compared once; anything else happens to a copy, ``numpy.asarray`` of the texts.
    """

    dtype = np.dtype(object)

    def __init__(self, kinds: Array, codes: Array) -> None:
        self.kinds, self.codes = kinds, codes
        self.shape, self.ndim, self.size, self.nbytes = codes.shape, codes.ndim, codes.size, codes.nbytes

    def _map(self, values: Array) -> Array:
        """The value of each text, from a value per kind; numpy makes 8 bytes of every code that it is given at once."""
        flat = self.codes.reshape(-1)
        result = np.empty(self.size, values.dtype)
        for start in range(0, self.size, _BLOCK):
            result[start : start + _BLOCK] = values[flat[start : start + _BLOCK]]
        return result.reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._map(self.kinds).astype(self.dtype if dtype is None else dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        others = [each for each in inputs if each is not self]
        if ufunc in (np.equal, np.not_equal) and len(others) == 1 and isinstance(others[0], str) and not options:
            return self._map(np.asarray(ufunc(self.kinds, others[0]), bool))
        return getattr(ufunc, method)(*_plain(inputs), **_plain(options))

    def __array_function__(self, function: Callable[..., Any], _: Any, args: Any, options: Any) -> Any:
        return function(*_plain(args), **_plain(options))

    def __getitem__(self, key: Any) -> Any:
        codes = self.codes[key]
        return CodedTexts(self.kinds, codes) if isinstance(codes, np.ndarray) else self.kinds[codes]

    def __setitem__(self, key: Any, value: Any) -> None:
        texts = np.asarray(self)
        texts[key] = value
        self.__init__(texts.reshape(-1), np.arange(texts.size).reshape(texts.shape))  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def __repr__(self) -> str:
        return repr(np.asarray(self))

    def __str__(self) -> str:
        return str(np.asarray(self))

    def __getattr__(self, name: str) -> Any:
        """All else that an array has, such as ``astype`` and ``tolist``, of the texts as objects."""
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def _plain(given: Any) -> Any:
    """The same arguments with objects in the place of coded texts."""
    if isinstance(given, CodedTexts):
        return np.asarray(given)
    if isinstance(given, dict):
        return {name: _plain(value) for name, value in given.items()}
    return type(given)(map(_plain, given)) if type(given) in (list, tuple) else given
