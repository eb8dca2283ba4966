"""The xarray engine ``saestore``: opens one activation set as a Dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint

from saestore.activation_set import ActivationSet
from saestore.interop.dataset import make_dataset
from saestore.query.slices import DENSE_LIMIT
from saestore.storage.durable import read_file
from saestore.storage.open import ROOT_ATTRIBUTES
from saestore.store import Store
from saestore.store import open as open_store


class SaestoreBackend(BackendEntrypoint):
    """``xr.open_dataset(store, engine="saestore", group="CLEVR/patch")``."""

    description: ClassVar[str] = "Open activation sets of saestore stores, lazily, as if they were dense"
    # Listed here, because xarray looks them up only for engines that it finds by name.
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "group",
        "max_bytes",
        "storage_options",
    )

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        max_bytes: int = DENSE_LIMIT,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open an activation set.

        Parameters
        ----------
        filename_or_obj
            A folder, a URL, a zarr store, an opened `Store`, or an `ActivationSet`.
        drop_variables
            Names of variables or coordinates to leave out.
        group
            The set: any part of its path that fits one set only. Not needed for a store with one set.
        max_bytes
            The largest dense array that is made at once.
        storage_options
            What reaches a URL; see `saestore.open`.

        Raises
        ------
        NotFoundError, StoreFormatError
            There is no such store or set, or saestore did not write it.
        """
        if isinstance(filename_or_obj, ActivationSet):
            acts = filename_or_obj
        else:
            store = filename_or_obj if isinstance(filename_or_obj, Store) else None
            if store is None:
                store = open_store(filename_or_obj, storage_options=storage_options)
            acts = store[group or ""]
        drop = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        return make_dataset(acts, max_bytes).drop_vars(drop, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether it is a local folder with a saestore store; xarray opens any other Zarr hierarchy."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        document = Path(filename_or_obj) / "zarr.json"
        try:
            attributes = json.loads(read_file(document)).get("attributes", {})
            return bool(attributes.get("encoding-type") == ROOT_ATTRIBUTES["encoding-type"])
        except (OSError, ValueError, AttributeError, RecursionError):
            return False
