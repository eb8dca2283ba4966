"""From a path to opened activations: which format it is, and who reads it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from saestore import layouts
from saestore.errors import InvalidInputError, NotFoundError, did_you_mean
from saestore.files import nearby
from saestore.formats.base import Opened, Source, load_format
from saestore.vocabulary import GENERAL_FORMATS, IMPORT_FORMATS

if TYPE_CHECKING:
    from saestore.ingest.import_options import Progress, Request

# Any tensor may be in such a file: it is dense activations where no other format knows it.
_TENSORS = (".pt", ".safetensors")


def open_input(request: Request, resources: ExitStack, progress: Progress | None) -> Opened:
    """Open the path of a request, in the format that it names or that the file shows.

    Raises
    ------
    NotFoundError
        Nothing is there.
    InvalidInputError
        The format is not known, the file is not of it, or an option belongs to another format.
    """
    path, name = Path(request.path).expanduser(), request.format
    if name not in ("auto", *IMPORT_FORMATS):
        raise InvalidInputError(
            f"format {name!r}: {did_you_mean(name, IMPORT_FORMATS)}Use auto, or one of {', '.join(IMPORT_FORMATS)}.",
            code="unknown-format",
        )
    chosen = load_format(recognise(path) if name == "auto" else name)
    options = {"sparse": request.sparse, "pad_token": request.pad_token}
    chosen.check_options([option for option, value in options.items() if value is not None], path)
    if chosen.open is None:
        raise RuntimeError(f"{chosen.name} has no reader")
    _, sample_type, *sae = request.set_path.strip("/").split("/")
    return chosen.open(
        Source(
            path,
            resources,
            sample_type,
            sae[0] if sae else None,
            request.n_features,
            request.sparse,
            request.pad_token,
            progress,
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
