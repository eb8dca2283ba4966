"""SAEs of the user's own: any object with ``encode(x)`` and a width."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from saestore.errors import InvalidInputError
from saestore.sae.hub import one_line
from saestore.sae.loaded import LoadedSAE, invalid, slug, unsupported

_ROWS, _FEW = 16, 5  # of the batch that an object is tried with
_D_IN, _D_SAE = ("d_in", "activation_dim", "d_model"), ("d_sae", "dict_size", "num_latents", "d_hidden")
_RULES = ("k", "threshold", "activation")  # attributes that may decide activations besides tensors


@runtime_checkable
class Encodes(Protocol):
    """What a build needs of an SAE.

    ``d_in`` and ``d_sae`` may also be called ``activation_dim`` and ``dict_size``, or be attributes of ``cfg``.
    Optional: ``decode(activations)``, from (n, d_sae) to (n, d_in); ``name``, the last part of the set's path;
    ``provenance``, a mapping of JSON-able values to record.
    """

    d_in: int
    d_sae: int

    def encode(self, x: torch.Tensor) -> Any:
        """Activations of embeddings (n, d_in): dense (n, d_sae), or with `top_acts` and `top_indices`, (n, k) each."""
        ...


class ObjectSAE(torch.nn.Module):
    """An object with ``encode``, as a module whose state is all the tensors that the object has."""

    def __init__(self, given: Any, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.given, self.d_in, self.d_sae = given, d_in, d_sae  # a module among modules, if it is one

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ARG002
        """The object's own state, or its tensors and arrays by attribute."""
        if isinstance(self.given, torch.nn.Module):
            return dict(self.given.state_dict())
        held = {name: value for name, value in vars(self.given).items() if isinstance(value, torch.Tensor | np.ndarray)}
        return {name: torch.as_tensor(value) for name, value in held.items()}

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its weights, float32 without any."""
        floats = [value.dtype for value in self.state_dict().values() if value.is_floating_point()]
        return floats[0] if floats else torch.float32

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Dense activations of embeddings, (n, d_sae)."""
        out = self.given.encode(x)
        if hasattr(out, "top_acts") and hasattr(out, "top_indices"):
            dense = torch.zeros(len(x), self.d_sae, dtype=out.top_acts.dtype, device=x.device)
            return dense.scatter_(1, out.top_indices.long(), out.top_acts)
        out = torch.as_tensor(out)
        return out if out.layout == torch.strided else out.to_dense()


def load_encoder(given: Any, device: str = "cpu") -> LoadedSAE:
    """Take an object with ``encode`` as an SAE, after trying it on a batch of random rows.

    It is named after its ``name``, else its class and the first digits of its fingerprint. One that gives a row other
    activations in another batch is refused: stored activations must not depend on how rows are batched.
    """
    kind = type(given)
    d_in, d_sae = (_width(given, names) for names in (_D_IN, _D_SAE))
    if not callable(getattr(given, "encode", None)) or d_in is None or d_sae is None:
        raise InvalidInputError(
            f"an SAE is given as a path, a name, a sae_lens SAE or an object with encode(x), d_in and d_sae, not as "
            f"{kind.__name__}",
            code="not-an-sae",
        )
    module = ObjectSAE(given, d_in, d_sae).to(device)
    _try(module, kind.__name__, device)
    rules = {name: getattr(given, name) for name in _RULES if isinstance(getattr(given, name, None), int | float | str)}
    architecture = f"{kind.__module__}.{kind.__qualname__}"
    config = {"architecture": architecture, "d_in": d_in, "d_sae": d_sae, **rules}
    provenance = getattr(given, "provenance", None)
    info = {
        **{name: config.get(name) for name in ("architecture", "d_in", "d_sae", "k")},
        "dtype": str(module.dtype).removeprefix("torch."),
        **dict.fromkeys(("normalize_activations", "apply_b_dec_to_input", "release", "sae_id", "source")),
        **{name: getattr(given, name, None) for name in ("hook_name", "model_name")},
        **({"provenance": dict(provenance)} if isinstance(provenance, Mapping) else {}),
    }
    loaded = LoadedSAE("", info, config, module)
    name = getattr(given, "name", None)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
    return replace(loaded, name=slug(name if isinstance(name, str) else f"{plain}-{loaded.fingerprint()[:8]}"))


def _width(given: Any, names: tuple[str, ...]) -> int | None:
    places = (given, *(getattr(given, name, None) for name in ("cfg", "config")))
    found = [getattr(place, name, None) for name in names for place in places]
    return next((int(width) for width in found if isinstance(width, int | np.integer) and width > 0), None)


def _try(module: ObjectSAE, kind: str, device: str) -> None:
    """Encode a batch and a part of it, and refuse what a build could not store."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, module.d_in, generator=generator).to(device, module.dtype)
    try:
        with torch.inference_mode():
            whole, part = module.encode(x), module.encode(x[:_FEW])
    except Exception as error:
        raise invalid(
            f"{kind}.encode fails on embeddings of shape {tuple(x.shape)}, {x.dtype}: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    if tuple(whole.shape) != (_ROWS, module.d_sae) or not whole.is_floating_point():
        raise invalid(
            f"{kind}.encode gives {whole.dtype} of shape {tuple(whole.shape)} for {_ROWS} embeddings; it must give "
            f"floats of shape ({_ROWS}, {module.d_sae})"
        )
    if not torch.allclose(whole[:_FEW], part, rtol=1e-3, atol=1e-4):
        raise unsupported(
            f"{kind}.encode gives a row other activations in another batch (as BatchTopK does in training); give one "
            "whose activations depend on the row alone"
        )
