"""What is compared: saestore, what a user would pick instead, and the limit that the disk and the codec set."""

from benchmarks.peers.anndata_zarr import AnndataZarr
from benchmarks.peers.base import Peer, Unsupported, list_stats, ranked
from benchmarks.peers.delphi import Delphi
from benchmarks.peers.duckdb_parquet import DuckdbParquet
from benchmarks.peers.hdf5_csc import Hdf5
from benchmarks.peers.limit import PreadAndDecode
from benchmarks.peers.polars_parquet import PolarsParquet
from benchmarks.peers.saestore_set import Saestore, SaestoreBlosc
from benchmarks.peers.scipy_npz import ScipyNpz, ScipyNpzCompressed
from benchmarks.peers.tiledb_sparse import TiledbSparse
from benchmarks.peers.topk_pt import TopkPt

# The first is what the others are compared with. Each folder holds one peer's files; the limit reads saestore's.
PEERS: dict[str, type[Peer]] = {
    peer.key: peer
    for peer in (
        Saestore,
        SaestoreBlosc,
        PreadAndDecode,
        AnndataZarr,
        Delphi,
        TopkPt,
        ScipyNpz,
        ScipyNpzCompressed,
        Hdf5,
        TiledbSparse,
        DuckdbParquet,
        PolarsParquet,
    )
}

__all__ = ["PEERS", "Peer", "Unsupported", "list_stats", "ranked"]
