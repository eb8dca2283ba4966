"""The SAE's record of its training, and whether model, layer and images agree with it."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from saestore.errors import InvalidInputError
from saestore.models.hooks import Hook

if TYPE_CHECKING:
    from saestore.sae import LoadedSAE

_ALIASES = {"gpt2-small": "gpt2", "mistral-7b": "mistral-7b-v0-1"}  # of TransformerLens, where it is not installed
_LEFT_OUT = re.compile(r"^meta-(?=llama)|-hf$")
# A module inside a block by its own name, such as layers.3.mlp.
_INNER = re.compile(r"(?:\w+\.)*(?:layers|layer|h|blocks|resblocks)\.(?P<layer>\d+)\.(?P<name>(?!\S*hook_)\S+)")


@dataclass(frozen=True)
class SAETrainingSpec:
    """The activations that an SAE was trained on, as it records them; None where it has no record."""

    sae: str  # its name, for messages
    d_in: int  # width of the embeddings that it takes
    model: str | None = None  # name of the model
    hook: str | None = None  # where in the model
    prepend_bos: bool | None = None  # whether each text had the model's first token, BOS, in front
    context_size: int | None = None  # tokens of a text, BOS included
    transform: Mapping[str, Any] | None = None  # for images: ``resize`` and ``crop`` as in `ImageTransform.record`
    streams: int | None = None  # of a crosscoder: how many hidden states it reads at once

    @classmethod
    def of(cls, sae: LoadedSAE) -> Self:
        """Read the record of a loaded SAE."""
        info, training = sae.info, sae.training
        more = {name: training.get(name) for name in ("prepend_bos", "context_size", "transform")}
        more["streams"] = info.get("streams")
        return cls(sae.name, sae.d_in, training.get("model") or info.get("model_name"), info.get("hook_name"), **more)

    def place(self, layer: int | None, hook: str | None = None) -> Hook:
        """Choose the hook: the requested one, which must be the SAE's own if that is known."""
        trained = None if self.hook is None else Hook.of(self.hook)
        requested = None if hook is None else Hook.of(hook, by="--hook (hook=) names")
        if requested is None and layer is not None:
            # Of an SAE inside a block, the number of the block is enough.
            requested = trained if trained is not None and trained.layer == layer else Hook(layer)
        if requested is not None and trained is not None and requested != trained:
            raise InvalidInputError(
                f"{requested.name} was requested, but the SAE {self.sae} was trained at {self.hook}, which is "
                f"{trained.name}, blocks counted from 0; pass --layer {trained.layer}, or leave --layer and --hook out",
                code="layer-mismatch",
            )
        if requested is None and trained is None:
            raise InvalidInputError(
                f"the SAE {self.sae} does not record at which layer it was trained: pass --layer (layer=), the number "
                "of the block, counted from 0, whose output it takes, or --hook (hook=)",
                code="unknown-layer",
            )
        return requested or trained  # type: ignore[return-value]

    def model_name(self, requested: str | None) -> str:
        """Choose the model: the requested one, else the one that the SAE was trained on."""
        if requested is not None:
            return requested
        if self.model is None or "/" not in self.model:
            raise InvalidInputError(
                f"which model to run is not known (the SAE {self.sae} records {self.model}): pass --model (model=), a "
                "folder or a name on the hub",
                code="unknown-model",
            )
        return self.model

    def check_model(self, name: str, width: int, *, other: bool = False) -> None:
        """Refuse a model that does not fit, or that states another name than the SAE's; warn if it states none."""
        if self.streams is not None:
            raise InvalidInputError(
                f"the SAE {self.sae} is a crosscoder of {self.streams} streams, and {name} gives one: give its "
                f"embeddings (--embeddings), (rows, {self.streams}, {self.d_in // self.streams})",
                code="width-mismatch",
            )
        if width != self.d_in:
            raise InvalidInputError(
                f"the hidden state of {name} has width {width}, the SAE {self.sae} takes {self.d_in}; it was trained "
                f"on {self.model or 'another model'}",
                code="width-mismatch",
            )
        stated = _names_in(Path(name)) if Path(name).is_dir() or ":" in name else {name}
        if stated:
            self.check_stated(name, {"model": " or ".join(sorted(stated))}, other=other)
        elif self.model is not None and not _same_model(self.model, name):
            warnings.warn(
                f"the SAE {self.sae} was trained on {self.model}, and nothing shows that {name} is that model; on "
                "another one its features mean nothing.",
                stacklevel=2,
            )

    def check_stated(self, path: str, stated: Mapping[str, str], *, other: bool = False) -> None:
        """Refuse embeddings whose model or hook differs from the SAE's, where both state one, unless `other`."""
        model, hook = stated.get("model"), stated.get("hook")
        if other:
            return
        if model and self.model and not any(_same_model(self.model, name) for name in model.split(" or ")):
            raise InvalidInputError(
                f"the SAE {self.sae} was trained on {self.model}, and {path} states the model {model}: on another "
                "one its features mean nothing. Nothing was written. To go on all the same, pass --other-model "
                "(other_model=True)",
                code="other-model",
            )
        if hook and self.hook and not _same_place(self.hook, hook):
            raise InvalidInputError(
                f"the SAE {self.sae} was trained at {self.hook}, and {path} states the hook {hook}. Nothing was "
                "written. To go on all the same, pass --other-model (other_model=True)",
                code="layer-mismatch",
            )

    def warn_of_other_transform(self, record: Mapping[str, Any]) -> None:
        """Warn if the images are resized or cropped in another way than in training."""
        for key, trained in (self.transform or {}).items():
            if trained != record.get(key):
                warnings.warn(
                    f"the SAE {self.sae} was trained on images with {key} {json.dumps(trained)}, and the model's image "
                    f"processor has {key} {json.dumps(record.get(key))}; its preprocessor_config.json can be changed.",
                    stacklevel=2,
                )


