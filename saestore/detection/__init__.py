"""Which features know a concept: thresholds from calibration items, results on test items, and the older ways."""
