"""`saestore.export`: an activation set, or a part of it, as a file that another program reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError
from saestore.formats.atomic_output import Output
from saestore.formats.delphi_write import write_delphi
from saestore.formats.selection import Selected
from saestore.formats.write_tensors import names_of, write_dense, write_sparse

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

FORMATS = ("scipy", "anndata", "parquet", "delphi", "superactivators-sparse", "superactivators-dense")
_SUFFIXES = {".npz": "scipy", ".h5ad": "anndata", ".zarr": "anndata", ".parquet": "parquet"}


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
    notes
        What was changed on the way.
    """

    format: str
    n_samples: int
    n_features: int
    nnz: int
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "format": self.format,
            "n_samples": self.n_samples,
            "n_features": self.n_features,
            "nnz": self.nnz,
            "files": [str(path) for path in self.files],
            "notes": list(self.notes),
        }


def export(
    acts: SetReader,
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    where: Any = None,
    features: Any = None,
    tokens: Any = None,
    pad_token: int = 0,
    clip: bool = False,
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
        One of `saestore.formats.export.FORMATS`; by default the one that the suffix of `path` says.
    where
        Only samples that fulfil this, as in ``acts.top_samples``.
    features
        Only these: an int, a slice, a list or array of ints, or a boolean mask.
    tokens
        For ``delphi``: the token id of every sample of the set, an array, ``file.npy`` or ``file.npz:name``.
    pad_token
        For ``delphi``: what stands where an item has no token, and everywhere without `tokens`.
    clip
        For ``delphi``, which keeps float16: write what is beyond 65,504 as that, instead of refusing it.
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
    Memory: a block of about a million non-zeros, and some 40 bytes a sample; for ``.pt`` files 512 MiB, since torch
    writes a tensor whole.
    """
    target = Path(path).expanduser()
    name = _format(format, target)
    if name != "delphi" and (tokens is not None or pad_token != 0 or clip):
        raise InvalidInputError(f"tokens, pad_token and clip belong to delphi caches; {target} is to be {name}.")
    selected = Selected.of(acts, where, features, progress)
    base = target.name.removesuffix(".pt") if name.startswith("superactivators") else None
    existing = [target] if base is None else names_of(target.parent, base)
    notes: list[str] = []
    with Output(target, existing, overwrite=overwrite) as output:
        if base is not None:
            write = write_sparse if name == "superactivators-sparse" else write_dense
            files = output.publish(output.write_all(lambda folder: write(selected, folder, base)))
        else:
            if name == "delphi":
                output.write(lambda place: notes.extend(write_delphi(selected, place, tokens, pad_token, clip=clip)))
            else:
                output.write(lambda place: _writer(name)(selected, place))
            files = output.publish([target.name])
    return Exported(name, selected.n_samples, selected.n_features, selected.written, tuple(files), tuple(notes))


def _writer(name: str) -> Callable[[Selected, Path], None]:
    """What writes a format of one file or folder; imported here, since most of them need a package of their own."""
    if name == "scipy":
        from saestore.formats.scipy_npz import write_scipy

        return write_scipy
    if name == "parquet":
        from saestore.formats.parquet import write_parquet

        return write_parquet
    from saestore.formats.anndata_write import write_anndata

    return write_anndata


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
