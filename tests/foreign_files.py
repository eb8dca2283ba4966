"""Files of activations as other programs write them, small, each with its traps in the wild. Needs torch."""

import json
from itertools import pairwise

import numpy as np
import torch

KEPT = [7, 2, 9, 4]  # as a set of numbers comes out of Python: in no order


def top_rows(n=90, width=40, k=6, seed=0, *, negative=True, short=True):
    """Dense activations with at most k in a row, as a TopK SAE gives them; some negative, some rows short or empty."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((n, width), np.float32)
    for row in dense:
        count = int(rng.integers(0, k + 1)) if short else k
        features = rng.choice(width, count, replace=False)
        row[features] = rng.gamma(2, size=count) * (rng.choice([1, 1, -1], count) if negative else 1)
    return dense


def as_top_k(dense, k, seed=0):
    """What `torch.topk` makes of it: descending, padded with zeros whose feature ids mean nothing."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, dense.shape[1], (len(dense), k))
    values = np.zeros((len(dense), k), dense.dtype)
    for i, row in enumerate(dense):
        features = np.flatnonzero(row)
        order = features[np.argsort(-row[features], kind="stable")]
        # Padding stands before the negative values, as the largest k of a dense row would have it.
        place = np.r_[np.arange((row > 0).sum()), np.arange(k - (row < 0).sum(), k)]
        indices[i, place], values[i, place] = order, row[order]
    return torch.from_numpy(indices), torch.from_numpy(values)


def save_sparse(folder, dense, k, name="clipscope_patch_sparse_layer22", *, sizes=None, kind="sparse_topk", **info):
    """``SAE_Activations_Sparse/<dataset>/``: one file, or chunks whose ``end_idx`` is one batch short."""
    folder.mkdir(parents=True, exist_ok=True)
    indices, values = as_top_k(dense, k)
    if sizes is None:
        torch.save({"indices": indices, "values": values, "format": kind, "topk": k}, folder / f"{name}.pt")
        return folder / f"{name}.pt"
    chunks, start = [], 0
    for number, size in enumerate(sizes):
        file = f"{name}_chunk_{number}.pt"
        part = slice(start, start + size)
        torch.save({"indices": indices[part].clone(), "values": values[part].clone(), "format": kind, "topk": k},
                   folder / file)  # fmt: skip
        last = number == len(sizes) - 1
        chunks.append(
            {"file": file, "start_idx": start, "end_idx": start + size - (0 if last else 3), "n_samples": size}
        )
        start += size
    return write_info(folder, name, chunks, total_samples=start, topk=k, format=kind, **info)


def write_info(folder, name, chunks, **info):
    path = folder / f"{name}_chunks_info.json"
    path.write_text(json.dumps({"chunks": chunks, **info, "num_chunks": len(chunks)}))
    return path


def save_mapping(folder, name, kept, width):
    """Written from the sorted list, whatever the columns are."""
    units = {"unit_id_to_new_idx": {str(unit): place for place, unit in enumerate(sorted(kept))}}
    path = folder / f"{name}_unit_mapping.json"
    path.write_text(json.dumps({"kept_units": sorted(kept), **units, "n_original": width, "n_filtered": len(kept)}))
    return path


def save_filtered(folder, dense, k, kept=KEPT, name="clipscope_patch_filtered", **how):
    """``SAE_Activations_Filtered/<dataset>/``: columns in the order of `kept`, the mapping in that of the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    save_mapping(folder, name, kept, dense.shape[1])
    return save_sparse(folder, dense[:, kept], k, name, kind="sparse_filtered", **how)


def save_dense(folder, dense, name="clipscope_patch", *, sizes=None):
    """``SAE_Activations/<dataset>/``: float32 tensors, one or in chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    if sizes is None:
        torch.save(torch.from_numpy(dense), folder / f"{name}.pt")
        return folder / f"{name}.pt"
    chunks, start = [], 0
    for number, size in enumerate(sizes):
        file = f"{name}_chunk_{number}.pt"
        torch.save(torch.from_numpy(dense[start : start + size].copy()), folder / file)
        chunks.append({"file": file, "start_idx": start, "end_idx": start + size, "n_samples": size})
        start += size
    return write_info(folder, name, chunks, total_samples=start, feature_dim=dense.shape[1])


def pipeline(folder, dense, k, kept=KEPT, dataset="CLEVR"):
    """All three of them, where the pipeline has them; dense keeps positive values only. Returns their paths."""
    filtered = save_filtered(folder / "SAE_Activations_Filtered" / dataset, dense, k, kept)
    positive = np.maximum(dense[:, kept], 0)
    return (
        save_sparse(folder / "SAE_Activations_Sparse" / dataset, dense, k),
        filtered,
        save_dense(folder / "SAE_Activations_Dense" / dataset, positive, "clipscope_patch_dense"),
    )


def save_delphi(folder, dense, ctx, splits=3, *, tokens=None, seed=0):
    """A cache of one hookpoint as `LatentCache.save_splits` writes it (delphi 0.1.3), in plain numpy."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    n, width = dense.shape
    if tokens is None:
        tokens = np.random.default_rng(seed).integers(1, 1000, (n // ctx, ctx))
    bounds = np.linspace(0, width, splits + 1).astype(int)
    for start, stop in pairwise(bounds.tolist()):
        rows, latents = np.nonzero(dense[:, start:stop])
        values = dense[:, start:stop][rows, latents].astype(np.float16)
        locations = np.stack([rows // ctx, rows % ctx, latents], axis=1)
        narrow = locations.max(initial=0) < 1 << 16
        content = {
            "locations": locations.astype(np.uint16 if narrow else np.uint32),
            "activations": values,
            "tokens": tokens,
        }
        save_file(content, folder / f"{start}_{stop - 1}.safetensors")
    config = {"dataset_repo": "some/texts", "dataset_split": "train", "cache_ctx_len": ctx, "n_splits": splits,
              "n_tokens": n, "model_name": "some/model"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
