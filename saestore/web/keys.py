"""The keys of the pages' JSON twins; ``docs/explorer-json.md`` is made of them: ``python -m saestore.web.keys``."""

from __future__ import annotations

import sys

from saestore.vocabulary import SCORES

_SET = {"set": "path of the set"}
_ROWS = {"limit, offset": "rows at most, and rows before the first"}
_NAMES = {"feature, name": "number of the feature, and its name or null"}
_MATCH = {
    "other_feature, other_name": "the feature of the other set",
    "score": "the metric",
    "n_both": "samples on which both are active; null of pairs one to one",
}


def _of(key: str, parts: dict[str, str]) -> dict[str, str]:
    """Keys of the objects in a list."""
    return {", ".join(f"{key}[].{name}" for name in names.split(", ")): text for names, text in parts.items()}


_EXAMPLE = {
    "sample, item, position": "the strongest sample, its item, and which patch or token of it",
    "key, split": "key and split of the item",
    "activation": "of the sample",
    "heat": "`[position, activation]` of each active sample of the item",
    "tokens": "of texts: `position`, `text` and `activation` of each piece",
    "more": "of texts: whether the text goes on beyond the tokens",
    "image": "of images: `url`, `width`, `height`, `box` and `grid` of the patches as shares, `assumed_squashed`, "
    "`missing` where there is no image",
    "mask, precision, iou": "with `concept`: positions that have it, and how well the active ones fit them",
}

