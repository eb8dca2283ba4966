"""saestore: a Zarr-backed store for sparse autoencoder activations, with a query API.

>>> import saestore
>>> store = saestore.open("activations.zarr")  # doctest: +SKIP
>>> store["CLEVR/patch"].top_samples(1234, n=20)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from saestore import errors as errors
    from saestore.activations import (
        ActivationSet,
        FeatureMatches,
        Histogram,
        SimilarFeatures,
        TopFeatures,
        TopSamples,
    )
    from saestore.building import build
    from saestore.exporting import export
    from saestore.importing import check_import, import_activations
    from saestore.store import Store, open

__version__ = "0.1.0"

# Loaded when first asked for: zarr and numpy take half a second that `saestore --help` need not wait for.
_WHERE = {
    "ActivationSet": "saestore.activations",
    "FeatureMatches": "saestore.activations",
    "Histogram": "saestore.activations",
    "SimilarFeatures": "saestore.activations",
    "Store": "saestore.store",
    "TopFeatures": "saestore.activations",
    "TopSamples": "saestore.activations",
    "build": "saestore.building",
    "check_import": "saestore.importing",
    "export": "saestore.exporting",
    "import_activations": "saestore.importing",
    "open": "saestore.store",
}

__all__ = [
    "ActivationSet",
    "FeatureMatches",
    "Histogram",
    "SimilarFeatures",
    "Store",
    "TopFeatures",
    "TopSamples",
    "__version__",
    "build",
    "check_import",
    "export",
    "import_activations",
    "open",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("saestore.errors")
    if name not in _WHERE:
        raise AttributeError(f"module 'saestore' has no attribute {name!r}")
    from saestore.errors import MissingDependencyError

    try:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    except MissingDependencyError as error:
        # Without torch the package is still usable: `help`, `dir` and `import *` find the name, a call is the error.
        return _unavailable(name, error)
    globals()[name] = value
    return value


def _unavailable(name: str, error: ImportError) -> Callable[..., NoReturn]:
    """A stand-in for a function whose packages are not installed: calling it raises the error that names the extra."""
    arguments, kind = error.args, type(error)

    def unavailable(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise kind(*arguments)

    unavailable.__name__ = unavailable.__qualname__ = name
    unavailable.__doc__ = f"Not available here: {error}"
    unavailable.__module__ = "saestore"
    return unavailable


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "errors"})
