"""Sets in an icechunk repository: what saestore commits is committed there; in a session alone nothing is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from raising import raises
from strategies import PATH, append_segments, layout, make_case, write_case

import saestore
from saestore.errors import LockedError, StoreConflictError
from saestore.writing import SetWriter

icechunk = pytest.importorskip("icechunk")

CASE = make_case(1, 24, 6, density=0.5, segment_rows=8, ragged=True)
KILLED = """
import icechunk, os, saestore, sys
from saestore.writing import SetWriter
from strategies import PATH, append_segments, csr_rows, layout, make_case
from saestore.segment.write import write_segment
case = make_case(1, 24, 6, density=0.5, segment_rows=8, ragged=True)
root = saestore.open(icechunk.Repository.create(icechunk.local_filesystem_storage(sys.argv[1])), "a").root
with layout(case), SetWriter(root, PATH) as writer:
    append_segments(writer, case, 16)
    write_segment(root.store, PATH, 16, csr_rows(case, 16, 24), n_features=6, codec=case.codec, name="16-24")
    os._exit(9)
"""


@pytest.fixture
def repository():
    return icechunk.Repository.create(icechunk.in_memory_storage())


def names_in(repository) -> set[str]:
    """Every key that the last commit of the repository has."""
    import asyncio

    async def listed():
        return {key async for key in repository.readonly_session("main").store.list()}

    return asyncio.run(listed())


@pytest.mark.once
def test_a_killed_writer_goes_on_where_its_last_commit_was(tmp_path):
    folder = str(tmp_path / "repository")
    here = Path(__file__).parent
    assert subprocess.run([sys.executable, "-c", KILLED, folder], cwd=here, check=False).returncode == 9
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(folder))
    acts = saestore.open(repository)[PATH]
    assert [segment.info.name for segment in acts.segments] == ["0-8", "8-16"]
    assert np.array_equal(acts.dense(), CASE.dense[:16])
    with layout(CASE), SetWriter(saestore.open(repository, "a").root, PATH) as writer:
        assert writer.require().n_samples == 16
        append_segments(writer, CASE)
        writer.finish()
    assert np.array_equal(saestore.open(repository)[PATH].dense(), CASE.dense)
    assert saestore.open(repository).verify().ok
    assert not {key for key in names_in(repository) if "/lock/" in key or "/8-16/" in key}


def test_two_writers_of_two_sets_commit_side_by_side(repository):
    saestore.open(repository, "a")
    one, other = (saestore.open(repository, "a") for _ in range(2))
    write_case(one, CASE)
    write_case(other, CASE, "Other/token/sae")
    assert list(saestore.open(repository)) == ["Other/token/sae", PATH]


def test_two_writers_of_one_set_exclude_each_other(repository):
    write_case(saestore.open(repository, "a"), CASE)
    first, late = (saestore.open(repository, "a").root for _ in range(2))
    with SetWriter(first, PATH), raises(LockedError, "locked"), SetWriter(late, PATH):
        pass


def test_a_commit_of_another_state_is_refused(repository):
    store = saestore.open(repository, "a")
    write_case(store, CASE)
    with raises(StoreConflictError, "changed-meanwhile"), SetWriter(store.root, PATH) as writer:
        session = repository.writable_session("main")  # somebody who asks for no lock
        import zarr

        zarr.open_group(session.store, path=PATH).attrs["n_items"] = 99
        session.commit("by hand")
        writer.commit(writer.require())


def test_a_session_alone_keeps_nothing_that_it_does_not_commit(repository):
    session = repository.writable_session("main")
    write_case(saestore.open(session, "a"), CASE)
    assert np.array_equal(saestore.open(session)[PATH].dense(), CASE.dense)
    assert names_in(repository) <= {"zarr.json"}
    session.commit("a set")
    assert np.array_equal(saestore.open(repository)[PATH].dense(), CASE.dense)


def test_a_segment_that_lost_is_given_up(repository):
    """Of two commits of the same nodes one is refused, and its store goes on from the other's state."""
    stores = [saestore.open(repository, "a").root.store for _ in range(2)]
    import zarr

    for value, store in enumerate(stores):
        zarr.create_group(store, path="same", attributes={"value": value})
    assert [store.commit("same") for store in stores] == [True, False]
    assert all(zarr.open_group(store, path="same", mode="r").attrs["value"] == 0 for store in stores)
