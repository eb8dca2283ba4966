"""Files of the Hugging Face hub: the local cache first, then the hub, and advice where neither has them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from saestore.errors import NotFoundError, require

_PROBE_SECONDS = 5


def hub_file(repo: str, file: str, advice: str) -> str:
    """Path of one file of a hub repository in the local cache, downloaded if it is missing there.

    `advice` ends the message where the hub cannot be reached. Without a network that takes one refused connection (at
    most 5 s), where huggingface_hub alone would retry for half a minute.
    """
    hub = _huggingface_hub()
    what = f"{file} of {repo}"
    try:
        return str(hub.hf_hub_download(repo, file, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        require_hub(what, advice)
    with hub_errors(what, advice):
        return str(hub.hf_hub_download(repo, file))


def require_hub(what: str, advice: str) -> None:
    """Refuse if the hub is switched off or does not answer."""
    hub = _huggingface_hub()
    if hub.constants.HF_HUB_OFFLINE:
        raise NotFoundError(
            f"{what} is not in the cache, and HF_HUB_OFFLINE forbids downloading it; {advice}", code="hub-offline"
        )
    try:
        # urllib, because it knows the proxies of the environment and never retries. The scheme is that of HF_ENDPOINT.
        urllib.request.urlopen(urllib.request.Request(hub.constants.ENDPOINT, method="HEAD"), timeout=_PROBE_SECONDS)  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answered
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NotFoundError(
            f"{what} is not in the cache, and {hub.constants.ENDPOINT} cannot be reached ({reason}); {advice}",
            code="hub-unreachable",
        ) from error


def is_cached(repo: str) -> bool:
    """Whether any snapshot of the repository is in the local cache."""
    hub = _huggingface_hub()
    try:
        hub.snapshot_download(repo, local_files_only=True)
    except hub.errors.LocalEntryNotFoundError as error:
        return hasattr(error, "snapshot_path")  # there, but not all of the repository: one SAE of many is enough
    except hub.errors.HFValidationError:
        return False
    return True


@contextmanager
def hub_errors(what: str, advice: str) -> Iterator[None]:
    """Turn errors of the hub's client inside the block into one clear error."""
    errors = _huggingface_hub().errors
    try:
        yield
    except errors.HFValidationError as error:
        raise NotFoundError(f"{what}: {one_line(error)}", code="not-on-hub") from error
    # The first is a subclass of the second: not in the cache and no connection, as opposed to not in the repository.
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise NotFoundError(
            f"{what} is not in the cache, and the hub cannot be reached; {advice}", code="hub-unreachable"
        ) from error
    except (errors.EntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise NotFoundError(f"the hub does not give {what}: {one_line(error)}", code="not-on-hub") from error


def _huggingface_hub() -> Any:
    for module in ("constants", "errors"):
        require(f"huggingface_hub.{module}", "sae", "a file of the hub")
    return require("huggingface_hub", "sae", "a file of the hub")


def one_line(error: BaseException) -> str:
    """The message of an error of another library, at most 300 characters."""
    return " ".join(str(error).split())[:300]
