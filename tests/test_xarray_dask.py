"""The lazy Dataset in chunks: which they are, what they compute, and that they travel to other processes."""

import numpy as np
import pytest
import xarray as xr
from strategies import PATH, make_case, scratch_store, write_case, write_segments

import saestore
from saestore.errors import TooLargeError
from saestore.format import SegmentInfo, SetAttributes
from saestore.interop.dataset import CHUNK_BYTES, row_chunks

dask = pytest.importorskip("dask")

CASE = make_case(31, 50, 9, density=0.4, palette="signed", segment_rows=20)


@pytest.fixture(scope="module")
def acts():
    return write_segments(scratch_store(), CASE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("x") / "a.zarr"
    write_case(saestore.open(folder, "a"), CASE)
    return folder


def attributes(n_features, *sizes, dtype="float32") -> SetAttributes:
    stops = np.cumsum(sizes).tolist()
    segments = [
        SegmentInfo(stop - n, stop, 1, "", f"{stop - n}-{stop}", 1) for n, stop in zip(sizes, stops, strict=True)
    ]
    return SetAttributes(n_features=n_features, dtype=dtype, segments=tuple(segments))


def test_a_chunk_is_a_segment_or_an_even_part_of_one():
    assert row_chunks(attributes(65_536, 100, 7, 512)) == (100, 7, 512)
    assert row_chunks(attributes(65_536, 1100, 513, 40)) == (367, 367, 366, 257, 256, 40)
    assert row_chunks(attributes(65_536, 1100, dtype="float64")) == (220, 220, 220, 220, 220)
    assert row_chunks(attributes(65_536, 1024, dtype="float16")) == (1024,)
    assert row_chunks(attributes(1 << 27, 3)) == (1, 1, 1)  # a row is the least there is
    assert row_chunks(attributes(8)) == (0,)
    for rows, width in ((256_000, 65_536), (36_352, 4_096), (10**7, 16_384)):
        sizes = row_chunks(attributes(width, rows))
        assert sum(sizes) == rows
        assert (
            max(sizes) * width * 4 <= CHUNK_BYTES < 2 * (max(sizes) + 1) * width * 4 + CHUNK_BYTES * (len(sizes) == 1)
        )
        assert max(sizes) - min(sizes) <= 1


def test_chunks_follow_the_segments(acts, monkeypatch):
    dataset = acts.to_xarray(chunks={})
    assert dataset["activation"].chunks == ((20, 20, 10), (9,))
    assert dataset["item"].chunks == ((20, 20, 10),)
    assert dataset.chunksizes == {"sample": (20, 20, 10), "feature": (9,)}  # the same for all variables
    monkeypatch.setattr("saestore.interop.dataset.CHUNK_BYTES", 7 * 9 * 4)
    assert acts.to_xarray(chunks={})["activation"].chunks[0] == (7, 7, 6, 7, 7, 6, 5, 5)


def test_chunks_as_the_user_says(folder):
    dataset = xr.open_dataset(folder, engine="saestore", chunks={"sample": 50, "feature": 9})
    assert dataset["activation"].chunks == ((50,), (9,))
    assert np.array_equal(dataset["activation"].compute(), CASE.dense)
    assert dataset.chunk(sample=16)["activation"].chunks[0] == (16, 16, 16, 2)


def test_computing_gives_what_numpy_gives(acts):
    dataset = acts.to_xarray(chunks={})
    assert np.array_equal(dataset["activation"].compute(), CASE.dense)
    assert np.array_equal(dataset["activation"][::-3, [5, 1]].compute(), CASE.dense[::-3][:, [5, 1]])
    assert np.array_equal((dataset["activation"] > 0).sum("feature").compute(), (CASE.dense > 0).sum(axis=1))
    red = CASE.red[CASE.item_of_sample]
    masked = dataset["activation"].where(dataset["color::red"]).max("sample")
    assert np.array_equal(masked.compute(), CASE.dense[red].max(axis=0))
    points = {"sample": xr.DataArray([3, 30], dims="p"), "feature": xr.DataArray([1, 2], dims="p")}
    assert np.array_equal(dataset["activation"].isel(points).compute(), CASE.dense[[3, 30], [1, 2]])
    assert np.array_equal(dataset["key"].compute(), np.array(CASE.items["image_path"])[CASE.item_of_sample])
    assert np.array_equal(dataset["max"].compute(), acts.stats()["max"], equal_nan=True)


def test_a_reduction_streams_where_one_array_would_be_refused(acts):
    limit = 20 * 9 * 4  # a chunk
    with pytest.raises(TooLargeError):
        acts.to_xarray(max_bytes=limit)["activation"].mean()
    dataset = acts.to_xarray(chunks={}, max_bytes=limit)
    assert np.isclose(dataset["activation"].mean().compute().item(), CASE.dense.mean())
    with pytest.raises(TooLargeError):  # a chunk of everything is still everything
        acts.to_xarray(chunks={"sample": -1}, max_bytes=limit)["activation"].mean().compute()


def test_processes_open_the_store_themselves(folder, forkserver):
    dataset = xr.open_dataset(folder, engine="saestore").chunk(sample=25)
    with dask.config.set({"multiprocessing.context": forkserver}):
        sums = dataset["activation"].sum("sample")
        found, split = dask.compute(sums, dataset["split"], scheduler="processes", num_workers=1)
    assert np.allclose(found, CASE.dense.sum(axis=0), atol=1e-5)
    assert split.values.tolist() == np.array(CASE.items["split"])[CASE.item_of_sample].tolist()


def test_the_accessor_knows_a_chunked_selection(acts):
    dataset = acts.to_xarray(chunks={})
    test = (np.array(CASE.items["split"]) == "test")[CASE.item_of_sample]
    part = dataset.isel(sample=(dataset["split"] == "test").compute())
    assert np.array_equal(part.sae.stats()["n_active"], np.count_nonzero(CASE.dense[test], axis=0))


def test_equal_arrays_have_equal_names_and_others_others(folder):
    def name(location=folder, **kwargs):
        acts = saestore.open(location)[PATH]
        return acts.to_xarray(chunks={}, **kwargs)["activation"].data.name

    assert name() == name()
    lazy = [saestore.open(folder)[PATH].to_xarray().chunk(sample=50) for _ in range(2)]
    for variable in ("activation", "split", "color::red", "mean"):
        assert lazy[0][variable].data.name == lazy[1][variable].data.name
    names = {lazy[0][variable].data.name for variable in ("split", "key", "item")}
    assert len(names) == 3
    before = name()
    saestore.open(folder, "a").write(PATH, CASE.csr * 2, CASE.item_ptr, CASE.items, overwrite=True)
    try:
        assert name() != before
    finally:
        write_case(saestore.open(folder, "a"), CASE, overwrite=True)
