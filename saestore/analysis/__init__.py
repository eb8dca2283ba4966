"""Analyses of an opened set: examples, cards, contrasts, search, families, matches, probes and directions."""
