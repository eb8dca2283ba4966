"""Activations in the formats of other programs: a file for each, reading and writing."""
