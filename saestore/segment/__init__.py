"""One segment: written once, read by slices, merged with its neighbours."""

from saestore.segment.merge import Engine, InThisProcess, last_level, limit_fan_in, merge_segments, plan_merges
from saestore.segment.read import Segment, read_entries, read_moments, warm_all
from saestore.segment.write import write_segment

__all__ = [
    "Engine",
    "InThisProcess",
    "Segment",
    "last_level",
    "limit_fan_in",
    "merge_segments",
    "plan_merges",
    "read_entries",
    "read_moments",
    "warm_all",
    "write_segment",
]
