"""From a path to opened activations: which format it is, and who reads it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import nearby
from saestore.formats.base import Opened
from saestore.formats.chunked import INFO_SUFFIX, find_files
from saestore.formats.dense_tensors import open_dense
from saestore.formats.scipy_npz import open_scipy
from saestore.formats.topk_tensors import KEYS, load_tensors, open_topk
from saestore.ingest.options import ImportOptions
from saestore.progress import Progress
from saestore.superactivators.file_names import PipelineName, named
from saestore.superactivators.unit_mapping import Mapping, read_mapping, recover_feature_ids

FORMATS = (
    "superactivators-sparse",
    "superactivators-dense",
    "superactivators-filtered",
    "superactivators-dense-filtered",
    "encoder-output",
    "delphi",
    "scipy",
    "anndata",
)
_FILTERED = ("superactivators-filtered", "superactivators-dense-filtered")


def open_input(options: ImportOptions, resources: ExitStack, progress: Progress) -> Opened:
    """Open the path of the options, in the format that they name or that the file shows.

    Raises
    ------
    NotFoundError
        Nothing is there.
    InvalidInputError
        The format is not known, or the file is not of it.
    """
    path = Path(options.path).expanduser()
    if options.format not in ("auto", *FORMATS):
        raise InvalidInputError(
            f"format {options.format!r}: use auto, or one of {', '.join(FORMATS)}.", code="unknown-format"
        )
    kind = _guess(path) if options.format == "auto" else options.format
    if options.pad_token is not None and kind != "delphi":
        raise InvalidInputError(f"pad_token belongs to delphi caches; {path} is {kind}.", code="unused-option")
    if options.sparse is not None and kind not in _FILTERED:
        raise InvalidInputError(
            f"sparse= belongs to {' and '.join(_FILTERED)}; {path} is {kind}.", code="unused-option"
        )
    sample_type = options.sample_type
    if kind in _FILTERED:
        return _open_filtered(options, path, kind, sample_type, progress)
    if kind == "delphi":
        from saestore.formats.delphi import open_delphi

        return open_delphi(path, options.pad_token, resources)
    if kind == "anndata":
        from saestore.formats.anndata import open_anndata

        return open_anndata(path, resources)
    if kind == "scipy":
        return open_scipy(path, resources)
    if kind == "superactivators-dense":
        return named(open_dense(path), path, sample_type)
    return named(open_topk(path, "superactivators" if kind == "superactivators-sparse" else kind), path, sample_type)


def _guess(path: Path) -> str:
    """The format of a file or folder, by its name and by what is in it."""
    if path.suffix == ".npz":
        return "scipy"
    if path.suffix == ".h5ad":
        return "anndata"
    if path.is_dir():
        return _guess_folder(path)
    if path.suffix == ".npy":
        return "superactivators-dense"
    if path.suffix not in (".pt", ".safetensors", "") and not path.name.endswith(INFO_SUFFIX):
        if not path.exists():
            raise NotFoundError(f"no file {path}; {nearby(path)}", code="missing-file")
        raise InvalidInputError(
            f"{path} does not show which format it has; pass --format, one of {', '.join(FORMATS)}.",
            code="unknown-format",
        )
    return _guess_tensors(path)


def _guess_folder(path: Path) -> str:
    if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        import zarr

        node = zarr.open(path, mode="r")
        return "anndata" if isinstance(node, zarr.Group) and "X" in node else "superactivators-dense"
    from saestore.formats.delphi import find_cache

    find_cache(path)
    return "delphi"


def _guess_tensors(path: Path) -> str:
    files = find_files(path)
    name = PipelineName.of(files.base)
    tensors = load_tensors(files.paths[0])
    for kind, (ids, values) in KEYS.items():
        if ids in tensors and values in tensors:
            if kind != "superactivators":
                return kind
            filtered = tensors.get("format") == "sparse_filtered" or (name is not None and name.kind == "filtered")
            return "superactivators-filtered" if filtered else "superactivators-sparse"
    dense = [tensor for tensor in tensors.values() if getattr(tensor, "ndim", 0) == 2]
    if not dense:
        names = ", ".join(sorted(filter(None, tensors))) or "no tensor"
        raise InvalidInputError(
            f"{files.paths[0]} holds {names}; activations are a tensor of rows by features, or indices and values, or "
            "top_indices and top_acts.",
            code="unknown-format",
        )
    # Made dense without filtering before, a column is its feature.
    if name is not None and name.kind == "dense" and dense[0].shape[1] != name.sae["d_sae"]:
        return "superactivators-dense-filtered"
    return "superactivators-dense"


def _open_filtered(options: ImportOptions, path: Path, kind: str, sample_type: str, progress: Progress) -> Opened:
    files = find_files(path)
    name = PipelineName.of(files.base)
    sparse = _sparse_of(options, path, name, kind)
    claimed = _mapping_of(files.paths[0], files.base, name)
    progress.line(f"finding out which feature each column of {path.name} is")
    dense = kind == "superactivators-dense-filtered"
    raw = named(open_dense(path) if dense else open_topk(path, "superactivators"), path, sample_type)
    if not dense:
        width = raw.n_features if claimed is None else len(claimed.units)
        raw = replace(raw, n_features=width)
        if width is None:
            raise InvalidInputError(
                f"{path} does not record how many columns it has, and its unit mapping is missing.",
                code="missing-n-features",
            )
    whole = named(open_topk(sparse, "superactivators"), sparse, sample_type)
    if options.n_features is not None:
        whole = replace(whole, n_features=options.n_features)
    return replace(recover_feature_ids(raw, whole, claimed, positive=dense), format=kind)


def _sparse_of(options: ImportOptions, path: Path, name: PipelineName | None, kind: str) -> Path:
    if options.sparse is not None:
        return Path(options.sparse).expanduser()
    beside = None if name is None else name.beside(path, "sparse")
    if beside is None:
        raise InvalidInputError(
            f"{path} is {kind}: its unit mapping is often wrong, and only the sparse file that it was made from shows "
            "which feature each column is; pass --sparse (sparse=).",
            code="missing-sparse",
        )
    return beside


def _mapping_of(file: Path, base: str, name: PipelineName | None) -> Mapping | None:
    beside = file.with_name(f"{base}_unit_mapping.json")
    path = beside if beside.is_file() else None if name is None else name.mapping(file)
    return None if path is None else read_mapping(path)
