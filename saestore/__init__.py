"""saestore: a Zarr-backed store for sparse autoencoder activations, with a query API.

>>> import saestore
>>> store = saestore.open("activations.zarr")  # doctest: +SKIP
>>> store["CLEVR/patch"].top_samples(1234, n=20)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saestore import errors as errors
    from saestore.activation_set import ActivationSet
    from saestore.detection.options import DetectionOptions
    from saestore.distributed.plan import Plan
    from saestore.formats.export import export
    from saestore.ingest.build import build
    from saestore.ingest.import_ import check_import, import_activations
    from saestore.ingest.planning import open_plan, plan_build
    from saestore.query.results import FeatureMatches, Histogram, SimilarFeatures, TopFeatures, TopSamples
    from saestore.store import Store, open

__version__ = "0.1.0"

# Loaded when first asked for: zarr and numpy take half a second that `saestore --help` need not wait for.
_WHERE = {
    "ActivationSet": "saestore.activation_set",
    "DetectionOptions": "saestore.detection.options",
    "FeatureMatches": "saestore.query.results",
    "Histogram": "saestore.query.results",
    "Plan": "saestore.distributed.plan",
    "SimilarFeatures": "saestore.query.results",
    "Store": "saestore.store",
    "TopFeatures": "saestore.query.results",
    "TopSamples": "saestore.query.results",
    "build": "saestore.ingest.build",
    "check_import": "saestore.ingest.import_",
    "export": "saestore.formats.export",
    "import_activations": "saestore.ingest.import_",
    "open": "saestore.store",
    "open_plan": "saestore.ingest.planning",
    "plan_build": "saestore.ingest.planning",
}

__all__ = [
    "ActivationSet",
    "DetectionOptions",
    "FeatureMatches",
    "Histogram",
    "Plan",
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
    "open_plan",
    "plan_build",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("saestore.errors")
    if name not in _WHERE:
        raise AttributeError(f"module 'saestore' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "errors"})
