"""Detectors of concepts: thresholds chosen on calibration items, results on test items, and methods without an SAE."""

from saestore.detection.options import DetectionOptions

__all__ = ["DetectionOptions"]
