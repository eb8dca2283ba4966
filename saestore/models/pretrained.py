"""Models, tokenizers and image processors of transformers, loaded from a folder or the hub, with clear errors."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from saestore.errors import InvalidInputError, NotFoundError, SaestoreError, require
from saestore.files import nearby
from saestore.format import canonical_json
from saestore.sae.hub import one_line, require_hub

# Keys for where a model came from and how it is stored; they do not change its results.
_NOT_SEMANTICS = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures", "use_cache")
_FINGERPRINT_VALUES = 1024


def import_transformers() -> ModuleType:
    """Import transformers, and Pillow for images: without it, other packages raise strange errors."""
    require("PIL", "models", "running a model on images or texts")
    return require("transformers", "models", "running a model on images or texts")  # type: ignore[no-any-return]


def unsupported(message: str) -> InvalidInputError:
    """The error for a model that saestore cannot run."""
    return InvalidInputError(message, code="unsupported-model")


def unreadable(message: str) -> InvalidInputError:
    """The error for files of a model that cannot be loaded."""
    return InvalidInputError(message, code="unreadable-model")


class Pretrained:
    """A folder to load from, or a repository of the hub, whose cache is tried first.

    Code that comes with a model is never run, and weights are read as safetensors, or else unpickled with
    ``weights_only``, which transformers does by itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.transformers = import_transformers()
        self.is_folder = Path(name).is_dir()
        if not self.is_folder and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
            raise NotFoundError(
                f"no model {name!r}: {nearby(Path(name))}; give a folder with config.json and model.safetensors, or a "
                "name on the hub, owner/name",
                code="unknown-model",
            )

    def load(self, what: str, loader: Callable[..., Any], **kwargs: Any) -> Any:
        """Call a ``from_pretrained`` of transformers, whose errors come out as one clear error."""
        with _quiet(self.transformers):
            try:
                return self._call(what, loader, local_files_only=True, **kwargs)
            except _NotHere as error:
                if self.is_folder:
                    raise unreadable(f"the {what} of {self.name} cannot be loaded: {error}") from error
            advice = (
                f"on a connected machine run `hf download {self.name} --local-dir model` and pass that folder as the "
                "model (--model ./model), or copy its hub cache here and set HF_HOME"
            )
            require_hub(f"the {what} of {self.name}", advice)
            try:
                return self._call(what, loader, **kwargs)
            except _NotHere as error:
                raise NotFoundError(
                    f"the hub does not give the {what} of {self.name}: {error}", code="unknown-model"
                ) from error

    def _call(self, what: str, loader: Callable[..., Any], **kwargs: Any) -> Any:
        from safetensors import SafetensorError

        try:
            return loader(self.name, trust_remote_code=False, **kwargs)
        except OSError as error:
            raise _NotHere(one_line(error)) from error
        except SafetensorError as error:
            raise unreadable(
                f"the weights of {self.name} are truncated or not a safetensors file ({error}); fetch them again"
            ) from error
        except pickle.UnpicklingError as error:
            raise unreadable(
                f"the weights of {self.name} hold Python objects, which are not unpickled because that could run code; "
                "save them as model.safetensors"
            ) from error
        # transformers has no error class: a strange configuration raises any of these.
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
            if isinstance(error, SaestoreError):
                raise
            raise unreadable(
                f"transformers cannot load the {what} of {self.name}: {type(error).__name__}: {one_line(error)}"
            ) from error

    def config(self) -> Any:
        """The model's configuration."""
        return self.load("configuration", self.transformers.AutoConfig.from_pretrained)

    def model(self, kind: Any, config: Any, dtype: str, key_mapping: dict[str, str] | None = None) -> torch.nn.Module:
        """Load weights, and refuse a model with missing ones: transformers would make them up.

        `kind` is a class of transformers, or one like it that has fewer blocks than the weights; `key_mapping` has
        patterns in the names of the weights, and what replaces them.
        """
        kwargs: dict[str, Any] = {"config": config, "dtype": getattr(torch, dtype), "output_loading_info": True}
        kwargs |= {} if key_mapping is None else {"key_mapping": key_mapping}
        # Each mismatched size is an error below.
        model, info = self.load("model", kind.from_pretrained, ignore_mismatched_sizes=True, **kwargs)
        if info["mismatched_keys"]:
            name, stored, expected = min(info["mismatched_keys"])
            raise unsupported(
                f"{name} of {self.name} has the shape {tuple(stored)}, and the {config.model_type!r} model in "
                f"config.json has {tuple(expected)}: the two do not belong together"
            )
        missing = sorted(info["missing_keys"])
        if missing:
            raise InvalidInputError(
                f"the weights of {self.name} lack {len(missing)} tensors that a {kind.__name__} has, {missing[0]} for "
                "example; they belong to another kind of model than the one in config.json, or are incomplete",
                code="incomplete-weights",
            )
        return model.eval().requires_grad_(False)  # type: ignore[no-any-return]

    def image_processor(self) -> Any:
        """The image processor, on Pillow, so that results do not depend on torchvision."""
        return self.load("image processor", self.transformers.AutoImageProcessor.from_pretrained, backend="pil")

    def tokenizer(self) -> Any:
        """The tokenizer, which has to have words and give the characters of its tokens."""
        tokenizer = self.load("tokenizer", self.transformers.AutoTokenizer.from_pretrained)
        # Without files, transformers makes a tokenizer that knows no words.
        if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
            raise unreadable(f"the tokenizer of {self.name} has no words: tokenizer.json is missing, or empty")
        if not tokenizer.is_fast:
            raise InvalidInputError(
                f"the tokenizer of {self.name} does not give the characters of its tokens; it needs a tokenizer.json",
                code="slow-tokenizer",
            )
        return tokenizer


class _NotHere(Exception):
    """A file is missing, or a part of it."""


def weights_fingerprint(model: torch.nn.Module, config: Any) -> str:
    """SHA-256, in hex, of a model's configuration and of up to 1,024 evenly spaced values of each of its tensors.

    Number and kind of the files make no difference.
    """
    facts = json.loads(config.to_json_string(use_diff=True))
    sha = hashlib.sha256(canonical_json({key: facts[key] for key in facts if key not in _NOT_SEMANTICS}))
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        every = -(-len(flat) // _FINGERPRINT_VALUES) or 1
        sha.update(canonical_json([name, list(tensor.shape)]))
        sha.update(flat[::every].double().cpu().numpy().tobytes())
    return sha.hexdigest()


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without the pages that transformers logs at each load: missing weights, for example, are an error here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
