"""Names, choices and descriptions that Python, the command line, JSON and the documentation share. Imports nothing."""

from __future__ import annotations

LEVELS = ("item", "sample")
SAMPLE_TYPES = ("patch", "token", "cls")
CODECS = ("pcodec", "blosc")
BUILD_DTYPES = ("float32", "float16")  # what a build can store; a ready matrix also float64
MODEL_DTYPES = ("float32", "bfloat16", "float16")
TRANSPARENCIES = ("white", "black", "stored")  # what transparent pixels of an image show
DATA_DTYPES = ("float16", "float32", "float64")
MATMUL_PRECISIONS = ("auto", "float32", "bfloat16")

# Scores of a feature with a concept.
SCORES = {
    "roc_auc": "area under the ROC curve, as `sklearn.metrics.roc_auc_score`",
    "average_precision": "as `sklearn.metrics.average_precision_score`",
    "f1": "best F1 over all thresholds above 0, 0 where none helps",
    "threshold": "the highest stored activation with that F1: what scores as much or more is predicted positive",
    "precision": "precision at that threshold",
    "recall": "recall at that threshold",
    "mean_difference": "mean activation where the concept is true minus where it is false, zeros included",
    "point_biserial": "correlation of activation and concept, as `scipy.stats.pointbiserialr`",
}
# Metrics of a detector: a score with a threshold that was chosen elsewhere.
METRICS = {
    "precision": "share of the predicted that is positive",
    "recall": "share of the positives that is predicted",
    "accuracy": "share that is predicted correctly",
    "f1": "harmonic mean of precision and recall",
    "tpr": "true positive rate, the same as recall",
    "fpr": "share of the negatives that is predicted",
    "tnr": "1 - fpr",
    "fnr": "1 - tpr",
    "tp": "predicted positives",
    "fp": "predicted negatives",
    "tn": "negatives that are not predicted",
    "fn": "positives that are not predicted",
    "roc_auc": "area under the ROC curve of the score, as `sklearn.metrics.roc_auc_score`",
    "average_precision": "of the score, as `sklearn.metrics.average_precision_score`",
}
# Format -> the module that declares it, in the order in which a file is tried. The names are
# here so that help does not wait for numpy.
FORMATS = {
    "scipy": "saestore.formats.scipy_npz",
    "npz": "saestore.formats.scipy_npz",
    "anndata": "saestore.formats.anndata",
    "delphi": "saestore.formats.delphi",
    "delphi-neighbours": "saestore.formats.delphi",
    "encoder-output": "saestore.formats.topk_tensors",
    "dense": "saestore.formats.dense_tensors",
    "parquet": "saestore.formats.parquet",
    "neuronpedia": "saestore.analysis.dashboards",
    "superactivators-sparse": "saestore.superactivators.activations",
    "superactivators-dense": "saestore.superactivators.activations",
    "superactivators-filtered": "saestore.superactivators.activations",
    "superactivators-dense-filtered": "saestore.superactivators.activations",
}
_WRITTEN_ONLY = ("parquet", "delphi-neighbours", "neuronpedia")
IMPORT_FORMATS = tuple(name for name in FORMATS if name not in _WRITTEN_ONLY)
EXPORT_FORMATS = (
    "scipy", "anndata", "parquet", "delphi", "delphi-neighbours", "neuronpedia", "superactivators-sparse",
    "superactivators-dense",
)  # fmt: skip
# Formats that anybody may use, tried before those of one pipeline (see `saestore.layouts`).
GENERAL_FORMATS = tuple(name for name, module in FORMATS.items() if module.startswith("saestore.formats."))
# Suffix of an export -> its format, where it says one.
EXPORT_SUFFIXES = {
    ".npz": "scipy", ".h5ad": "anndata", ".zarr": "anndata", ".parquet": "parquet", ".json": "neuronpedia",
}  # fmt: skip
DEFAULT_MEMORY = 1 << 30  # bytes that a merge may take
SEVERITIES = {
    "error": "the import is refused: it would change answers and cannot be put right",
    "fixed": "it would have changed answers, and was put right",
    "info": "the values are as in the file; good to know",
}
