"""Every question gets the same answer from a folder, from a folder that is not known as one, and from memory."""

import copy
import dataclasses
import importlib.util
from contextlib import contextmanager

import numpy as np
import pytest
import zarr
from strategies import PATH, layout, make_case, write_segments
from zarr.storage import LocalStore, MemoryStore, ObjectStore, WrapperStore

import saestore

CASES = {
    "pcodec": make_case(1, 300, 40, density=0.5, segment_rows=120, chunk=64, shard=256, palette="signed"),
    "blosc": make_case(2, 300, 40, density=0.5, segment_rows=300, chunk=64, shard=512, codec="blosc"),
}


class Wrapped(WrapperStore):
    """A local store of which saestore does not know that it is one."""


def answers(acts):
    return {
        "shape": np.array(acts.shape),
        "top 20": acts.top_samples([3, 0, 39, 7]),
        "top 20 items": acts.top_samples(5, level="item"),
        "top 20 where": acts.top_samples(5, where={"split": "test"}),
        "a whole feature": acts.feature(11),
        "top features": acts.top_features([250, 0, 3]),
        "rows": acts.dense(samples=slice(100, 140)),
        "rows here and there": acts.sparse(samples=[299, 0, 130, 131, 17]).toarray(),
        "a column": acts.dense(features=4),
        "everything": acts.sparse().toarray(),
        "statistics": acts.stats(),
        "statistics of some": acts.stats([5, 39, 5]),
        "statistics where": acts.stats(3, where={"color::red": 1}),
        "quantiles": acts.quantile([0.1, 0.9], [7, 8]),
        "histogram": acts.histogram(9, bins=5),
    }


def arrays_of(answer):
    if isinstance(answer, np.ndarray):
        return [answer]
    if dataclasses.is_dataclass(answer):
        return [np.asarray(getattr(answer, f.name)) for f in dataclasses.fields(answer) if not f.name.startswith("_")]
    if hasattr(answer, "data_vars"):
        return [answer[name].values for name in answer.data_vars]
    return [answer.values]


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory):
    """A case in a folder, and in memory; what saestore itself reads from the folder."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("pipelines") / "a.zarr"
    memory = MemoryStore()
    with layout(case):
        for place in (folder, memory):
            write_segments(saestore.open(place, "a"), case)
    acts = saestore.open(folder)[PATH]
    assert np.array_equal(acts.dense(), case.dense)
    places = {"folder": folder, "a wrapped folder": Wrapped(LocalStore(folder)), "memory": memory}
    with object_store(folder) as s3:
        yield {**places, "s3": s3}, answers(acts)


@contextmanager
def object_store(folder):
    """The folder in a bucket of a server on loopback; None where a package for it is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("aiohttp", "obstore")):
        yield None
        return
    from obstore.store import S3Store
    from s3_server import BUCKET, serve

    with serve() as server:
        files = (path for path in folder.rglob("*") if path.is_file())
        server.objects.update({str(path.relative_to(folder)): path.read_bytes() for path in files})
        yield ObjectStore(S3Store(BUCKET, **server.obstore_options), read_only=True)


@pytest.mark.parametrize("place", ["folder", "a wrapped folder", "memory", "s3"])
def test_every_question_has_the_same_answer(written, place):
    places, expected = written
    if places[place] is None:
        pytest.skip("an object store needs aiohttp and obstore")
    acts = saestore.open(places[place])[PATH]
    found = answers(acts)
    assert acts.segments[0].lists[0].is_local == (place == "folder")
    for question, answer in expected.items():
        for a, b in zip(arrays_of(answer), arrays_of(found[question]), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), question


def test_asking_changes_no_setting_of_zarr(written):
    before = copy.deepcopy(zarr.config.config)
    answers(saestore.open(written[0]["a wrapped folder"])[PATH])
    assert zarr.config.config == before
