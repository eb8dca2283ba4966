"""Models, tokenizers and image processors of transformers: loaded from a folder or the hub, with one clear error."""

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

from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError, SaestoreError
from saestore.files import nearby
from saestore.format import canonical_json
from saestore.sae.hub import require_hub

__all__ = ["Pretrained", "import_transformers", "weights_fingerprint"]

# What says where a model came from and how it is held, not what it computes.
_NOT_SEMANTICS = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures", "use_cache")
_FINGERPRINT_VALUES = 1024


def import_transformers() -> ModuleType:
    """Import transformers.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import PIL  # noqa: F401  (for images; its absence would come out as many strange errors)
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            f"running a model on images or texts needs {error.name}: `pip install 'saestore[models]'`."
        ) from error
    return transformers


class Pretrained:
    """A place to load from: a folder, or a repository of the hub, whose cache is asked first.

    Code that comes with a model is never run, and weights are read as safetensors, or else unpickled with
    ``weights_only``, which transformers does by itself.

    Parameters
    ----------
    name
        Of the folder or the repository.

    Raises
    ------
    NotFoundError
        If the name is that of a folder which is not there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._library = import_transformers()
        self.is_folder = Path(name).is_dir()
        if not self.is_folder and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
            raise NotFoundError(
                f"no model {name!r}: {nearby(Path(name))}; give a folder with config.json and model.safetensors, or a "
                "name on the hub, owner/name"
            )

    def load(self, what: str, loader: Callable[..., Any], **kwargs: Any) -> Any:
        """Call a ``from_pretrained`` of transformers.

        Raises
        ------
        NotFoundError
            If the hub's cache does not have it, and the hub cannot be reached.
        InvalidInputError
            If the files are missing, damaged, of a kind that transformers does not know, or need code of their own.
        """
        with _quiet(self._library):
            try:
                return self._call(what, loader, local_files_only=True, **kwargs)
            except _NotHere as error:
                if self.is_folder:
                    raise InvalidInputError(f"the {what} of {self.name} cannot be loaded: {error}") from error
            advice = (
                f"on a connected machine run `hf download {self.name} --local-dir model` and pass that folder as the "
                "model (--model ./model), or copy its hub cache here and set HF_HOME"
            )
            require_hub(f"the {what} of {self.name}", advice)
            try:
                return self._call(what, loader, **kwargs)
            except _NotHere as error:
                raise NotFoundError(f"the hub does not give the {what} of {self.name}: {error}") from error

    def _call(self, what: str, loader: Callable[..., Any], **kwargs: Any) -> Any:
        from safetensors import SafetensorError

        try:
            return loader(self.name, trust_remote_code=False, **kwargs)
        except OSError as error:
            raise _NotHere(_one_line(error)) from error
        except SafetensorError as error:
            raise InvalidInputError(
                f"the weights of {self.name} are truncated or no safetensors file ({error}); fetch them again"
            ) from error
        except pickle.UnpicklingError as error:
            raise InvalidInputError(
                f"the weights of {self.name} hold Python objects, which are not unpickled because that could run code; "
                "save them as model.safetensors"
            ) from error
        # transformers has no error of its own: a strange configuration comes as any of these.
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
            if isinstance(error, SaestoreError):
                raise
            raise InvalidInputError(
                f"transformers cannot load the {what} of {self.name}: {type(error).__name__}: {_one_line(error)}"
            ) from error

    def config(self) -> Any:
        """The model's configuration."""
        return self.load("configuration", self._library.AutoConfig.from_pretrained)

    def model(self, class_name: str, config: Any, dtype: str) -> torch.nn.Module:
        """Load weights, and refuse a model of which some are missing: transformers would make them up.

        Parameters
        ----------
        class_name
            Of transformers.
        config
            Its configuration, which may have fewer blocks than the weights.
        dtype
            That the weights are held in.
        """
        loader = getattr(self._library, class_name).from_pretrained
        model, info = self.load("model", loader, config=config, dtype=getattr(torch, dtype), output_loading_info=True)
        missing = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
        if missing:
            raise InvalidInputError(
                f"the weights of {self.name} lack {len(missing)} tensors that a {class_name} has, {missing[0]} for "
                "example; they are of another kind of model than config.json says, or incomplete"
            )
        return model.eval().requires_grad_(False)  # type: ignore[no-any-return]

    def image_processor(self) -> Any:
        """What turns an image into the model's input, on Pillow, which gives the same with torchvision and without."""
        return self.load("image processor", self._library.AutoImageProcessor.from_pretrained, backend="pil")

    def tokenizer(self, vocab_size: int) -> Any:
        """The tokenizer.

        Raises
        ------
        InvalidInputError
            If it is none that says where a token stands in the text, or has more tokens than the model.
        """
        tokenizer = self.load("tokenizer", self._library.AutoTokenizer.from_pretrained)
        # Where there are no files of one, transformers makes one that knows no words.
        if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
            raise InvalidInputError(f"the tokenizer of {self.name} has no words: tokenizer.json is missing, or empty")
        if max(tokenizer.get_vocab().values()) >= vocab_size:
            raise InvalidInputError(
                f"the tokenizer of {self.name} has {len(tokenizer):,} tokens, the model {vocab_size:,}; it is that of "
                "another model"
            )
        if not tokenizer.is_fast:
            raise InvalidInputError(
                f"the tokenizer of {self.name} cannot say where its tokens stand in a text; it needs a tokenizer.json"
            )
        return tokenizer


class _NotHere(Exception):
    """A file is missing, or what it should hold."""


def weights_fingerprint(model: torch.nn.Module, config: Any) -> str:
    """SHA-256, in hex, of a model's configuration and of up to 1,024 evenly spaced values of each of its tensors.

    The same for the same model in however many files, of whatever kind.
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
def _quiet(library: ModuleType) -> Iterator[None]:
    """Without the pages that transformers logs at each load: what matters of them is checked here."""
    logging = library.utils.logging
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
