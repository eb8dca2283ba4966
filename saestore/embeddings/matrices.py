"""One function per kind of file or array: open a matrix of embeddings without reading it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from saestore.embeddings.base import Matrix, Names, pick, stated_in
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError, require
from saestore.files import (
    LIBRARY_DAMAGE,
    MOST_BYTES,
    check_written,
    damage,
    existing_file,
    load_npy,
    load_pt,
    map_safetensors,
    open_zarr_node,
    plain_tensor,
    read_json,
    read_parquet,
    unmasked,
)
from saestore.npz import NpzFile
from saestore.tables.label_matrix import listed

_SAFETENSORS_DTYPES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint"}


def torch_matrix(tensor: torch.Tensor, where: str) -> Matrix:
    """Wrap a dense tensor, on any device."""
    if tensor.layout is not torch.strided:
        raise InvalidInputError(
            f"{where} is a tensor of layout {tensor.layout}; embeddings are dense: use .to_dense()", code="not-dense"
        )
    rows = plain_tensor(tensor, where)

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        out.copy_(rows[start:stop])

    return Matrix(tuple(rows.shape), str(rows.dtype).removeprefix("torch."), fill)


def numpy_matrix(array: np.ndarray) -> Matrix:
    """Wrap an array of any byte order and memory order."""
    array = unmasked(array, "numpy array")

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        np.copyto(out.numpy(), array[start:stop])

    return Matrix(array.shape, array.dtype.name, fill)


def zarr_matrix(array: zarr.Array[Any], where: str) -> Matrix:
    """Wrap a zarr array; one with missing chunks is refused, because zarr would read them as zeros."""
    check_written(array, where)
    facts = stated_in(array.attrs.asdict())
    return Matrix(tuple(array.shape), np.dtype(array.dtype).name, _decoding(array, where), facts)


def _decoding(array: Any, where: str) -> Callable[[torch.Tensor, int, int], None]:
    """Fill from an array of zarr or HDF5, of which the last chunks are kept: each slice would decode them again."""
    step = array.chunks[0] if array.chunks else 1
    kept: list[tuple[int, int, Any]] = [(0, 0, None)]

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        with damage(where, f"cannot be decoded at rows {start} to {stop}", *LIBRARY_DAMAGE):
            first, last, rows = kept[0]
            if not first <= start <= stop <= last:
                first, last = start // step * step, -(-stop // step) * step
                if (last - first) * out[:1].nbytes > MOST_BYTES:
                    first, last = start, stop
                rows = array[first:last]
                if last - first > stop - start:
                    kept[0] = first, last, rows
            np.copyto(out.numpy(), np.asarray(rows[start - first : stop - first]))

    return fill


def open_pt(path: Path, key: str | None = None, others: Names = ()) -> Matrix:
    """Open a ``.pt`` file that holds a tensor, or a dict with `key` or the one that `pick` finds."""
    loaded = load_pt(path, sparse=True)
    if isinstance(loaded, dict):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        choose = f"choose one as {path.name}:KEY"
        loaded = tensors[pick(shapes, key, str(path), choose, others)]
    if not isinstance(loaded, torch.Tensor):
        raise InvalidInputError(
            f"{path} holds a {type(loaded).__name__}; embeddings are a tensor or a dict with one", code="no-embeddings"
        )
    return torch_matrix(loaded, str(path))


def open_npy(path: Path, _key: str | None = None, _others: Names = ()) -> Matrix:
    """Open a ``.npy`` file."""
    return numpy_matrix(load_npy(path))


def open_npz(path: Path, key: str | None = None, others: Names = ()) -> Matrix:
    """Open an array of a ``.npz`` file: `key`, or the one that `pick` finds. It is read whole."""
    with ExitStack() as resources:
        archive = NpzFile(path, resources)
        shapes = {name: archive[name].shape for name in archive.names}
        return numpy_matrix(archive.read(pick(shapes, key, str(path), f"choose one as {path.name}:KEY", others)))


def open_h5(path: Path, key: str | None = None, others: Names = ()) -> Matrix:
    """Open a dataset of an HDF5 file: `key`, a path in it, or the one that `pick` finds."""
    h5py = require("h5py", "anndata", f"reading {path}")
    existing_file(path)
    with damage(path, "is damaged or not an HDF5 file", *LIBRARY_DAMAGE):
        file = h5py.File(path, "r")
        shapes: dict[str, tuple[int, ...]] = {}
        file.visititems(
            lambda name, node: shapes.update({name: node.shape} if getattr(node, "shape", None) is not None else {})
        )
    name = pick(shapes, None if key is None else key.strip("/"), str(path), f"choose one as {path.name}:KEY", others)
    dataset = file[name]
    check_written(dataset, f"{path}:{name}")
    facts = stated_in({**file.attrs, **dataset.attrs})
    return Matrix(tuple(dataset.shape), dataset.dtype.name, _decoding(dataset, str(path)), facts)


def open_parquet(path: Path, key: str | None = None, others: Names = ()) -> Matrix:
    """Open a column of equally long lists of floats, or of lists of them, of a Parquet file: `key`, or the only one.

    It is read whole.
    """
    arrow = require("pyarrow", "arrow", f"reading {path}")
    table = read_parquet(path, None if key is None else [key])
    if key is not None and key not in table.column_names:
        known = require("pyarrow.parquet", "arrow", f"reading {path}").read_schema(path).names
        raise InvalidInputError(f"{path} has no column {key!r}; it has {listed(known, 8)}", code="no-such-tensor")
    kinds = (arrow.types.is_list, arrow.types.is_large_list, arrow.types.is_fixed_size_list)

    def leaf(of: Any) -> Any:
        of = getattr(of, "storage_type", of)  # of a type that another package adds, such as datasets' Array2D
        return leaf(of.value_type) if any(kind(of) for kind in kinds) else of

    own = [field for field in table.schema if field.name not in others and leaf(field.type) != field.type]
    floats = [field.name for field in own if key is not None or arrow.types.is_floating(leaf(field.type))]
    lists = floats or [field.name for field in own]  # of whole numbers, which may be activations
    if len(lists) != 1:
        raise InvalidInputError(
            f"{path} has {', '.join(lists) or 'no column of lists'}; choose one as {path.name}:COLUMN",
            code="no-embeddings",
        )
    values = table[lists[0]].combine_chunks()
    values = getattr(values, "storage", values)
    shape = [len(values)]
    while any(kind(values.type) for kind in kinds):
        lengths = values.value_lengths().unique()
        if len(lengths) != 1 or values.null_count:
            raise InvalidInputError(
                f"{path}: the lists of {lists[0]} differ in length or are missing", code="bad-shape"
            )
        shape.append(lengths[0].as_py())
        values = values.flatten()
    matrix = numpy_matrix(values.to_numpy(zero_copy_only=False).reshape(shape))
    return replace(matrix, stated=stated_in(table.schema.metadata))


def open_dataset(data: Any, where: str) -> Matrix:
    """Open a `datasets.Dataset`, such as SAELens's cached activations: its column of arrays or lists of floats."""
    shapes = {}
    for name, feature in data.features.items():
        shape, value = getattr(feature, "shape", None), feature
        while hasattr(value, "feature"):  # a list of lists
            value = value.feature
        if not str(getattr(value, "dtype", "")).startswith("float") or not len(data):
            continue
        if shape is None and value is not feature:
            shape = np.shape(data.with_format("numpy")[0][name])
        if shape is not None:
            shapes[name] = (len(data), *shape)
    name = pick(shapes, None, where, "keep one column of activations (select_columns)")
    rows = data.select_columns([name]).with_format("numpy")
    dtype = np.asarray(rows[:1][name]).dtype.name

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        values = np.asarray(rows[start:stop][name])
        if values.shape != tuple(out.shape) or values.dtype.kind != "f":
            raise InvalidInputError(
                f"{where}: the lists of {name} differ in length between rows {start:,} and {stop:,}", code="bad-shape"
            )
        np.copyto(out.numpy(), values)

    hook = {"hook": name} if "hook_" in name else {}  # SAELens names the column after the hook
    return Matrix(shapes[name], dtype, fill, hook)


