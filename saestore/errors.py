"""Everything saestore raises on purpose.

One small tree. Each error is also the builtin that a caller would expect (``KeyError`` for a missing set,
``IndexError`` for a feature out of range), so that code which knows nothing of saestore still catches the right thing.
A message is one sentence or two: the value that was given, what was allowed, what to do.
"""

import errno
import importlib
import operator
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "CONTROL",
    "CorruptStoreError",
    "InvalidInputError",
    "LockedError",
    "MissingDependencyError",
    "NotAllowedError",
    "NotFoundError",
    "OutOfRangeError",
    "SaestoreError",
    "StoreConflictError",
    "StoreFormatError",
    "StoreWriteError",
    "TooLargeError",
    "UnreachableError",
    "check_at_least",
    "check_choice",
    "check_path",
    "check_texts",
    "did_you_mean",
    "escape",
    "first_line",
    "is_bool",
    "raise_unreachable",
    "reached",
    "refuse_unusable",
    "require",
    "shown",
]


# Control characters but for tabs and line ends, other line ends, changes of direction, halves of characters.
CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]|\r(?!\n)"
)


def escape(text: str, *, one_line: bool = False) -> str:
    r"""The text with control characters as ``\x1b``, so that it cannot move the cursor or colour the terminal."""
    if one_line:
        text = " ".join(re.split(r"[\t\r\n]+", text))
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


# What a place answers that tells nothing of the stored bytes: numbers of errors, of HTTP, and names of classes, because
# the packages of remote places are optional.
_NOT_ALLOWED: tuple[int | str, ...] = (
    errno.EACCES, errno.EPERM, errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED, errno.EKEYREJECTED, 401, 403,
    "PermissionError", "NoCredentialsError", "PermissionDeniedError", "UnauthenticatedError",
)  # fmt: skip
_UNREACHABLE: tuple[tuple[tuple[int | str, ...], str], ...] = (
    ((errno.EMFILE, errno.ENFILE), "The process has used its file handles: close files, or raise `ulimit -n`."),
    ((errno.EIO, errno.ESTALE), "The device or the network folder does not answer well: check it, then ask again."),
    (
        (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, 408, 429, *range(500, 600), "ConnectionError",
         "TimeoutError", "aiohttp.ClientError", "EndpointConnectionError", "gaierror", "obstore.GenericError",
         "obstore.JoinError"),
        "The place does not answer: check the address and the network, then ask again.",
    ),
)  # fmt: skip
_ERRNO = re.compile(r"(?:errno = |os error |\[[Ee]rrno )([0-9]{1,3})\b")  # in the words of HDF5, Rust and others
# What Python's own refusal of a value has in it, and what to say instead.
_UNUSABLE = (
    ("integer string conversion", "A number of more than 4,300 digits was given; use a number that fits 64 bits."),
    ("embedded null", "A path with a NUL was given; no file has such a name."),
    ("an empty name", "A path that ends in no name was given; name a file or a folder."),
    ("truth value of an array", "An array was given where one value is wanted; give that value, such as True."),
    ("surrogates not allowed", "A text with half of a character was given; use whole characters."),
)
# Errors of the system that damage can cause: what is there is missing, or of another kind or size.
_ABOUT_NODES = (
    None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL,
)  # fmt: skip


