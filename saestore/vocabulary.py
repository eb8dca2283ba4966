"""Names, choices and descriptions that Python, the command line, JSON and the documentation share. Imports nothing."""

from __future__ import annotations

__all__ = [
    "BUILD_DTYPES",
    "CODECS",
    "DATA_DTYPES",
    "EXPORT_FORMATS",
    "EXPORT_SUFFIXES",
    "FORMATS",
    "GENERAL_FORMATS",
    "IMPORT_FORMATS",
    "LEVELS",
    "MATMUL_PRECISIONS",
    "MODEL_DTYPES",
    "SAMPLE_TYPES",
    "SEVERITIES",
]

LEVELS = ("item", "sample")
SAMPLE_TYPES = ("patch", "token", "cls")
CODECS = ("pcodec", "blosc")
BUILD_DTYPES = ("float32", "float16")  # what a build can store; a ready matrix also float64
MODEL_DTYPES = ("float32", "bfloat16", "float16")
DATA_DTYPES = ("float16", "float32", "float64")
MATMUL_PRECISIONS = ("auto", "float32", "bfloat16")

# Format -> the module that declares it, in the order in which a file is tried. The names are
# here so that help does not wait for numpy.
FORMATS = {
    "scipy": "saestore.formats.scipy_npz",
    "anndata": "saestore.formats.anndata",
    "delphi": "saestore.formats.delphi",
    "encoder-output": "saestore.formats.topk_tensors",
    "dense": "saestore.formats.dense_tensors",
    "parquet": "saestore.formats.parquet",
    "superactivators-sparse": "saestore.superactivators.activations",
    "superactivators-dense": "saestore.superactivators.activations",
    "superactivators-filtered": "saestore.superactivators.activations",
    "superactivators-dense-filtered": "saestore.superactivators.activations",
}
IMPORT_FORMATS = tuple(name for name in FORMATS if name != "parquet")
EXPORT_FORMATS = ("scipy", "anndata", "parquet", "delphi", "superactivators-sparse", "superactivators-dense")
# Formats that anybody may use, tried before those of one pipeline (see `saestore.layouts`).
GENERAL_FORMATS = tuple(name for name, module in FORMATS.items() if module.startswith("saestore.formats."))
# Suffix of an export -> its format, where it says one.
EXPORT_SUFFIXES = {".npz": "scipy", ".h5ad": "anndata", ".zarr": "anndata", ".parquet": "parquet"}
SEVERITIES = {
    "error": "the import is refused: it would change answers and cannot be put right",
    "fixed": "it would have changed answers, and was put right",
    "info": "the values are as in the file; good to know",
}
