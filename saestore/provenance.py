"""What a set records of where it comes from: its SAE, and its source by the caller's word."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, NotFoundError, check_path, shown
from saestore.format import canonical_json

if TYPE_CHECKING:
    from saestore.sae import LoadedSAE


def sae_record(sae: LoadedSAE) -> dict[str, Any]:
    """What a set records of its SAE."""
    return {"name": sae.name, **sae.info, "fingerprint": sae.fingerprint()}


def source_record(source: Mapping[str, Any] | None, images: Any) -> dict[str, Any]:
    """What a set records of where its activations come from, by the caller's word, after a check."""
    if not isinstance(source, Mapping | None):
        raise InvalidInputError(f"source={shown(source)}: give a mapping, or None.", code="bad-source")
    given = dict(source or {})
    reserved = {"kind", "fingerprint", "items", "items_fingerprint", "token_spans_fingerprint", "images"} & set(given)
    if reserved:
        raise InvalidInputError(
            f"source has {min(reserved)!r}, which saestore records itself; name it differently.",
            code="reserved-name",
        )
    try:
        given = dict(json.loads(canonical_json(given)))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"source must hold JSON-able values ({error}).", code="bad-source") from error
    if images is None:
        return given
    if not check_path("images", images).is_dir():
        raise NotFoundError(f"there is no folder of images {images}.", code="missing-images")
    return {**given, "images": str(images)}


def given_sae_record(sae: Any, path: str, n_features: int) -> dict[str, Any]:
    """The record of an SAE that a caller names; with a fingerprint where it can be loaded from here."""
    name = path.rsplit("/", maxsplit=1)[-1]
    if sae is None:
        return {}
    if isinstance(sae, Mapping):
        return {"name": name, **sae}
    if isinstance(sae, str | os.PathLike) and not Path(sae).exists():
        text = os.fspath(sae)
        release, colon, sae_id = text.partition(":")
        if colon and release and sae_id:
            return {"name": name, "release": release, "sae_id": sae_id}
        if isinstance(sae, os.PathLike) or len(Path(text).parts) != 1 or Path(text).suffix in (".pt", ".pth"):
            raise NotFoundError(f"there is no SAE at {text}; give its folder, or a name.", code="missing-sae")
        return {"name": text}
    try:
        from saestore.sae import load_sae

        loaded = load_sae(sae)
    except ImportError:  # without torch or sae_lens only its place is known
        return {"name": name, "source": str(sae)}
    if loaded.d_sae != n_features:
        raise InvalidInputError(
            f"the SAE {loaded.name} has {loaded.d_sae:,} features, the matrix {n_features:,}.", code="wrong-width"
        )
    return sae_record(loaded)
