"""A set as plain xarray opens it, with nothing of saestore's: its arrays, their names and dimensions, their values."""

import brute
import numpy as np
import pytest
import xarray as xr
from strategies import PATH, make_case, write_case

import saestore


@pytest.fixture(scope="module", params=["pcodec", "blosc"])
def opened(request, tmp_path_factory):
    case = make_case(1, 40, 12, density=0.3, palette="signed", segment_rows=11, codec=request.param)
    folder = tmp_path_factory.mktemp("x") / "a.zarr"
    write_case(saestore.open(folder, "a"), case)
    return case, folder


def open_group(folder, group) -> xr.Dataset:
    return xr.open_zarr(folder, group=group, consolidated=False, chunks=None)


def test_a_set_is_a_dataset_per_sample_and_per_feature(opened):
    case, folder = opened
    table = open_group(folder, PATH)
    assert dict(table.sizes) == {"sample": 40, "feature": 12}
    assert table["item"].values.tolist() == case.item_of_sample.tolist()
    assert table["position"].values.tolist() == (np.arange(40) - case.item_ptr[case.item_of_sample]).tolist()
    assert table["l0"].values.tolist() == np.count_nonzero(case.dense, axis=1).tolist()
    brute.assert_statistics(table, case.dense)
    assert table["std"].attrs["long_name"] == "population standard deviation over all samples"
    assert table.attrs["format"] == 1


def test_zeros_stay_zeros(opened):
    """xarray would take them for missing values if it took Zarr's fill value for one."""
    case, folder = opened
    table = open_group(folder, PATH)
    assert table["position"].dtype == np.int32
    assert (table["n_active"].values == np.count_nonzero(case.dense, axis=0)).all()


def test_items_are_a_dataset_with_text_and_labels(opened):
    case, folder = opened
    items = open_group(folder, f"{PATH}/items")
    assert items["key"].dims == ("item",)
    assert items["key"].values.tolist() == case.items["image_path"]
    assert items["split"].values.tolist() == case.items["split"]
    concepts = open_group(folder, f"{PATH}/items/concepts")
    assert concepts["indices"].values.tolist() == np.flatnonzero(case.red).tolist()
    assert open_group(folder, PATH).attrs["tables"]["items"]["concepts"]["names"] == ["color::red"]


def test_every_group_of_a_set_opens(opened):
    case, folder = opened
    segment = f"{PATH}/segments/0-40"
    sums = open_group(folder, segment)
    assert set(sums.data_vars) == {"n_active", "sum", "m2", "min", "max"}
    for name, ids in (("by_sample", "uint16"), ("by_feature", "uint32")):
        matrix = open_group(folder, f"{segment}/{name}")
        assert dict(matrix.sizes) == {"pointer": (41 if name == "by_sample" else 13), "nonzero": case.csr.nnz}
        assert matrix["indices"].dtype == ids
        assert matrix["data"].dtype == "float32"


def test_it_opens_lazily_and_with_xarrays_own_default(opened):
    _, folder = opened
    with pytest.warns(RuntimeWarning, match="consolidated"):  # xarray asks for what Zarr v3 has not standardised
        table = xr.open_zarr(folder, group=PATH, chunks=None)
    assert table["mean"].isel(feature=3).item() == pytest.approx(table["mean"].values[3])


def test_the_whole_store_opens_as_a_tree(opened):
    _, folder = opened
    tree = xr.open_datatree(folder, engine="zarr", group="Shapes", consolidated=False)
    assert set(tree["patch/sae"].ds.dims) == {"sample", "feature"}
