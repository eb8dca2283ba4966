"""Places in a model by the names of TransformerLens, and the modules of a block that have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch

from saestore.errors import InvalidInputError

# Names of TransformerLens, and of the modules themselves in transformers, open_clip and timm.
_PLACES = {
    "resid_post": "hook_resid_post",
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
}
_BY_NAME = {name: place for place, name in _PLACES.items()}
_BY_NAME |= {"hook_in": "resid_pre", "hook_out": "resid_post", "attn.o.hook_in": "z"}  # of its TransformerBridge
_HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<name>[\w.]+)")
_MODULE = re.compile(r"(?:\w+\.)*(?:layers|layer|h|blocks|resblocks)\.(?P<layer>\d+)(?:\.output)?")


@dataclass(frozen=True)
class Hook:
    """A place in a model."""

    layer: int  # number of the block, counted from 0
    # ``resid_post`` (the block's output), ``resid_pre`` (its input; of block 0 only), ``resid_mid`` (between attention
    # and MLP), ``z`` (heads of attention before the output projection, side by side), ``attn_out`` and ``mlp_out``
    # (what attention and MLP add to the residual stream)
    place: str = "resid_post"

    @classmethod
    def of(cls, name: str, by: str = "the SAE was trained at") -> Self:
        """Parse a name; the input of a block is the output of the block before. `by` starts the message of an error."""
        module, match = _MODULE.fullmatch(name), _HOOK.fullmatch(name)
        if module is not None:
            return cls(int(module["layer"]))
        place = None if match is None else _BY_NAME.get(match["name"])
        if match is None or place is None:
            raise InvalidInputError(
                f"{by} {name!r}, where saestore cannot read a model; it can at "
                f"{', '.join(f'blocks.N.{each}' for each in _PLACES.values())} and …layers.N. Store the activations of "
                "that hook yourself and give them as --embeddings",
                code="unsupported-hook",
            )
        layer = int(match["layer"])
        return cls(layer - 1) if place == "resid_pre" and layer else cls(layer, place)

    @property
    def name(self) -> str:
        """Its name in TransformerLens."""
        return f"blocks.{self.layer}.{_PLACES[self.place]}"


@dataclass(frozen=True)
class Tap:
    """A module whose input or output is kept."""

    module: torch.nn.Module
    output: bool

    def attach(self, keep: Callable[[torch.Tensor], None]) -> Any:
        """Call `keep` with the tensor at each run of the module; returns the handle that removes the hook."""
        if self.output:
            return self.module.register_forward_hook(lambda _module, _given, out: keep(first_tensor(out)))
        return self.module.register_forward_pre_hook(
            lambda _module, given, named: keep(first_tensor(given or named.get("hidden_states"))), with_kwargs=True
        )


def first_tensor(value: Any) -> Any:
    """The tensor itself, or the first of a tuple."""
    return value[0] if isinstance(value, tuple) else value


def find_tap(block: torch.nn.Module, place: str, run: Callable[[], None]) -> Tap | None:
    """The module of a block that has a place (as in `Hook`), or None where the block has no such place.

    Found by what the modules compute in one `run` of the model on a few rows, not by their names: attention is the
    first module whose output, added to the block's input, is the input of another module (`resid_mid`). The MLP is the
    one whose output, added to that or to its norm, is the input of a later module or the output of the block. In blocks
    that run both side by side, the two outputs and the block's input add up to its output, and `resid_mid` does not
    exist.
    """
    if place in ("resid_post", "resid_pre"):
        return Tap(block, place == "resid_post")
    events = _trace(block, run)
    if not events or not torch.is_tensor(events[-1].value):
        return None
    found = _sequential(events) or _parallel(events)
    if found is None:
        return None
    attention, mid, mlp = found
    if place == "z":
        upto = events.index(attention)
        projections = [e for e in events[:upto] if not e.output and _is_projection(e.module)]
        return Tap(projections[-1].module, False) if projections else None
    event = {"resid_mid": mid, "attn_out": attention, "mlp_out": mlp}[place]
    return None if event is None else Tap(event.module, event.output)


@dataclass(frozen=True, eq=False)
class _Event:
    """A module begins or ends, with its first input or output."""

    module: torch.nn.Module
    output: bool
    value: torch.Tensor


def _trace(block: torch.nn.Module, run: Callable[[], None]) -> list[_Event]:
    """What passes through the modules of a block, the block's own input first and its output last."""
    events: list[_Event] = []

    def keeper(module: torch.nn.Module, output: bool) -> Callable[[Any], None]:
        # Copied, because some models add to a tensor in place; and not every device computes in float64.
        return lambda x: events.append(_Event(module, output, x.to("cpu", copy=True))) if torch.is_tensor(x) else None

    taps = [Tap(module, output) for module in block.modules() for output in (False, True)]
    handles = [tap.attach(keeper(tap.module, tap.output)) for tap in taps]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return events


def _sequential(events: list[_Event]) -> tuple[_Event, _Event | None, _Event] | None:
    """Attention, the input between, and the MLP of a block in which the MLP sees what attention wrote."""
    pre, post = events[0], events[-1]
    for i, attention in enumerate(events):
        if not attention.output:
            continue
        for j, mid in enumerate(events[i + 1 :], i + 1):
            if not mid.output and _adds_up(mid, pre, attention):
                bases = [mid, *(e for e in events[j:-1] if e.output and e.module is mid.module)]
                mlp = next((e for e in events[j:-1] if e.output and _ends(e, bases, events[j:], post)), None)
                return None if mlp is None else (attention, mid, mlp)
    return None


def _ends(mlp: _Event, bases: list[_Event], later: list[_Event], post: _Event) -> bool:
    """Whether the stream and the MLP's output add up to what a later module or the end of the block has."""
    after = [e for e in later[later.index(mlp) + 1 :] if not e.output or e is post]
    return any(_adds_up(end, base, mlp, scaled=end is post) for base in bases for end in after if base is not mlp)


def _parallel(events: list[_Event]) -> tuple[_Event, _Event | None, _Event] | None:
    pre, post = events[0], events[-1]
    outputs = [e for e in events[1:-1] if e.output and e.value.shape == post.value.shape]
    pairs: Iterator[tuple[_Event, _Event]] = ((a, m) for i, a in enumerate(outputs) for m in outputs[i + 1 :])
    return next(((a, None, m) for a, m in pairs if _adds_up(post, pre, a, m)), None)


def _adds_up(whole: _Event, *parts: _Event, scaled: bool = False) -> bool:
    """Whether parts add up to the whole within rounding, or, if `scaled`, to a multiple of it."""
    values = [part.value for part in parts]
    if any(value.shape != whole.value.shape for value in values):
        return False
    total, result = torch.stack([value.double() for value in values]).sum(0), whole.value.double()
    if scaled and (total * total).sum() > 0:  # such as the layer scalar of Gemma 4
        total = total * (total * result).sum() / (total * total).sum()
    size = torch.stack([value.double().abs() for value in [*values, result]]).sum(0)
    return bool(((total - result).abs() <= 2 * torch.finfo(whole.value.dtype).eps * size).all())


def _is_projection(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not list(module.children())
