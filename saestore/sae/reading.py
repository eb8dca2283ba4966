"""What readers of SAEs of other libraries share: weights and facts that were read, and checks of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saestore.errors import InvalidInputError
from saestore.files import load_tensors, read_json
from saestore.sae.linear import Rule
from saestore.sae.loaded import invalid

RELU = ("W_enc", "b_enc", "W_dec", "b_dec")  # names of weights
PLAIN = {name: name for name in (*RELU, "threshold")}


@dataclass(frozen=True)
class Read:
    """What a reader found: weights, rule, and facts to record."""

    weights: dict[str, torch.Tensor]
    rule: Rule
    architecture: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    transcodes: bool = False
    name: str | None = None
    fused: bool = False  # as in `LinearSAE`


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` or ``.pt`` file, each of which has a name."""
    loaded = load_tensors(path)
    if "" in loaded:
        kind = type(loaded[""]).__name__
        raise InvalidInputError(f"{path} contains a {kind}, not a dict of weights", code="not-an-sae")
    return loaded


def need(state: Mapping[str, Any], path: Path, *names: str) -> dict[str, Any]:
    """The weights of these names, each of which must be there, in their order."""
    missing = [name for name in names if name not in state]
    if missing:
        raise InvalidInputError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(state)) or 'nothing'}", code="not-an-sae"
        )
    return {name: state[name] for name in names}


def read_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise invalid(f"{path} contains a JSON {type(config).__name__}, not an object")
    return config


def claimed(
    claims: Mapping[str, Any], weights: Mapping[str, torch.Tensor], path: Path, *,
    streams: int | None = None, k: int | None = None,
) -> None:  # fmt: skip
    """Refuse a configuration that contradicts the weights."""
    d_in, d_sae = weights["W_enc"].shape
    true = {"d_in": d_in, "d_sae": d_sae, "d_out": weights["W_dec"].shape[-1], "streams": streams, "k": k}
    true["d_model"] = d_in // (streams or 1)
    for name, size in true.items():
        if claims.get(name) not in (None, 0, size) and size is not None:
            raise invalid(
                f"{path} states that {name} is {claims[name]!r}, and the weights are {d_in:,} x {d_sae:,}, with {name} "
                f"{size:,}"
            )
