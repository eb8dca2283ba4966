"""Optional packages: one error for all of them, which names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from saestore.errors import MissingDependencyError


def require(package: str, extra: str, what: str) -> Any:
    """Import a package.

    Parameters
    ----------
    extra
        The extra that installs it: ``pip install 'saestore[extra]'``.
    what
        The feature that needs it, for the message.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise MissingDependencyError(f"{what} needs {package} ({e}); pip install 'saestore[{extra}]'") from e
