"""Activation sets, or parts of them, in the formats of other programs."""

from saestore.exporting.api import FORMATS, export

__all__ = ["FORMATS", "export"]
