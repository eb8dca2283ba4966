"""`saestore.export`: an activation set, or a part of it, as a file that another program reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError
from saestore.exporting.files import Output
from saestore.exporting.scipy_npz import write_scipy
from saestore.exporting.selection import Selected

if TYPE_CHECKING:
    from saestore.activations import ActivationSet

FORMATS = ("scipy",)
_SUFFIXES = {".npz": "scipy"}


Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    format
        Its format.
    n_samples, n_features, nnz
        What was written of the set.
    files
        The files or folders.
    """

    format: str
    n_samples: int
    n_features: int
    nnz: int
    files: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "format": self.format,
            "n_samples": self.n_samples,
            "n_features": self.n_features,
            "nnz": self.nnz,
            "files": [str(path) for path in self.files],
        }


def export(
    acts: ActivationSet,
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    where: Any = None,
    features: Any = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write an activation set, or the part that is asked for, in another program's format.

    Parameters
    ----------
    acts
        The set, complete.
    path
        The file or folder to write.
    format
        One of `saestore.exporting.FORMATS`; by default the one that the suffix of `path` says.
    where
        Only samples that fulfil this, as in ``acts.top_samples``.
    features
        Only these: an int, a slice, a list or array of ints, or a boolean mask.
    overwrite
        Replace what is there.
    progress
        Called with a line of text now and then.

    Returns
    -------
    Exported
        What was written, and where.

    Raises
    ------
    InvalidInputError
        Nothing is selected, the format cannot hold the values, or the set is not complete.
    StoreConflictError
        Something is there under this name, and `overwrite` is False.
    StoreWriteError
        The place is full or read-only; nothing appears under the name that was asked for.
    MissingDependencyError
        The format needs a package that is not installed.

    Notes
    -----
    Memory: a block of about a million non-zeros, and some 16 bytes a sample.
    """
    target = Path(path).expanduser()
    name = _format(format, target)
    selected = Selected.of(acts, where, features, progress)
    with Output(target, [target], overwrite=overwrite) as output:
        output.write(target.name, lambda place: write_scipy(selected, place))
        files = output.publish([target.name])
    return Exported(name, selected.n_samples, selected.n_features, selected.written, tuple(files))


def _format(name: str, target: Path) -> str:
    if name == "auto":
        found = _SUFFIXES.get(target.suffix)
        if found is None:
            raise InvalidInputError(
                f"{target} does not say which format it should have (known are {', '.join(_SUFFIXES)}); pass --format "
                f"(format=), one of {', '.join(FORMATS)}."
            )
        return found
    if name not in FORMATS:
        raise InvalidInputError(f"format {name!r}: use one of {', '.join(FORMATS)}.")
    return name
