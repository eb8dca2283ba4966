"""From a path to opened activations: which format it is, and who reads it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from saestore import layouts
from saestore.errors import InvalidInputError, NotFoundError, did_you_mean
from saestore.files import nearby
from saestore.formats.base import Opened, Source, load_format
from saestore.ingest.options import ImportOptions
from saestore.progress import Progress
from saestore.vocabulary import GENERAL_FORMATS, IMPORT_FORMATS

# Any tensor may be in such a file: it is dense activations where no other format knows it.
_TENSORS = (".pt", ".safetensors")


def open_input(options: ImportOptions, resources: ExitStack, progress: Progress) -> Opened:
    """Open the path of the options, in the format that they name or that the file shows.

    Raises
    ------
    NotFoundError
        Nothing is there.
    InvalidInputError
        The format is not known, the file is not of it, or an option belongs to another format.
    """
    path, name = Path(options.path).expanduser(), options.format
    if name not in ("auto", *IMPORT_FORMATS):
        raise InvalidInputError(
            f"format {name!r}: {did_you_mean(name, IMPORT_FORMATS)}Use auto, or one of {', '.join(IMPORT_FORMATS)}.",
            code="unknown-format",
        )
    chosen = load_format(recognise(path) if name == "auto" else name)
    own = {"sparse": options.sparse, "pad_token": options.pad_token}
    chosen.check_options([name for name, value in own.items() if value is not None], path)
    if chosen.open is None:
        raise RuntimeError(f"{chosen.name} has no reader")
    _, sample_type, *sae = options.parts
    return chosen.open(
        Source(
            path,
            resources,
            sample_type,
            sae[0] if sae else None,
            options.n_features,
            options.sparse,
            options.pad_token,
            progress.line,
        )
    )


def recognise(path: Path) -> str:
    """The format of a file or folder, by its name and its content.

    Raises
    ------
    NotFoundError
        Nothing is there.
    InvalidInputError
        No format recognises it.
    """
    for name in GENERAL_FORMATS:
        if load_format(name).recognise(path):
            return name
    known: str | None = layouts.ask("activation_format", path)
    if known is not None:
        return known
    if path.suffix in _TENSORS:
        return "dense"
    if not path.exists():
        raise NotFoundError(f"no file {path}; {nearby(path)}", code="no-such-file")
    raise InvalidInputError(
        f"{path} does not show its format; pass --format, one of {', '.join(IMPORT_FORMATS)}.", code="unknown-format"
    )
