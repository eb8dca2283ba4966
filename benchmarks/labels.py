"""Labels of synthetic items: which split each is in, and concepts that it has or lacks."""

import numpy as np

CONCEPTS = 80
SPLITS = {"train": 0.63, "cal": 0.2, "test": 0.17}
RAREST, COMMONEST = 0.02, 0.5  # shares of the items that have a concept
Items = dict[str, np.ndarray]


def labels(n_items: int, n_concepts: int = CONCEPTS) -> Items:
    """Columns of a table of items: an image's path, the split, and a column of 0 and 1 for each concept."""
    rng = np.random.default_rng(3)
    place = (rng.permutation(n_items) + 0.5) / n_items
    split = np.array(list(SPLITS))[np.searchsorted(np.cumsum(list(SPLITS.values()))[:-1], place)]
    items = {"image_path": np.array([f"{i:06}.png" for i in range(n_items)]), "split": split}
    for i, share in enumerate(np.linspace(RAREST, COMMONEST, n_concepts)):
        # Always some items with and some without, else there is no ROC.
        items[f"concept {i:02}"] = (rng.permutation(n_items) < max(1, round(share * n_items))).astype(np.int64)
    return items


def concepts(items: Items) -> Items:
    return {name: column for name, column in items.items() if name.startswith("concept ")}