def _plain(name: str) -> str:
    """The last part of a name, without what some leave out of it."""
    return _LEFT_OUT.sub("", re.sub(r"[_.]", "-", name.rstrip("/").rsplit("/", 1)[-1].casefold()))


@cache
def _aliases() -> dict[str, str]:
    """TransformerLens's names of models with the hub's, from the source of its table: its import takes ten seconds."""
    spec = find_spec("transformer_lens")
    files = ("supported_models.py", "loading_from_pretrained.py")
    for file in [] if spec is None else [Path(str(spec.origin)).with_name(name) for name in files]:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        table = re.search(r"^MODEL_ALIASES\b[^=]*= (\{.*?^\})", text, re.MULTILINE | re.DOTALL)
        if table is not None:
            known = ast.literal_eval(table[1])
            return {_plain(alias): _plain(name) for name, aliases in known.items() for alias in aliases}
    return _ALIASES


def _same_model(ours: str, theirs: str) -> bool:
    """Whether two names are of one model: of the hub, or TransformerLens's own, such as gpt2-small."""
    names = _plain(ours), _plain(theirs)
    return names[0] == names[1] or len({_aliases().get(name, name) for name in names}) == 1


def _same_place(ours: str, theirs: str) -> bool:
    """Whether two names are of one place; a module inside a block is at any hook of that module."""
    places = _hook(ours), _hook(theirs)
    inner, other = _INNER.fullmatch(ours), theirs
    if inner is None:
        inner, other = _INNER.fullmatch(theirs), ours
    if inner is None or places[0] == places[1]:
        return places[0] == places[1]
    part = next((part for part in ("att", "mlp", "feed") if part in inner["name"]), inner["name"])
    return f".{inner['layer']}." in other and part.replace("feed", "mlp") in other


def _hook(name: str) -> Hook | str:
    try:
        return Hook.of(name)
    except InvalidInputError:
        return name


def _names_in(folder: Path) -> set[str]:
    """Names of the model in a folder, by its configuration and by the hub's cache."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    # A snapshot in the hub's cache is …/models--owner--name/snapshots/<commit>.
    cached = [part.rsplit("--", 1)[-1] for part in folder.parts if part.startswith("models--")]
    # A folder that the model was once loaded from, unlike a name on the hub, states nothing.
    names = [*re.findall(r"\A[\w.-]+(?:/[\w.-]+)?\Z", str(config.get("_name_or_path") or "")), *cached]
    return {name.rsplit("/", 1)[-1] for name in names}
