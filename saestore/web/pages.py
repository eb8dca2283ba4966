"""The first page, of a store, and the page of a set."""

from __future__ import annotations

import shlex

import numpy as np

from saestore.errors import SaestoreError
from saestore.query.html import l0, sae_name, size, state
from saestore.storage import read_attributes
from saestore.web.feature_table import SHOWN_STATISTICS, density_of, feature_row
from saestore.web.request import Parameters
from saestore.web.view import Page, SetView, StoreView

__all__ = ["set_page", "store_page"]


def store_page(store: StoreView, asked: Parameters) -> Page:  # noqa: ARG001
    """All sets: sizes, SAE, and the progress of those that are being built."""
    paths, damaged = store.paths()
    sets = []
    for path in paths:
        try:
            a = read_attributes(store.root, path)
        except SaestoreError as error:
            damaged[path] = str(error)
            continue
        if a is not None:
            sets.append(
                {
                    "set": path,
                    "n_samples": a.n_samples,
                    "n_features": a.n_features,
                    "n_items": a.n_items,
                    "nnz": a.nnz,
                    "l0": l0(a),
                    "sae": sae_name(a),
                    "state": state(a),
                    "complete": a.complete,
                }
            )
    data = {
        "store": store.location,
        "sets": sets,
        "damaged": damaged,
        "python": f"store = saestore.open({store.location!r})",
        "command": shlex.join(["saestore", "info", "--store", store.location]),
    }
    return Page("store.html", "Activation sets", data, moves=not all(each["complete"] for each in sets))


def set_page(store: StoreView, view: SetView, asked: Parameters) -> Page:  # noqa: ARG001
    """A set: sizes, provenance, the density of firing rates, and where to go from here."""
    reader, a = view.reader, view.reader.attributes
    rates = view.statistics["frac_nonzero"]
    best = np.argsort(-view.statistics["n_active"], kind="stable")[:10]
    data = {
        "set": view.path,
        "n_samples": reader.shape[0],
        "n_features": reader.shape[1],
        "n_items": reader.n_items,
        "nnz": reader.nnz,
        "l0": l0(a),
        "dead_features": int((view.statistics["n_active"] == 0).sum()),
        "stored": size(a.stored_bytes),
        "dtype": a.dtype,
        "state": state(a),
        "complete": a.complete,
        "sae": dict(a.sae),
        "source": dict(a.source),
        "density": density_of(rates),
        "splits": view.splits,
        "concepts": {"item": reader.concept_names("item")[:200], "sample": reader.concept_names("sample")[:200]},
        "columns": {name: getattr(reader, name).names() for name in ("items", "samples", "features")},
        "busiest": [feature_row(view, f, SHOWN_STATISTICS) for f in best.tolist()],
        "others": [path for path in store.paths()[0] if path != view.path],
        **store.copies(view.path, "", "info", view.path),
    }
    return Page("set.html", view.path, data, moves=not a.complete)