KEYS: dict[str, tuple[str, dict[str, str]]] = {
    "store": (
        "/",
        {
            "store": "the store",
            **_of("sets", {"set, n_samples, n_features, n_items, nnz": "path and sizes", "l0": "active per sample",
                           "sae, state": "the SAE and the progress, in words", "complete": "whether it is built"}),
            "damaged": "message by path of what cannot be read",
        },
    ),
    "set": (
        "/{set}",
        {
            **_SET,
            "n_samples, n_features, n_items, nnz, dead_features": "sizes; features that are never active",
            "l0, stored, dtype": "active per sample; bytes, in words; type of the activations",
            "state, complete": "the progress in words; whether it is built",
            "sae, source": "what is recorded of both",
            "density": "`left`, `right` (logarithms to the base of 10) and `count` of bins of firing rates",
            "splits": "values of the column `split`",
            "concepts": "names of the concepts of items and of samples",
            "columns": "names of the columns of items, samples and features",
            "busiest": "the features that fire most, as rows of the table of features",
            "others": "other sets of the store",
        },
    ),
    "features": (
        "/{set}/features",
        {
            **_SET,
            "where, sort, concept": "the question",
            "waiting": "whether the scores with `concept` are still being computed, so that it is worth asking again",
            **_ROWS,
            "n_features, n_matching": "all features, and those that fulfil `where`",
            "columns, numeric": "names of the columns, and of those with numbers",
            "rows": "by name of the column; null where unknown",
            "density": "as of the set, over the matching features",
            "known, concepts": "names for conditions, and for `concept`",
        },
    ),
    "feature": (
        "/{set}/features/{feature}",
        {
            **_SET,
            **_NAMES,
            "n_features, splits": "how many there are; the splits of the items",
            "known": "all columns of the table of features; null where unknown",
            "where, level, from, n, offset, seed, concept, context, metric, bins": "the question, as it was understood",
            "stats": "`n_samples` and the statistics of `acts.stats`, over the condition",
            "histogram": "`left`, `right` and `count` of each bin, over samples or items as `level` asks",
            "n_candidates": "active samples or items that `from` chooses among, else null",
            "examples": "the examples",
            **_of("examples", _EXAMPLE),
            "strongest": "largest magnitude in the examples, which has the darkest tint",
            "concepts": "the best scores",
            **_of("concepts", {"concept, level": "what was scored", "where": "over which samples",
                               "split": "the splits that these samples are of, null without splits",
                               "roc_auc, average_precision, f1, threshold": "the scores",
                               "n_positive, n_negative": "over how many",
                               "roc_auc_low, roc_auc_high": "ends of the 95 % interval, over items: by the formulas "
                               "of DeLong and Obuchowski, or with `intervals` by the bootstrap"}),
            "intervals": "whether the bootstrap was asked for",
            "similar": "the neighbours",
            **_of("similar", {**_NAMES, "score": "the metric", "n_both": "samples of both; null for `decoder`"}),
            "similar_note, metrics": "why there is none; what `metric` can be",
            "other, others": "the other set, and those that it can be",
            "matches": "the most alike features of the other set",
            **_of("matches", _MATCH),
            "matches_note": "why there is none",
            "sample_concepts, where_names": "concepts that can be outlined, names for conditions",
        },
    ),
    "items": (
        "/{set}/items",
        {
            **_SET,
            "where": "the question",
            **_ROWS,
            "n_items, n_matching": "all items, and those that fulfil `where`",
            "columns, rows": "names of the columns, and rows by them",
            "images, known": "whether items are images; names for conditions",
        },
    ),
    "item": (
        "/{set}/items/{item}",
        {
            **_SET,
            "item, key, n_samples, n_items": "the item, how many samples it has, how many items there are",
            "position, feature, concept, n": "the question",
            "sample": "the sample at `position`, else null",
            "columns": "what is known of the item",
            "example": "as an example of a feature; a token also has the `url` of its page",
            "features": "the strongest of the item, or of one position",
            **_of("features", {**_NAMES, "activation, position": "the largest, and where that is"}),
            "sample_concepts": "concepts that can be outlined",
        },
    ),
    "concepts": (
        "/{set}/concepts",
        {
            **_SET,
            **_of("rows", {"concept, level": "the concept, of items or samples",
                           "n_positive, n_negative, n_unknown": "how many have it, do not have it, are not known"}),
        },
    ),
    "concept": (
        "/{set}/concepts/{concept}",
        {
            **_SET,
            "concept, level": "the concept, of items or samples",
            "by, n, choose, show": "the question",
            "same": "whether features are chosen and scored on the same rows",
            "n_positive, n_unknown, n_rows": "of all rows",
            "shown_on": "`n_positive` and `n_negative` of the rows that scores are of",
            **_of("rows", {**_NAMES, "chosen_by": "the score `by`, where chosen",
                           ", ".join(SCORES): "the scores where shown"}),
        },
    ),
    "compare": (
        "/{set}/compare",
        {
            **_SET,
            "other, metric, match": "the question; `match` is `best` or `one-to-one`",
            **_ROWS,
            "choices": "the other sets",
            "n_pairs, partial": "pairs of features; whether only the features of the page were matched",
            "waiting": "whether all are being matched, so that it is worth asking again",
            "n_matches": "features with a match, or pairs; if partial, active features",
            "n_unmatched, n_other_unmatched": "active features of each set in no match; null if partial",
            "unmatched, other_unmatched": "`feature` and `name` of those that fire most",
            "mean_score, share": "of pairs one to one, over the active features of the smaller set: the mean score, "
            "without a partner 0, and the share with a score of at least 0.7; else null",
            **_of("rows", {**_NAMES, **_MATCH, "frac_nonzero, other_frac_nonzero": "firing rates"}),
            "points": "`feature`, and the firing rates `across` and `down`, of points of the scatter",
        },
    ),
    "search": (
        "/search",
        {
            "q, like, set, limit, level": "the question",
            "hits": "samples or items, if activations were searched",
            **_of("hits", {"sample, item, position, key": "where", "score": "the weighted sum",
                           "text, image, heat": "the start of the text, or the image as of examples"}),
            "sets": "where words were found",
            **_of("sets", {"set, n_features, n_items": "how many features and items", "features, items": "the first"}),
            "set_paths, needs_set": "the sets of the store; whether one has to be chosen",
        },
    ),
}  # fmt: skip

_HEAD = """\
# JSON of the explorer

<!-- Made by `python -m saestore.web.keys > docs/explorer-json.md`; change it there. -->

Each page of [the explorer](explorer.md) has a JSON twin at its path with `.json`, such as
`/CLEVR/patch/clevr-sae/features/1884.json?n=3`; the twin of `/` is `/index.json`. NaN is null. An error is
`{"error": {"code": …, "message": …}}` with the codes of [saestore.errors](api/errors.md). Each document also has
`python` and `command`, the same question in Python and on the command line, null where it has no command.
"""


def markdown() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for name, (path, keys) in KEYS.items():
        rows = [f"- {', '.join(f'`{key}`' for key in names.split(', '))}: {text}" for names, text in keys.items()]
        parts.append("\n".join([f"## {name.capitalize()}: `{path}`", "", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(markdown())
