"""What the keys of the JSON documents mean; the page ``docs/cli.md`` is made from these."""

from collections.abc import Iterable, Mapping

from saestore.vocabulary import METRICS, SCORES, SEVERITIES


def _of(key: str, about: str, parts: Mapping[str, str]) -> dict[str, str]:
    """A key, and the keys of the object that it has, or of each object of its list."""
    return {key.removesuffix("[]"): about, **{f"{key}.{name}": text for name, text in parts.items()}}


def _ends(names: Iterable[str], when: str = "") -> dict[str, str]:
    """The ends of the intervals of some scores."""
    return {
        f"{name}_{end}": f"{end}er end of the interval of {name}{when}" for name in names for end in ("low", "high")
    }


SET = {"set": "path of the activation set"}
_ASKED = {**SET, "where": "the conditions as given, or null"}
_FEATURE = {"feature": "number of the feature", "name": "its name, null where it has none"}
_METRIC = {"metric": "`jaccard`, `cosine` or `correlation`", "level": "`sample` or `item`", "n": "rows at most"}

PLACE = {
    "sample": "number of the sample",
    "item": "number of its item",
    "key": "path or id of the item, null where the store has no items",
    "position": "which patch or token of its item it is",
    "row": "row of the patch, where all images have one grid, else null",
    "column": "column of the patch, else null",
    "text": "the text of the item, else null",
    "token": "the token in the text, null where the store has no spans",
    "char_start": "first character of the token in the text, else null",
    "char_stop": "the one after its last, else null",
}
_ACTIVATION = {**_FEATURE, "activation": "its value there", **PLACE}
TOP_SAMPLES = {
    **_ASKED,
    "level": "`sample` or `item`: an item shows once, with its strongest sample",
    "n": "rows for each feature at most",
    **_of("rows[]", "one for each sample, strongest first", _ACTIVATION),
}
TOP_FEATURES = {
    **_ASKED,
    "n": "rows for each sample at most",
    **_of("rows[]", "one for each feature of each sample, strongest first", _ACTIVATION),
}

STATS = {
    **_ASKED,
    "level": "`sample`, or `item`: the maximum over its samples",
    "n": "rows at most, null where `-n` is not given",
    "n_samples": "samples, or items, that the statistics are over",
    **_of("rows[]", "one for each feature", {
        **_FEATURE,
        "n_active": "samples where the feature is not zero",
        "frac_nonzero": "n_active as a share of all samples",
        "mean": "mean activation over all samples",
        "std": "population standard deviation over all samples",
        "mean_active": "mean over the samples where it is active; null when dead",
        "min": "smallest activation where it is active; null when dead",
        "max": "largest activation where it is active; null when dead",
        "sum": "sum of its activations",
        "sum_sq": "sum of its squared activations",
    }),
}  # fmt: skip

CONCEPTS = {
    **_ASKED,
    "level": "`item` or `sample`: what was scored",
    "n_scored": "how many of them",
    "choose_on": "what features and thresholds are chosen on, or null",
    "report_on": "what the scores are measured on, or null",
    "by": "the score that the rows are the best by",
    "n": "rows for each concept at most",
    **_of("intervals", "null without `--intervals`", {
        "confidence_level": "share of the draws inside of an interval",
        "n_resamples": "how often items were drawn",
        "seed": "of the draws",
    }),
    **_of("rows[]", "the best features of each concept, best first", {
        "concept": "name of the concept",
        **_FEATURE,
        **SCORES,
        "n_positive": "items or samples that the concept is known to be true of",
        "n_negative": "items or samples that it is known to be false of",
        "n_unknown": "items or samples whose label is unknown, which are not scored",
        **{f"chosen_{name}": f"{name} on what it is chosen on, with `--choose-on`"
           for name in (*SCORES, "n_positive", "n_negative") if name != "threshold"},
        "n_active": "items or samples where the feature is not 0",
        **_ends((name for name in SCORES if name != "threshold"), ", with `--intervals`"),
    }),
}  # fmt: skip

LABEL = {
    **SET,
    "added": "names of the concepts that were given, in the order of the file",
    "removed": "names of those that were removed",
    **_of("concepts[]", "one for each concept of the set and level, as it is now", {
        "name": "its name",
        "level": "`item` or `sample`",
        "n_positive": "items or samples that have it",
        "n": "items or samples of the set",
    }),
}  # fmt: skip

