"""Tiny embeddings, written in every layout that people have. Needs torch."""

import json

import numpy as np
import safetensors.torch as safetensors_torch
import torch
import zarr


def rows(n_rows=11, d_in=6, dtype=torch.float32, seed=0):
    return torch.randn(n_rows, d_in, generator=torch.Generator().manual_seed(seed)).to(dtype)


def write_chunks(folder, x, sizes, base="X", wrap=lambda chunk: chunk):
    """Write what the pipeline writes: ``BASE_chunk_<i>.pt`` and their list."""
    entries = []
    for number, chunk in enumerate(torch.split(x, sizes)):
        name = f"{base}_chunk_{number}.pt"
        torch.save(wrap(chunk.clone()), folder / name)
        start = sum(sizes[:number])
        entries.append({"file": name, "start_idx": start, "end_idx": start + len(chunk), "shape": list(chunk.shape)})
    listed = {"chunks": entries, "total_samples": len(x), "embedding_dim": x.shape[1], "num_chunks": len(entries)}
    info = folder / f"{base}_chunks_info.json"
    info.write_text(json.dumps(listed))
    return info


def change(info, alter):
    listed = json.loads(info.read_text())
    alter(listed)
    info.write_text(json.dumps(listed))


def save_pt(content):
    def write(folder, x):
        torch.save(content(x), folder / "x.pt")
        return folder / "x.pt"

    return write


def save_npy(order="C", byteorder="="):
    def write(folder, x):
        array = x.numpy()
        np.save(folder / "x.npy", np.asarray(array, dtype=array.dtype.newbyteorder(byteorder), order=order))
        return folder / "x.npy"

    return write


def save_safetensors(key="", **others):
    def write(folder, x):
        name = key.removeprefix(":") or "embeddings"
        safetensors_torch.save_file({name: x, **others}, folder / "x.safetensors")
        return f"{folder / 'x.safetensors'}{key}"

    return write


def save_zarr(name="", zarr_format=3, shards=None):
    def write(folder, x):
        group = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=zarr_format)
        array = group.create_array(
            name or "embeddings", shape=x.shape, chunks=(4, 3), dtype=x.numpy().dtype, shards=shards
        )
        array[...] = x.numpy()
        group.create_array("labels", shape=(3,), dtype="int64")
        return folder / "x.zarr" / name

    return write


LAYOUTS = {
    "pt": ("pt", save_pt(lambda x: x)),
    "pt dict": ("pt", save_pt(lambda x: {"embeddings": x, "normalized_embeddings": x / 2, "ids": torch.arange(3)})),
    "pt normalized": ("pt", save_pt(lambda x: {"normalized_embeddings": x})),
    "pt transposed": ("pt", save_pt(lambda x: x.T.contiguous().T)),
    "pt parameter": ("pt", save_pt(torch.nn.Parameter)),
    "chunks": ("pt chunks", lambda folder, x: write_chunks(folder, x, [4, 1, 6])),
    "one chunk": ("pt chunks", lambda folder, x: write_chunks(folder, x, [11])),
    "chunks of dicts": (
        "pt chunks",
        lambda folder, x: write_chunks(folder, x, [5, 6], wrap=lambda chunk: {"embeddings": chunk}),
    ),
    "safetensors": ("safetensors", save_safetensors()),
    "safetensors key": ("safetensors", save_safetensors(":b", a=torch.zeros(2, 2))),
    "tensor": ("array", lambda _, x: x),
    "npy": ("npy", save_npy()),
    "npy big-endian": ("npy", save_npy(byteorder=">")),
    "npy Fortran": ("npy", save_npy(order="F")),
    "numpy": ("array", lambda _, x: x.numpy()),
    "zarr group": ("zarr", save_zarr()),
    "zarr array": ("zarr", save_zarr("acts")),
    "zarr 2": ("zarr", save_zarr("acts", zarr_format=2)),
    "zarr shards": ("zarr", save_zarr("acts", shards=(8, 6))),
    "zarr object": ("zarr", lambda folder, x: zarr.open_array(save_zarr("acts")(folder, x), mode="r")),
}
