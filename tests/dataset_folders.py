"""The folders of the seven known data sets, small, each laid out as the research pipeline leaves it. Needs torch."""

import csv
from dataclasses import dataclass

import numpy as np
import torch
from build_helpers import near
from embedding_files import write_chunks

IMAGE, TEXT = "_inputsize_(224, 224).pt", "_inputsize_('text', 'text2').pt"
PATCHES = 256
BLOCKS = ["train"] * 3 + ["cal"] * 2 + ["test"]
INTERLEAVED = ["train", "test", "cal", "train", "cal", "test"]
N_ITEMS = len(BLOCKS)


@dataclass(frozen=True)
class Layout:
    """How the folder of a data set differs from that of the others."""

    modality: str = "image"
    splits: tuple = tuple(INTERLEAVED)
    concepts: tuple = ("sky", "road")
    folder: str = ""  # a prefix of its folder under Data/
    concepts_first: bool = False
    wrap: object = staticmethod(lambda rows: rows)  # what a .pt holds
    chunk: int = 0  # rows of the first of its chunks; 0: one file
    whole: bool = False  # ground truth of all splits in one file


LAYOUTS = {
    "CLEVR": Layout(splits=tuple(BLOCKS), concepts=("color::blue", "shape::cube"), chunk=700),
    "Coco": Layout(
        splits=tuple(BLOCKS), concepts=("traffic light", "dog"), concepts_first=True, wrap=lambda x: {"embeddings": x}
    ),
    "Broden-Pascal": Layout(chunk=4000, wrap=lambda x: {"normalized_embeddings": x}),
    "Broden-OpenSurfaces": Layout(whole=True),
    "Sarcasm": Layout("text", concepts=("sarcasm", "irony")),
    "GoEmotions": Layout("text", concepts=("joy", "anger"), folder="Augmented_", chunk=500),
    "iSarcasm": Layout("text", folder="Augmented_", concepts=("sarcasm", "satire"), wrap=lambda x: {"embeddings": x}),
}
# Tokens of each word of each text. The last but one is one of more tokens than embedding keeps; see `counts`.
WORDS = [[1, 2, 1], [3], [], [1] * 7, [2] * 300, [1, 1]]


def counts(*, cut=512):
    """What the file of token counts holds, here with the long text cut as its embeddings are, and its pointers."""
    words = [list(text) for text in WORDS]
    if cut is not None:
        words = [text if sum(text) <= cut else [2] * (cut // 2) for text in words]
    return words, np.concatenate([[0], np.cumsum([sum(text) for text in words])])


@dataclass(frozen=True)
class Laid:
    """What was laid out, as the set must have it."""

    name: str
    layout: Layout
    rows: dict  # sample type -> tensor
    ptr: np.ndarray
    concepts: dict  # of items: bool (n_items,)
    samples: dict  # of patches or tokens: bool (n_samples,)


def lay_out(data, scratch, name, sae):
    """Write metadata and ground truth of a known data set under `data`, its embeddings under `scratch`."""
    layout, seed = LAYOUTS[name], sorted(LAYOUTS).index(name)
    text, n_items = layout.modality == "text", len(layout.splits)
    ptr = counts()[1] if text else np.arange(n_items + 1) * PATCHES
    many = "token" if text else "patch"
    rows = {many: near(sae, int(ptr[-1]), seed=seed), "cls": near(sae, n_items, seed=50 + seed)}
    if text:
        rows = {sample_type: x.half() for sample_type, x in rows.items()}
    _embeddings(scratch / "Embeddings" / name, layout, rows)
    concepts = {name: np.arange(n_items) % 2 == i for i, name in enumerate(layout.concepts)}
    # Of the items that have it, and of these every third row.
    labels = {name: np.repeat(mask, np.diff(ptr)) & (np.arange(ptr[-1]) % 3 == 0) for name, mask in concepts.items()}
    metadata(data / "Data" / f"{layout.folder}{name}", layout, concepts)
    truth = data / "GT_Samples" / name
    truth.mkdir(parents=True, exist_ok=True)
    write_truth(truth, layout, "samples", concepts, np.array(layout.splits))
    kind = "patches" if layout.whole else "patch"
    write_truth(truth, layout, kind, labels, np.repeat(layout.splits, np.diff(ptr)))
    if text:
        torch.save(counts()[0], truth / f"token_counts{TEXT}")
    return Laid(name, layout, rows, ptr, concepts, labels)


def _embeddings(folder, layout, rows):
    folder.mkdir(parents=True, exist_ok=True)
    model, percent = ("Gemma", 81) if layout.modality == "text" else ("CLIP", 92)
    for sample_type, x in rows.items():
        kind = "cls" if sample_type == "cls" else "patch"
        base = f"{model}_SAE_{kind}_embeddings_percentthrumodel_{percent}"
        if layout.chunk:
            first = min(layout.chunk, len(x))
            write_chunks(folder, x, [first, len(x) - first][: 1 + (first < len(x))], base=base, wrap=layout.wrap)
        else:
            torch.save(layout.wrap(x), folder / f"{base}.pt")


def metadata(folder, layout, concepts):
    """Write a ``metadata.csv`` with the columns in the order of the data set."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(layout.splits)
    labels = {name: mask.astype(int).tolist() for name, mask in concepts.items()}
    if layout.modality == "text":
        table = {**labels, "text_path": [f"texts/{i}.txt" for i in range(n)], "split": layout.splits}
    elif layout.concepts_first:
        table = {**labels, "image_path": [f"{i:012}.jpg" for i in range(n)], "split": layout.splits}
    else:
        table = {"image_path": [f"images/{i}.png" for i in range(n)], **labels, "class": ["thing"] * n}
        table["split"] = layout.splits
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def write_truth(folder, layout, kind, labels, splits):
    """Write which items (``samples``) or rows have each concept, a file for each split or one for all."""
    suffix = TEXT if layout.modality == "text" else IMAGE
    for split in (None,) if layout.whole else ("train", "cal", "test"):
        chosen = {
            name: np.flatnonzero(mask & (True if split is None else splits == split)).tolist()
            for name, mask in labels.items()
        }
        torch.save(chosen, folder / f"gt_{kind}_per_concept{'' if split is None else f'_{split}'}{suffix}")