_LOCATED = ("precision", "recall", "f1", "iou")
DETECT = {
    **SET,
    "settings": "all options, and the sizes of the splits",
    "provenance": "the set, its SAE, its source, and the digests of its segments and labels",
    "pruning": "the rules that leave features out, with the numbers taken from the data, and how many each left out",
    "skipped": "concepts without a full result, and why",
    **_of("rows[]", "one for each concept and method, by concept", {
        "concept": "name of the concept",
        "method": "`feature`: the best single one; `or`, `mean`: of several; `probe`: of all; else of embeddings",
        "feature": "number of the feature, null where the method has several or none",
        "name": "its name, null where it has none",
        "features": "numbers of the features that it uses",
        "setting": "what else was chosen, such as the strength of a probe, else null",
        "target_recall": "share of the active positive calibration samples that reaches the threshold, else null",
        "threshold": "what scores as much or more is predicted positive; null where no threshold helps",
        "cal_f1": "F1 on the calibration split, by which it was chosen",
        "n_positive": "items or samples reported on that the concept is known to be true of",
        "n_negative": "those that it is known to be false of",
        **{name: f"{description}, where it is reported on" for name, description in METRICS.items()},
        **_ends(name for name in METRICS if name not in ("tp", "fp", "tn", "fn")),
    }),
    **_of("candidates[]", "the best features of each concept on the calibration split, best first", {
        "concept": "name of the concept",
        **_FEATURE,
        "target_recall": "the target recall that is best for it",
        "threshold": "the threshold there",
        "cal_f1": "F1 on the calibration split",
        "cal_tp": "positives there that reach the threshold",
        "cal_predicted": "items or samples of known label in all that do",
        "cal_n_rows": "positive calibration samples on which the feature is above 0",
    }),
    **_of("localisation[]", "which samples of detected items have the concept, of each concept that samples have", {
        "concept": "name of the concept",
        **_FEATURE,
        "target_recall": "target recall of the detection",
        "threshold": "threshold of the detection",
        "sample_target_recall": "target recall of the samples, not below the detection's",
        "sample_threshold": "threshold of the samples",
        "cal_f1": "F1 over the samples of detected calibration items, by which it was chosen",
        "n_detected": "test items that are detected",
        "n_samples": "their samples of known label",
        "tp": "samples of the concept that reach the threshold",
        "fp": "other samples that do",
        "fn": "samples of the concept that do not",
        **{name: f"{name} over these samples" for name in _LOCATED},
        **_ends(_LOCATED),
        **{f"top_{n}": f"share of the concept's among the strongest {n} % of the active test samples"
           for n in (1, 5, 10)},
    }),
}  # fmt: skip

SIMILAR = {
    **_ASKED,
    "feature": "number of the feature",
    **_METRIC,
    **_of("rows[]", "one for each feature, most similar first", {
        **_FEATURE, "score": "the metric", "n_both": "samples on which both are active",
    }),
}  # fmt: skip
COMPARE = {
    **_ASKED,
    "other": "path of the other set",
    "feature": "number of the feature, or null for all",
    **_METRIC,
    **_of("rows[]", "one for each pair of features, best match first", {
        **_FEATURE,
        "other_feature": "number of the feature of the other set",
        "other_name": "its name there, null where it has none",
        "score": "the metric",
        "n_both": "samples, or items, on which both are active",
    }),
}  # fmt: skip
DIFF = {
    **SET,
    "group_a": "the conditions of the first group as given",
    "group_b": "the conditions of the second group, or null for all that is not in the first",
    "level": "`item` or `sample`: what is counted",
    "n": "rows at most",
    "where": "the conditions of both groups as given, or null",
    **_of("rows[]", "one for each feature, smallest p first", {
        **_FEATURE,
        "n_active_a": "items or samples of the first group where it is active",
        "n_active_b": "items or samples of the second group where it is active",
        "rate_a": "n_active_a as a share of the group",
        "rate_b": "n_active_b as a share of the group",
        "difference": "rate_a - rate_b",
        "mean_a": "mean activation in the first group, zeros included",
        "mean_b": "mean activation in the second group, zeros included",
        "p": "Fisher's exact test, two-sided",
        "q": "p adjusted by Benjamini and Hochberg",
    }),
}  # fmt: skip

EXAMPLES = {
    **_ASKED,
    "quantiles": "parts of equal size that the active samples are cut into",
    "n": "examples of each part, and of the strongest",
    "random": "active samples at random, and as many silent ones",
    "near_misses": "samples where the companions of the feature are active and the feature is silent",
    "context": "tokens on either side in a window",
    "level": "`sample` or `item`: the strongest sample of each item only",
    "seed": "of the draws",
    **_of("rows[]", "one for each example", {
        **_FEATURE,
        "kind": "`top`, `quantile`, `random`, `silent` or `near-miss`",
        "quantile": "0 for the strongest part, -1 for the other kinds",
        **{name: PLACE[name] for name in ("sample", "item", "position")},
        "activation": "its value there",
        **{name: PLACE[name] for name in ("key", "text")},
        "start": "first sample of the window",
        "activations": "the activations of the window",
        "tokens": "the tokens of the window, null where the store has no spans",
    }),
}  # fmt: skip

