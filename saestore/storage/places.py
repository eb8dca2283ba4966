"""Where a store may be: what a user names (folder, URL, zip file, icechunk session) as something that zarr opens."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from saestore.errors import InvalidInputError, MissingDependencyError, StoreWriteError, first_line, shown

if TYPE_CHECKING:
    from zarr.storage import MemoryStore, ObjectStore, ZipStore

# Which bytes of a key: from the first to the one after the last, or the last n as (-n, None).
Span = tuple[int, int | None]
# A key, and which bytes of it; None for all.
Request = tuple[str, Span | None]

_OBJECTS = ("s3", "s3a", "gs", "az", "adl", "abfs", "abfss", "http", "https")  # what obstore opens
# Of the HTTP client, not of the provider.
_CLIENT = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout", "user_agent")
_ALIASES = {"anon": "skip_signature", "key": "access_key_id", "secret": "secret_access_key", "endpoint_url": "endpoint"}
_RETRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
_in_memory: dict[str, MemoryStore] = {}  # stores of this process, by URL
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class Location(str):
    """A folder or URL together with the options that reach it; everywhere else it is its text."""

    __slots__ = ("options",)
    options: Mapping[str, Any]

    def __new__(cls, text: str, options: Mapping[str, Any] | None = None) -> Location:
        """Make one of its text and its options."""
        result = super().__new__(cls, text)
        result.options = dict(options or {})
        return result

    @classmethod
    def parse(cls, text: str, options: tuple[str, ...]) -> Location:
        """Make one of options as ``KEY=VALUE``."""
        for each in options:
            if not each.partition("=")[0] or "=" not in each:
                raise InvalidInputError(f"--storage-option {each!r}: write KEY=VALUE.", code="bad-option")
        return cls(text, dict(each.split("=", 1) for each in options))


def place_of(location: Any, mode: str, options: Mapping[str, Any] | None = None) -> tuple[Any, Path | None]:
    """What zarr opens, and the folder where that is a local one; refuses options that the place does not have."""
    if not isinstance(options, Mapping | None):
        raise InvalidInputError(f"storage_options={shown(options)}: give a mapping.", code="bad-option")
    given = {**getattr(location, "options", {}), **(options or {})}
    if isinstance(location, os.PathLike | bytes):
        location = Path(os.fsdecode(location))
    local, scheme = local_path(location), _scheme(location)
    if given and scheme not in _OBJECTS:
        if local is not None or not scheme:
            raise InvalidInputError(
                f"{describe(location)} takes no storage options; they are for URLs such as s3://bucket/path.",
                code="unknown-option",
            )
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(str(location), storage_options=given, read_only=mode == "r"), None
    if local is not None and local.suffix == ".zip" and local.is_file():
        return _zip_file(local, mode), None
    if local is not None:
        return str(local), local
    if scheme == "memory":
        from zarr.storage import MemoryStore

        return _in_memory.setdefault(str(location), MemoryStore()), None
    if scheme in _OBJECTS:
        return _objects(str(location), scheme, mode, given), None
    return _icechunk(_absolute(location), mode), None


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder in place of ``~``; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib's raises)


def _absolute(location: Any) -> Any:
    """A zarr store of a relative path with the absolute one; anything else as it is."""
    from zarr.storage import LocalStore

    if type(location) is not LocalStore or location.root.is_absolute():
        return location
    return LocalStore(location.root.absolute(), read_only=location.read_only)


def _zip_file(path: Path, mode: str) -> ZipStore:
    import zipfile

    from zarr.storage import ZipStore

    from saestore.files import check_inflation

    _check_reading(mode, str(path), "a zip file")
    with suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            check_inflation(entry.file_size, entry.compress_size, f"{path}:{entry.filename}")
    return ZipStore(path, mode="r", read_only=True)


def _check_reading(mode: str, label: str, kind: str) -> None:
    if mode != "r":
        raise StoreWriteError(
            f"{label} is {kind}, which saestore only reads. Write to a folder or an object store instead.",
            code="read-only",
        )


def _objects(url: str, scheme: str, mode: str, options: Mapping[str, Any]) -> ObjectStore[Any]:
    from zarr.storage import ObjectStore

    try:
        import obstore.store
        from obstore.exceptions import BaseError, UnknownConfigurationKeyError
    except ImportError:
        raise MissingDependencyError(f"{url} needs obstore: pip install 'saestore[cloud]'.") from None
    if scheme.startswith("http"):
        _check_reading(mode, url, "an HTTP address")
    config = {_ALIASES.get(name, name): value for name, value in options.items()}
    client = {**config.pop("client_options", {}), **{name: config.pop(name) for name in _CLIENT if name in config}}
    retry = {**_RETRIES, **config.pop("retry_config", {})}
    if "max_retries" in config:
        retry["max_retries"] = int(config.pop("max_retries"))
    endpoint = config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    if scheme == "http" or str(endpoint).startswith("http://"):
        client.setdefault("allow_http", True)
    try:
        # A URL is absolute: what follows the bucket is the prefix of all keys.
        opened: Any = obstore.store.from_url(url, config=config or None, client_options=client, retry_config=retry)  # type: ignore[call-overload]
    except (UnknownConfigurationKeyError, ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{url}: {first_line(error)} Options of this place: the configuration keys of obstore, such as "
            "endpoint, region, access_key_id, skip_signature, timeout, max_retries.",
            code="unknown-option",
        ) from error
    except BaseError as error:
        raise InvalidInputError(
            f"{url}: {first_line(error)}. Check the URL and the options.", code="bad-url"
        ) from error
    return ObjectStore(opened, read_only=mode == "r")


def _icechunk(location: Any, mode: str) -> Any:
    """The zarr store of an icechunk repository or session; anything else as it is."""
    if type(location).__module__.partition(".")[0] != "icechunk":
        return location
    if hasattr(location, "writable_session"):
        from saestore.storage.repository import RepositoryStore

        return RepositoryStore(location, read_only=mode == "r")
    if hasattr(location, "store"):
        return location.store if mode != "r" or location.read_only else location.store.with_read_only(True)
    return location


def _scheme(location: Any) -> str:
    match = _URL.match(location) if isinstance(location, str) else None
    return match["scheme"].lower() if match else ""


def local_path(location: Any) -> Path | None:
    """The absolute path, which is still right after a change of the working folder; None for other places."""
    if isinstance(location, Path):
        return expanded(location).absolute()
    if not isinstance(location, str):
        return None
    if location.lower().startswith("file://"):
        from urllib.request import url2pathname  # imports http and ssl, which a path does not need

        return Path(url2pathname(urlsplit(location).path))
    if not _scheme(location) and not location.startswith("memory:"):
        return expanded(location).absolute()
    return None


def describe(location: Any) -> str:
    """How a message names a store; without the password that a URL may have."""
    text = str(location)[:200] if not isinstance(location, str | Path) else str(location)
    return re.sub(r"(?<=://)[^/@]*@", "", text)
