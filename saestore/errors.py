"""Everything saestore raises on purpose.

One small tree. Each error is also the builtin that a caller would expect (``KeyError`` for a missing set,
``IndexError`` for a feature out of range), so that code which knows nothing of saestore still catches the right thing.
A message is one sentence or two: the value that was given, what was allowed, what to do.
"""

__all__ = [
    "CorruptStoreError",
    "InvalidInputError",
    "LockedError",
    "MissingDependencyError",
    "NotFoundError",
    "OutOfRangeError",
    "SaestoreError",
    "StoreConflictError",
    "StoreFormatError",
    "StoreWriteError",
    "TooLargeError",
]


class SaestoreError(Exception):
    """Base of every error that saestore raises on purpose."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, quotes and all.
        return str(self.args[0]) if self.args else ""


class NotFoundError(SaestoreError, KeyError):
    """A dataset, activation set, file or name that does not exist, or a name that fits several."""


class InvalidInputError(SaestoreError, ValueError):
    """Input that cannot be used: wrong width, NaN, labels other than 0 and 1, an unreadable file."""


class OutOfRangeError(SaestoreError, IndexError):
    """A feature, sample or item outside the activation set."""


class StoreFormatError(SaestoreError, ValueError):
    """The path is no saestore store, or one of a format that this version cannot read."""


class CorruptStoreError(SaestoreError, OSError):
    """Stored bytes that contradict their checksum, or that are missing although a committed segment names them."""


class StoreConflictError(SaestoreError, FileExistsError):
    """The store already holds something else under this name."""


class LockedError(SaestoreError, BlockingIOError):
    """Another builder owns the activation set."""


class StoreWriteError(SaestoreError, OSError):
    """The store cannot be written: read-only, full, or the path is a file."""


class TooLargeError(SaestoreError, MemoryError):
    """An answer that would not fit: the message says its shape, its bytes and what to ask for instead."""


class MissingDependencyError(SaestoreError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""