ANNOTATE = {**SET, "columns": "names of the columns that have new values"}
EXPORT_EXPLANATIONS = {**SET, "path": "what was written", "n_features": "features that are in it"}
DELETE = {"set": "path of the set that was removed"}
PLAN = {
    **SET,
    "n_tasks": "number of tasks, 0 to n_tasks - 1; 0 for a complete set",
    "missing": "with `--status`: the tasks that are not done",
}
UNLOCK = {
    "set": "the set, as it was given",
    **_of("owner", "whose lock was removed; null where the set was not locked", {
        "host": "host of the writer", "pid": "its process number", "time": "since when it had the lock",
    }),
}  # fmt: skip
VERIFY = {
    "ok": "true when nothing is wrong",
    "checked": "paths of the sets that were read",
    **_of("problems[]", "one for each thing that is wrong", {
        "set": 'path of the set, "" for what belongs to none',
        "node": "the damaged array, group or file",
        "what": "what is wrong with it",
    }),
    "mended": "with --repair, what was made again",
}  # fmt: skip
DIAGNOSE = {
    "ok": "true without an error or a warning",
    **SET,
    "reconstruction": "explained variance of the build's first batch; with torch, SAE and embeddings also of "
    "the stored activations, and more",
    "l0": "active features per sample: minimum, quartiles, maximum, mean",
    "activations": "smallest and largest activation, and how many features have negative ones",
    "features": "how many are dead, and which are active on more than half of the samples",
    "samples": "how many are empty or identical to another of their item, and how alike the first ones of items are",
    "expected": "what the metadata of the SAE gives",
    "left_out": "what could not be measured, and why",
    **_of("findings[]", "the worst first, empty where all facts fit", {
        "code": "stable name of the finding",
        "severity": "`error`, `warning` or `note`",
        "message": "the fact, in words",
        "evidence": "the numbers behind it",
        "advice": "what to do",
    }),
}  # fmt: skip

SET_INFO = {
    "path": "path of the set",
    "n_samples": "number of samples",
    "n_features": "number of features",
    "n_items": "number of items",
    "nnz": "number of non-zeros",
    "l0": "mean number of active features per sample, null without samples",
    "dead_features": "features that are never active",
    "stored_bytes": "bytes of all arrays of the set",
    "dense_bytes": "bytes of the same activations as a dense float32 tensor",
    "ratio": "dense_bytes / stored_bytes",
    "bytes_per_nonzero": "stored_bytes / nnz, null without non-zeros",
    "dtype": "dtype of the activations",
    "codec": "`pcodec` or `blosc`",
    "segments": "names of the committed segments",
    "complete": "false while a build is not done",
    "planned_samples": "samples that the build will have written, null when complete",
    "sae": "what is known of the SAE",
    "source": "where the activations came from",
    "dropped": "what `--top-k` or `--dtype float16` dropped, null where nothing was",
    "summary": "figures of the build, such as `explained_variance` of its first batch",
}
SETS = {"store": "the store", **_of("sets[]", "one for each activation set", SET_INFO)}
_REPORT = {
    **{name: SET_INFO[name] for name in ("path", "n_samples", "n_features", "n_items")},
    "format": "format of the file",
    "nnz": "number of activations that can be used",
    "dtype": "dtype in which they are stored",
    "ok": "false when an import would be refused",
    **_of("faults[]", "everything that is wrong or worth knowing", {
        "kind": "a stable name of what was found, such as `not_finite`",
        "severity": "; ".join(f"`{name}`: {text}" for name, text in SEVERITIES.items()),
        "count": "rows, entries or columns that it touches",
        "message": "what it is, where first, and what to do",
        "details": "more of it where there is more, such as each wrong column; only with `--check`",
    }),
}  # fmt: skip
IMPORT = {
    "store": "the store",
    "check": "true with `--check`, which writes nothing",
    "imports": "one for each set; several where SET is the name of a known dataset",
    **_of("imports[].report", "what reading the file showed", _REPORT),
    **_of("imports[].set", "the set as it is now, with the keys of `saestore info`; null with `--check`", SET_INFO),
}
EXPORT = {
    **_ASKED,
    "format": "the format that was written",
    "n_samples": "samples that were written",
    "n_features": "features that were asked for",
    "nnz": "activations that were written",
    "files": "what was written",
    "notes": "what was changed on the way, such as activations that float16 cannot hold",
}

DATASETS = {
    "store": "the store that was looked into",
    "searched": "folders that were searched, the first first",
    **_of("datasets[]", "one for each, entries of `saestore.toml` last", {
        "name": "its name",
        "modality": "`image` or `text`",
        "sae": "the SAE that it is built with by default",
        "patches": "patches of an image; null for texts",
        "own": "whether `saestore.toml` describes it",
        "items": "its metadata.csv, null where none was found",
        "ground_truth": "folder of its ground truth, null where none was found",
        "token_counts": "file that assigns samples to texts; null where nothing was found, or for images",
        **_of("samples[]", "one for each sample type that it can have", {
            "sample_type": "`patch`, `token` or `cls`",
            "embeddings": "where they are, null where none were found",
            "missing": "why none were found, else null",
            "sets": "paths of the sets in the store that are of these samples",
        }),
    }),
}  # fmt: skip
SAES = {
    **_of("saes[]", "one for each SAE, in the order of the names", {
        "name": "what `--sae` takes",
        "model": "the model that it was trained on",
        "layer": "number of the block, null where the names do not say it",
        "width": "number of features, null where neither names nor a configuration in the hub's cache say it",
        "l0": "mean number of active features, null where it is not known",
    }),
    "left_out": "how many more fit",
}  # fmt: skip