def open_arrow_folder(path: Path) -> Matrix:
    """Open a folder of ``Dataset.save_to_disk``."""
    library = require("datasets", "sae", f"reading {path}")
    with damage(path, "is damaged", *LIBRARY_DAMAGE):
        return open_dataset(library.load_from_disk(str(path)), str(path))


def saev_parts(path: Path, layer: int | None) -> tuple[list[Matrix], tuple[int, int]]:
    """Open saev's shards, ``acts*.bin`` beside ``metadata.json``: one layer, CLS left out.

    Returns matrices of (images, patches, d_vit), and the number of patches of an image and the width.
    """
    facts = read_json(path / "metadata.json")
    try:
        layers, width = list(facts["layers"]), int(facts.get("d_vit", facts.get("d_model")))
        n_patches = int(facts.get("n_patches_per_img", facts.get("content_tokens_per_example")))
        n_images, cls = int(facts.get("n_imgs", facts.get("n_examples"))), int(bool(facts["cls_token"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"{path} looks like shards of saev, but metadata.json lacks {error}", code="bad-metadata"
        ) from error
    if layer is None and len(layers) == 1:
        layer = layers[0]
    if layer not in layers:
        raise InvalidInputError(
            f"{path} has the layers {', '.join(map(str, layers))}; choose one as {path}:LAYER", code="unknown-layer"
        )
    per_image, found, parts = len(layers) * (n_patches + cls) * width, 0, []
    for file in sorted(path.glob("acts*.bin")):
        values = np.memmap(file, np.dtype("<f4"), "r")
        if len(values) % per_image:
            raise InvalidInputError(f"{file} is truncated: it does not hold whole images", code="damaged-file")
        whole = values.reshape(-1, len(layers), n_patches + cls, width)
        shard, rest = whole[: n_images - found], whole[n_images - found :]
        if rest.any():  # a shard may be longer than its images, with zeros
            raise InvalidInputError(
                f"{path}: metadata.json states {n_images:,} images of {len(layers)} layers and {n_patches + cls} "
                f"tokens, and {file.name} holds more; one of them is wrong",
                code="damaged-file",
            )
        matrix = numpy_matrix(shard[:, layers.index(layer), cls:])
        parts.append(replace(matrix, stated=stated_in({"model": facts.get("vit_ckpt", facts.get("ckpt"))})))
        found += len(shard)
    if found != n_images:
        raise InvalidInputError(
            f"{path}: metadata.json states {n_images:,} images, the shards hold {found:,}", code="damaged-file"
        )
    return parts, (n_patches, width)


def open_safetensors(path: Path, key: str | None = None, others: Names = ()) -> Matrix:
    """Open a tensor of a ``.safetensors`` file: `key`, or the one that `pick` finds."""
    opened = map_safetensors(path)
    shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    name = pick(shapes, key, str(path), f"choose one as {path.name}:KEY", others)
    rows = opened.get_slice(name)

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        out.copy_(rows[start:stop])

    dtype = rows.get_dtype()  # such as BF16
    kind = dtype.rstrip("0123456789")
    name = _SAFETENSORS_DTYPES.get(kind, kind.lower()) + dtype.removeprefix(kind)
    return Matrix(tuple(rows.get_shape()), name, fill, stated_in(opened.metadata()))


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr array or group, of format 2 or 3."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_zarr(location: str) -> Matrix:
    """Open a zarr array, or a group's array that `pick` finds, at a path or URL."""
    try:
        node = open_zarr_node(location)
    except InvalidInputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise NotFoundError(f"no zarr array or group at {location}", code="no-such-file") from error
        raise
    except ImportError as error:
        raise MissingDependencyError(f"reading {location} needs a package for this kind of URL: {error}") from error
    if isinstance(node, zarr.Group):
        arrays = dict(sorted(node.arrays()))
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        name = pick(shapes, None, location, f"choose one as {location.rstrip('/')}/NAME")
        matrix = zarr_matrix(arrays[name], f"{location.rstrip('/')}/{name}")
        return replace(matrix, stated={**stated_in(node.attrs.asdict()), **matrix.stated})
    return zarr_matrix(node, location)
