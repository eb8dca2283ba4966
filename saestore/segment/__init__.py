"""One segment: written once, read by slices, merged with its neighbours."""

from saestore.segment.merge import merge_segments, plan_merges
from saestore.segment.read import Segment
from saestore.segment.write import write_segment

__all__ = ["Segment", "merge_segments", "plan_merges", "write_segment"]
