"""`include`, `exclude` and `mask`: which rows of an input become samples, at a build and at an import."""

import numpy as np
import pytest
import scipy.sparse as sp
from cli_stores import Stored, ask
from raising import raises
from strategies import memory_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError

torch = pytest.importorskip("torch")

from test_inputs import CTX, FLAT, N, Same, X  # noqa: E402

from saestore.embeddings.of_set import embeddings_of  # noqa: E402

TOKENS = np.random.default_rng(2).integers(0, 5, (N, CTX))
SPLIT = ["train", "cal", "test", "train", "train", "test"]
SUNK = X.copy()
SUNK[:, 0] *= 1000  # an attention sink: the first token of each text
ITEM, POSITION = (axis.reshape(-1) for axis in np.indices((N, CTX)))

CHOICES = [
    ({"exclude": "position < 2"}, POSITION >= 2),
    ({"include": ["position > 0", "position < 4"], "exclude": "token in (0, 3)"},
     (POSITION > 0) & (POSITION < 4) & ~np.isin(TOKENS.reshape(-1), (0, 3))),
    ({"include": 'split == "train"', "exclude": ["item == 3 and position == 1", "token == 4"]},
     np.isin(ITEM, (0, 3, 4)) & ~((ITEM == 3) & (POSITION == 1)) & (TOKENS.reshape(-1) != 4)),
    ({"mask": TOKENS > 0, "exclude": "position == 0"}, (TOKENS.reshape(-1) > 0) & (POSITION > 0)),
]  # fmt: skip
ITEMS = {"text": [f"text {i}" for i in range(N)], "split": SPLIT}


def built(embeddings=X, store=None, **how):
    store = memory_store() if store is None else store
    how = {"sample_type": "token", "sae": Same(), "tokens": TOKENS, "items": ITEMS, "progress": False} | how
    return saestore.build("A", embeddings=embeddings, store=store, **how)


def imported(given=None, store=None, **how):
    store = memory_store() if store is None else store
    given = sp.csr_array(np.maximum(FLAT, 0)) if given is None else given
    how = {"tokens": TOKENS, "item_ptr": CTX, "items": ITEMS, "progress": False} | how
    return saestore.import_activations("A/token/s", given, store=store, **how)


@pytest.mark.parametrize(("how", "keep"), CHOICES)
@pytest.mark.parametrize("make", [built, imported])
def test_the_rows_that_are_left_are_the_samples(make, how, keep):
    acts = make(**how)
    assert np.array_equal(acts.dense(), np.maximum(FLAT, 0)[keep])
    assert np.array_equal(np.diff(acts.item_index.pointers()), np.bincount(ITEM[keep], minlength=N))
    assert np.array_equal(acts.samples["token"], TOKENS.reshape(-1)[keep])
    source = acts.attributes.source
    assert source["n_masked"] == (~keep).sum()
    for name in ("include", "exclude"):
        assert source.get(name, []) == ([how.get(name)] if isinstance(how.get(name), str) else how.get(name, []))


def test_attention_sinks_are_found_by_their_norm():
    expected = np.maximum(SUNK.reshape(-1, 4)[POSITION > 0], 0)
    assert np.array_equal(built(SUNK, exclude="sink").dense(), expected)
    largest = float(np.linalg.norm(SUNK[:, 1:].astype(float), axis=2).max())
    assert np.array_equal(built(SUNK, include=f"norm <= {largest + 1e-9}").dense(), expected)


def test_a_choice_is_part_of_what_a_set_is():
    for make in (built, imported):
        store = memory_store()
        make(store=store, exclude="position == 0")
        make(store=store, exclude="position == 0")  # is taken up
        with raises(StoreConflictError, "different-content"):
            make(store=store, exclude="position == 1")


def test_appended_rows_are_chosen_alike():
    store, how = memory_store(), {"exclude": "position == 0", "tokens": None, "items": None}
    built(X[:4], store, **how)
    grown = built(X, store, append=True, **how)
    assert grown.samples["source_row"].tolist() == np.flatnonzero(POSITION > 0).tolist()
    assert np.array_equal(grown.dense(), np.maximum(FLAT, 0)[POSITION > 0])


@pytest.mark.parametrize("make", [built, imported])
def test_conditions_that_cannot_be(make):
    with raises(NotFoundError, "unknown-column", "exclude=", "colour", "position"):
        make(exclude="colour == 3")
    with raises(InvalidInputError, "condition-type", "include=", "text"):
        make(include="split > 3")
    with raises(InvalidInputError, "nothing-selected", "none of the rows"):
        make(include="position > 99")
    with raises(InvalidInputError, "where-type", 7):
        make(include=[7])
    with raises(InvalidInputError, "bad-tokens", "(3,)"):
        make(tokens=np.arange(3))
    with raises(InvalidInputError, "bad-mask", "(3,)"):
        make(mask=np.ones(3, bool))
    with raises(InvalidInputError, "bad-mask", "not an array"):
        make(mask=[[True], [True, False]])
    with raises(NotFoundError, "unknown-column", "token"):
        make(tokens=None, exclude="token == 0")


def test_norms_are_of_embeddings(tmp_path):
    with raises(NotFoundError, "unknown-column", "exclude=norm", "--source embeddings=PATH"):
        imported(exclude="norm > 3")
    np.save(tmp_path / "x.npy", SUNK)
    source = {"embeddings": str(tmp_path / "x.npy")}
    acts = imported(exclude="sink", source=source)
    assert np.array_equal(acts.dense(), np.maximum(FLAT, 0)[POSITION > 0])
    np.save(tmp_path / "x.npy", SUNK[1:])
    with raises(InvalidInputError, "wrong-row-count", "x.npy"):
        imported(exclude="sink", source=source)


def test_from_files_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"embeddings": torch.from_numpy(X), "ids": torch.from_numpy(TOKENS)}, "x.pt")
    assert np.array_equal(
        built(tmp_path / "x.pt", tokens="ids", exclude="token == 0").samples["token"], TOKENS[TOKENS > 0]
    )
    np.savez(
        "x.npz",
        indices=np.tile(np.arange(4), (N, CTX, 1)),
        values=np.maximum(X, 0),
        ids=TOKENS.reshape(-1),
        n_features=4,
    )
    how = ("--tokens", "ids", "--exclude", "token == 0", "--exclude", "position == 1", "--include", "item > 0")
    ask("import", "A/token/s", "x.npz", *how, store=Stored(tmp_path / "s.zarr", "A", None))
    keep = (TOKENS.reshape(-1) > 0) & (POSITION != 1) & (ITEM > 0)
    acts = saestore.open("s.zarr")["A"]
    assert np.array_equal(acts.dense(), np.maximum(FLAT, 0)[keep])
    assert acts.attributes.source["exclude"] == ["token == 0", "position == 1"]


def test_the_embeddings_of_a_set_are_the_rows_that_were_chosen(tmp_path):
    np.save(tmp_path / "x.npy", X)
    acts = built(tmp_path / "x.npy", exclude="position == 0")
    assert acts.samples["source_row"].tolist() == np.flatnonzero(POSITION > 0).tolist()
    rows = embeddings_of(acts)
    assert np.array_equal(rows.read(0, rows.n_rows).numpy(), FLAT[POSITION > 0])
    np.save(tmp_path / "x.npy", X + 1)
    with raises(InvalidInputError, "other-embeddings"):
        embeddings_of(acts)
