"""Encoding with bfloat16 candidates that are computed again in float32: the same activations in less time."""
