"""What the keys of the JSON documents mean; the page ``docs/cli.md`` is made from these."""

from saestore.vocabulary import METRICS, SCORES

SET = {"set": "path of the activation set"}

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

TOP_SAMPLES = {
    **SET,
    "level": "`sample` or `item`: an item shows once, with its strongest sample",
    "n": "rows for each feature at most",
    "where": "the conditions as given, or null",
    "rows": "one for each sample, strongest first",
    "rows[].feature": "number of the feature",
    "rows[].name": "its name, null where it has none",
    "rows[].activation": "its value there",
    **{f"rows[].{key}": says for key, says in PLACE.items()},
}

TOP_FEATURES = {
    **SET,
    "n": "rows for each sample at most",
    "where": "the conditions as given, or null",
    "rows": "one for each feature of each sample, strongest first",
    **{key: says for key, says in TOP_SAMPLES.items() if key.startswith("rows[]")},
}

STATS = {
    **SET,
    "level": "`sample`, or `item`: the maximum over its samples",
    "n": "rows at most, null where `-n` is not given",
    "n_samples": "samples, or items, that the statistics are over",
    "where": "the conditions as given, or null",
    "rows": "one for each feature",
    "rows[].feature": "number of the feature",
    "rows[].name": "its name, null where it has none",
    "rows[].n_active": "samples where the feature is not zero",
    "rows[].frac_nonzero": "n_active as a share of all samples",
    "rows[].mean": "mean activation over all samples",
    "rows[].std": "population standard deviation over all samples",
    "rows[].mean_active": "mean over the samples where it is active; null when dead",
    "rows[].min": "smallest activation where it is active; null when dead",
    "rows[].max": "largest activation where it is active; null when dead",
    "rows[].sum": "sum of its activations",
    "rows[].sum_sq": "sum of its squared activations",
}

CONCEPTS = {
    **SET,
    "level": "`item` or `sample`: what was scored",
    "n_scored": "how many of them",
    "where": "the conditions as given, or null",
    "choose_on": "what features and thresholds are chosen on, or null",
    "report_on": "what the scores are measured on, or null",
    "by": "the score that the rows are the best by",
    "n": "rows for each concept at most",
    "intervals": "null without `--intervals`",
    "intervals.confidence_level": "share of the draws inside of an interval",
    "intervals.n_resamples": "how often items were drawn",
    "intervals.seed": "of the draws",
    "rows": "the best features of each concept, best first",
    "rows[].concept": "name of the concept",
    "rows[].feature": "number of the feature",
    "rows[].name": "its name, null where it has none",
    **{f"rows[].{name}": description for name, description in SCORES.items()},
    "rows[].n_positive": "items or samples that the concept is known to be true of",
    "rows[].n_negative": "items or samples that it is known to be false of",
    "rows[].n_unknown": "items or samples whose label is unknown, which are not scored",
    **{
        f"rows[].chosen_{name}": f"{name} on what it is chosen on, with `--choose-on`"
        for name in (*SCORES, "n_positive", "n_negative")
        if name != "threshold"
    },
    "rows[].n_active": "items or samples where the feature is not 0",
    **{
        f"rows[].{name}_{end}": f"{end}er end of the interval of {name}, with `--intervals`"
        for name in ("roc_auc", "average_precision", "f1", "precision", "recall", "mean_difference", "point_biserial")
        for end in ("low", "high")
    },
}

DETECT = {
    **SET,
    "settings": "all options, and the sizes of the splits",
    "provenance": "the set, its SAE, its source, and the digests of its segments and labels",
    "pruning": "the rules that leave features out, with the numbers taken from the data, and how many each left out",
    "skipped": "concepts without a full result, and why",
    "rows": "one for each concept and method, by concept",
    "rows[].concept": "name of the concept",
    "rows[].method": "`feature`: the best single one; `or`, `mean`: of several; `probe`: of all; else of embeddings",
    "rows[].feature": "number of the feature, null where the method has several or none",
    "rows[].name": "its name, null where it has none",
    "rows[].features": "numbers of the features that it uses",
    "rows[].setting": "what else was chosen, such as the strength of a probe, else null",
    "rows[].target_recall": "share of the active positive calibration samples that reaches the threshold, else null",
    "rows[].threshold": "what scores as much or more is predicted positive; null where no threshold helps",
    "rows[].cal_f1": "F1 on the calibration split, by which it was chosen",
    "rows[].n_positive": "items or samples reported on that the concept is known to be true of",
    "rows[].n_negative": "those that it is known to be false of",
    **{f"rows[].{name}": f"{description}, where it is reported on" for name, description in METRICS.items()},
    **{f"rows[].{name}_{end}": f"{end}er end of its interval"
       for name in METRICS if name not in ("tp", "fp", "tn", "fn") for end in ("low", "high")},
    "candidates": "the best features of each concept on the calibration split, best first",
    "candidates[].concept": "name of the concept",
    "candidates[].feature": "number of the feature",
    "candidates[].name": "its name, null where it has none",
    "candidates[].target_recall": "the target recall that is best for it",
    "candidates[].threshold": "the threshold there",
    "candidates[].cal_f1": "F1 on the calibration split",
    "candidates[].cal_tp": "positives there that reach the threshold",
    "candidates[].cal_predicted": "items or samples of known label in all that do",
    "candidates[].cal_n_rows": "positive calibration samples on which the feature is above 0",
    "localisation": "which samples of detected items have the concept, one for each concept that samples have",
    "localisation[].concept": "name of the concept",
    "localisation[].feature": "number of the feature",
    "localisation[].name": "its name, null where it has none",
    "localisation[].target_recall": "target recall of the detection",
    "localisation[].threshold": "threshold of the detection",
    "localisation[].sample_target_recall": "target recall of the samples, not below the detection's",
    "localisation[].sample_threshold": "threshold of the samples",
    "localisation[].cal_f1": "F1 over the samples of detected calibration items, by which it was chosen",
    "localisation[].n_detected": "test items that are detected",
    "localisation[].n_samples": "their samples of known label",
    "localisation[].tp": "samples of the concept that reach the threshold",
    "localisation[].fp": "other samples that do",
    "localisation[].fn": "samples of the concept that do not",
    **{f"localisation[].{name}": f"{name} over these samples" for name in ("precision", "recall", "f1", "iou")},
    **{f"localisation[].{name}_{end}": f"{end}er end of its interval"
       for name in ("precision", "recall", "f1", "iou") for end in ("low", "high")},
    **{f"localisation[].top_{n}": f"share of the concept's among the strongest {n} % of the active test samples"
       for n in (1, 5, 10)},
}  # fmt: skip

