"""saestore, what a user would use instead, and the limit that the disk and the codec set."""

from benchmarks.peers.base import Peer, Unsupported
from benchmarks.peers.others import AnndataZarr, Delphi, DuckdbParquet, Hdf5, TopkPt
from benchmarks.peers.ours import PreadAndDecode, Saestore

# The others are compared with the first.
PEERS: dict[str, type[Peer]] = {
    peer.key: peer for peer in (Saestore, PreadAndDecode, AnndataZarr, Delphi, TopkPt, Hdf5, DuckdbParquet)
}

__all__ = ["PEERS", "Peer", "Unsupported"]
