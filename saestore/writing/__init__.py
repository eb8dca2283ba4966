"""Writing an activation set: the lock, segments and their commit, compaction, the arrays derived from them."""

from saestore.writing.lock import SetLock
from saestore.writing.writer import SetWriter

__all__ = ["SetLock", "SetWriter"]
