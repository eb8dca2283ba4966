"""Activations that other programs stored, into a store: read in segments, checked first, resumed where killed."""

from saestore.importing.api import ImportReport, check_import, import_activations
from saestore.importing.faults import Fault
from saestore.importing.opening import FORMATS

__all__ = ["FORMATS", "Fault", "ImportReport", "check_import", "import_activations"]
