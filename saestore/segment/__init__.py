"""One segment: written once, read by slices, merged with its neighbours."""

from saestore.segment.merge import (
    MOST_SEGMENTS,
    Engine,
    InThisProcess,
    last_level,
    level_start,
    limit_fan_in,
    merge_segments,
    plan_merges,
)
from saestore.segment.read import (
    Segment,
    active_features,
    open_lists,
    read_entries,
    read_moments,
    read_of_features,
    read_rows,
)
from saestore.segment.write import write_segment

__all__ = [
    "MOST_SEGMENTS",
    "Engine",
    "InThisProcess",
    "Segment",
    "active_features",
    "last_level",
    "level_start",
    "limit_fan_in",
    "merge_segments",
    "open_lists",
    "plan_merges",
    "read_entries",
    "read_moments",
    "read_of_features",
    "read_rows",
    "write_segment",
]