SIMILAR = {
    **SET,
    "feature": "number of the feature",
    "metric": "`jaccard`, `cosine` or `correlation`",
    "level": "`sample` or `item`",
    "n": "rows at most",
    "where": "the conditions as given, or null",
    "rows": "one for each feature, most similar first",
    "rows[].feature": "number of the feature",
    "rows[].name": "its name, null where it has none",
    "rows[].score": "the metric",
    "rows[].n_both": "samples on which both are active",
}

ANNOTATE = {
    **SET,
    "columns": "names of the columns that have new values",
}

EXPORT_EXPLANATIONS = {**SET, "path": "what was written", "n_features": "features that are in it"}

COMPARE = {
    **SET,
    "other": "path of the other set",
    "feature": "number of the feature, or null for all",
    "metric": "`jaccard`, `cosine` or `correlation`",
    "level": "`sample` or `item`",
    "n": "rows at most",
    "where": "the conditions as given, or null",
    "rows": "one for each pair of features, best match first",
    "rows[].feature": "number of the feature",
    "rows[].name": "its name, null where it has none",
    "rows[].other_feature": "number of the feature of the other set",
    "rows[].other_name": "its name there, null where it has none",
    "rows[].score": "the metric",
    "rows[].n_both": "samples, or items, on which both are active",
}

DELETE = {"set": "path of the set that was removed"}

EXAMPLES = {
    **SET,
    "quantiles": "parts of equal size that the active samples are cut into",
    "n": "examples of each part, and of the strongest",
    "random": "active samples at random, and as many silent ones",
    "near_misses": "samples where the companions of the feature are active and the feature is silent",
    "context": "tokens on either side in a window",
    "level": "`sample` or `item`: the strongest sample of each item only",
    "seed": "of the draws",
    "where": "the conditions as given, or null",
    "rows": "one for each example",
    "rows[].feature": "number of the feature",
    "rows[].name": "its name, null where it has none",
    "rows[].kind": "`top`, `quantile`, `random`, `silent` or `near-miss`",
    "rows[].quantile": "0 for the strongest part, -1 for the other kinds",
    "rows[].sample": "number of the sample",
    "rows[].item": "number of its item",
    "rows[].position": "which patch or token of its item it is",
    "rows[].activation": "its value there",
    "rows[].key": "path or id of the item, null where the store has no items",
    "rows[].text": "the text of the item, else null",
    "rows[].start": "first sample of the window",
    "rows[].activations": "the activations of the window",
    "rows[].tokens": "the tokens of the window, null where the store has no spans",
}

DIFF = {
    **SET,
    "group_a": "the conditions of the first group as given",
    "group_b": "the conditions of the second group, or null for all that is not in the first",
    "level": "`item` or `sample`: what is counted",
    "n": "rows at most",
    "where": "the conditions of both groups as given, or null",
    "rows": "one for each feature, smallest p first",
    "rows[].feature": "number of the feature",
    "rows[].name": "its name, null where it has none",
    "rows[].n_active_a": "items or samples of the first group where it is active",
    "rows[].n_active_b": "items or samples of the second group where it is active",
    "rows[].rate_a": "n_active_a as a share of the group",
    "rows[].rate_b": "n_active_b as a share of the group",
    "rows[].difference": "rate_a - rate_b",
    "rows[].mean_a": "mean activation in the first group, zeros included",
    "rows[].mean_b": "mean activation in the second group, zeros included",
    "rows[].p": "Fisher's exact test, two-sided",
    "rows[].q": "p adjusted by Benjamini and Hochberg",
}

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

SETS = {
    "store": "the store",
    "sets": "one for each activation set",
    **{f"sets[].{key}": says for key, says in SET_INFO.items()},
}

PLAN = {
    **SET,
    "n_tasks": "number of tasks, 0 to n_tasks - 1; 0 for a complete set",
    "missing": "with `--status`: the tasks that are not done",
}

UNLOCK = {
    "set": "the set, as it was given",
    "owner": "whose lock was removed; null where the set was not locked",
    "owner.host": "host of the writer",
    "owner.pid": "its process number",
    "owner.time": "since when it had the lock",
}

VERIFY = {
    "ok": "true when nothing is wrong",
    "checked": "paths of the sets that were read",
    "problems": "one for each thing that is wrong",
    "problems[].set": 'path of the set, "" for what belongs to none',
    "problems[].node": "the damaged array, group or file",
    "problems[].what": "what is wrong with it",
    "mended": "with --repair, what was made again",
}

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
    "findings": "the worst first, empty where all facts fit",
    "findings[].code": "stable name of the finding",
    "findings[].severity": "`error`, `warning` or `note`",
    "findings[].message": "the fact, in words",
    "findings[].evidence": "the numbers behind it",
    "findings[].advice": "what to do",
}