class SaestoreError(Exception):
    """Base of every error that saestore raises on purpose.

    Parameters
    ----------
    message
        What was given, what was allowed, what to do.
    code
        Stable name of what went wrong, such as ``"unknown-column"``; by default the code of the class.

    Attributes
    ----------
    code : str
        For programs and tests: it stays the same when the message changes.
    """

    code = "error"

    def __init__(self, message: object = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        # KeyError would show the repr of the message, quotes and all.
        # A message may name what a file or a store holds, and goes to a terminal.
        return escape(str(self.args[0])) if self.args else ""


class NotFoundError(SaestoreError, KeyError):
    """A dataset, activation set, file or name that does not exist, or a name that fits several."""

    code = "not-found"


class InvalidInputError(SaestoreError, ValueError):
    """Input that cannot be used: wrong width, NaN, labels other than 0 and 1, an unreadable file."""

    code = "invalid-input"


class OutOfRangeError(SaestoreError, IndexError):
    """A feature, sample or item outside the activation set."""

    code = "out-of-range"


class StoreFormatError(SaestoreError, ValueError):
    """The path is not a saestore store, or a store in a format that this version cannot read."""

    code = "store-format"


class CorruptStoreError(SaestoreError, OSError):
    """Stored bytes that contradict their checksum, or that are missing although a committed segment names them."""

    code = "corrupt-store"


class UnreachableError(SaestoreError, OSError):
    """A place that cannot be used now: no network, an overloaded server, no file handle left."""

    code = "unreachable"


class NotAllowedError(UnreachableError, PermissionError):
    """A place that refuses this user: no permission, no credentials, or credentials that have expired."""

    code = "not-allowed"


class StoreConflictError(SaestoreError, FileExistsError):
    """The store already holds something else under this name."""

    code = "store-conflict"


class LockedError(SaestoreError, BlockingIOError):
    """Another builder owns the activation set."""

    code = "locked"


class StoreWriteError(SaestoreError, OSError):
    """The store cannot be written: read-only, full, or the path is a file."""

    code = "store-write"


class TooLargeError(SaestoreError, MemoryError):
    """An answer that would not fit: the message has its shape, its bytes and what to ask for instead."""

    code = "too-large"


class MissingDependencyError(SaestoreError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""

    code = "missing-dependency"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``"Did you mean 'a' or 'b'? "`` with the names that are most like one, "" where none is."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 3, 0.5) if isinstance(name, str) else []
    return f"Did you mean {' or '.join(map(repr, near))}? " if near else ""


def check_choice(name: str, value: object, choices: Iterable[str], code: str = "unknown-choice") -> None:
    """Refuse what is not one of some texts, such as an array, of which no comparison is one truth."""
    allowed = list(choices)
    if not isinstance(value, str) or value not in allowed:
        choice = " or ".join(map(repr, allowed)) if len(allowed) < 3 else f"one of {', '.join(map(repr, allowed))}"
        near = did_you_mean(value, allowed)
        raise InvalidInputError(f"{name}={shown(value)}: {near}{'Use' if near else 'use'} {choice}.", code=code)


def check_at_least(name: str, value: Any, least: int, code: str = "too-small") -> int:
    """Return a whole number as an int; refuse anything else, and a smaller one."""
    try:
        if is_bool(value):
            raise TypeError("a boolean is not a number")
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError) as e:
        raise InvalidInputError(
            f"{name}={shown(value)}: use a whole number, {least} or more.", code="not-an-integer"
        ) from e
    if number < least or (number >> 63 and name != "seed"):  # a seed may have any length
        more = "or more" if number < least else f"to {(1 << 63) - 1}"
        raise InvalidInputError(f"{name}={shown(number)}: use {least} {more}.", code=code)
    return number


def check_path(name: str, value: Any) -> Path:
    """Return a text or a path as a path; refuse anything else."""
    if not isinstance(value, str | os.PathLike):
        raise InvalidInputError(f"{name}={shown(value)}: give the path of a file or a folder.", code="not-a-path")
    return Path(value)


def check_texts(name: str, value: Any) -> list[str]:
    """Return one text, or several, as a list; refuse what is neither."""
    if isinstance(value, str):
        return [value]
    texts: list[Any] = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(f"{name}={shown(value)}: give a text, or a list of texts.", code="invalid-names")
    return texts


def shown(value: object) -> str:
    """The first 100 characters of the repr of a value, for a message; of what has none, its type."""
    try:
        return " ".join(repr(value).split())[:100]
    except (ValueError, RecursionError):  # Python writes no whole number of more than 4,300 digits
        return f"({type(value).__name__} too long to show)"


def is_bool(value: Any) -> bool:
    """Whether a value is a boolean of Python, numpy or torch."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def require(package: str, extra: str, what: str) -> Any:
    """Import an optional package; `MissingDependencyError` names the feature and the extra that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise MissingDependencyError(f"{what} needs {package} ({e}); pip install 'saestore[{extra}]'") from e


def first_line(error: BaseException) -> str:
    """First line of the message of an error, without the reports that follow it."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextmanager
def reached(what: str) -> Iterator[None]:
    """Turn an error of the system that is about a place into one that states so; `what` names the place."""
    try:
        yield
    except OSError as error:
        raise_unreachable(what, error)
        raise
    except ValueError as error:
        refuse_unusable(error)
        raise


def refuse_unusable(error: ValueError) -> None:
    """Raise an error of saestore where Python itself refuses a number, a path or a text."""
    reason = next((reason for part, reason in _UNUSABLE if part in str(error)), None)
    if reason is not None and not isinstance(error, SaestoreError):
        raise InvalidInputError(reason, code="unusable-value") from error


def raise_unreachable(what: str, error: BaseException, verb: str = "read") -> None:
    """Raise the error that fits where one, or one of its causes, is about the place, not about the stored bytes.

    Raises
    ------
    NotAllowedError
        The place refuses this user.
    UnreachableError
        The place does not answer.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SaestoreError):
            return
        said = f"{what} cannot be {verb} now: {first_line(cause)}."
        if _is_any(cause, _NOT_ALLOWED):
            raise NotAllowedError(
                f"{said} This user is not allowed to: change its mode, or renew the credentials."
            ) from error
        reason = next((reason for kinds, reason in _UNREACHABLE if _is_any(cause, kinds)), None)
        if reason is not None:
            raise UnreachableError(f"{said} {reason}") from error
        if isinstance(cause, OSError) and cause.errno not in _ABOUT_NODES:
            raise UnreachableError(f"{said} Check the place, then ask again.") from error
        cause = cause.__cause__ or cause.__context__


def _is_any(error: BaseException, kinds: tuple[int | str, ...]) -> bool:
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    names = {base.__name__ for base in type(error).__mro__}
    names |= {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(error).__mro__}
    number = getattr(error, "errno", None) or next(map(int, _ERRNO.findall(str(error))), None)
    return bool(names & set(kinds)) or number in kinds or status in kinds
