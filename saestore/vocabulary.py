"""Names, choices and descriptions that Python, the command line, JSON and the documentation share. Imports nothing."""

from __future__ import annotations

__all__ = ["BUILD_DTYPES", "CODECS", "DATA_DTYPES", "LEVELS", "MATMUL_PRECISIONS", "MODEL_DTYPES", "SAMPLE_TYPES"]

LEVELS = ("item", "sample")
SAMPLE_TYPES = ("patch", "token", "cls")
CODECS = ("pcodec", "blosc")
BUILD_DTYPES = ("float32", "float16")  # what a build can store; a ready matrix also float64
MODEL_DTYPES = ("float32", "bfloat16", "float16")
DATA_DTYPES = ("float16", "float32", "float64")
MATMUL_PRECISIONS = ("auto", "float32", "bfloat16")
