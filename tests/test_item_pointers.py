"""Which rows belong to which item, and where a text's tokens stand in it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError
from saestore.tables.item_pointers import item_pointers, token_spans

pytestmark = pytest.mark.once


@given(st.integers(1, 50), st.integers(1, 50))
def test_patches_are_inferred_or_given(n_items, each):
    expected = np.arange(0, n_items * each + 1, each)
    for spec, items in [(None, n_items), (each, n_items), (each, None), (np.int32(each), n_items)]:
        pointers = item_pointers(spec, items, n_items * each)
        assert pointers.dtype == np.int64
        np.testing.assert_array_equal(pointers, expected)


def test_without_items_each_row_is_one():
    np.testing.assert_array_equal(item_pointers(None, None, 4), [0, 1, 2, 3, 4])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.sampled_from(["int32", "uint16", "uint64", "list"]))
def test_pointers_from_arrays_and_files(tmp_path_factory, counts, dtype):
    pointers = np.concatenate([[0], np.cumsum(counts)])
    given_ = pointers.tolist() if dtype == "list" else pointers.astype(dtype)
    folder = tmp_path_factory.mktemp("ptr")
    np.save(folder / "p.npy", np.asarray(given_))
    np.savez(folder / "one.npz", text_ptr=given_, offsets=np.zeros((3, 2)))
    np.savez(folder / "two.npz", text_ptr=given_, token_ids=np.arange(3))
    for spec in (given_, folder / "p.npy", folder / "one.npz", f"{folder / 'two.npz'}:text_ptr"):
        for n_items in (len(counts), None):
            result = item_pointers(spec, n_items, sum(counts))
            assert result.dtype == np.int64
            np.testing.assert_array_equal(result, pointers)


@pytest.mark.parametrize(
    ("spec", "n_items", "n_rows", "parts"),
    [
        (
            None,
            143,
            36_352,
            ["36,352 rows", "143 items", "256 patches per item would be 36,608 rows", "142 items of 256"],
        ),
        (None, 10, 7, ["7 rows do not divide among 10 items", "--item-ptr"]),
        (None, 0, 7, ["0 items"]),
        (255, 142, 36_352, ["142 items of 255 rows each would be 36,210", "36,352", "256 per item"]),
        (255, None, 36_352, ["36,352"]),
        (0, 3, 3, ["0 rows per item"]),
        (-1, 3, 3, ["-1 rows per item"]),
        ([0, 2, 5], 3, 5, ["3 pointers", "3 items need 4"]),
        ([1, 2, 5], 2, 5, ["starts with 1"]),
        ([0, 3, 2, 5], 3, 5, ["falls from 3 to 2 at item 1"]),
        (np.array([0, 3, 2, 5], dtype=np.uint8), 3, 5, ["falls from 3 to 2 at item 1"]),
        ([0, 2, 4], 2, 5, ["ends at 4", "5 rows"]),
        ([2, 3], 2, 5, ["rows per item", "cumsum"]),
        ([0.0, 2.0, 5.0], 2, 5, ["float64", "integers"]),
        ([[0, 5]], 2, 5, ["(1, 2)"]),
        ([], None, 0, ["(0,)"]),
        (True, 2, 2, ["bool"]),
    ],
)
def test_rows_that_do_not_fit(spec, n_items, n_rows, parts):
    with pytest.raises(InvalidInputError) as error:
        item_pointers(spec, n_items, n_rows)
    for part in parts:
        assert part in str(error.value)


def test_pointer_files_that_cannot_be_used(tmp_path):
    np.savez(tmp_path / "t.npz", text_ptr=[0, 2], token_ids=[5, 6], offsets=[[0, 1], [1, 2]])
    with raises(NotFoundError, "no-such-array", "text_ptr, token_ids, offsets", "t.npz:NAME"):
        item_pointers(tmp_path / "t.npz", 1, 2)
    with raises(NotFoundError, "no-such-array", "'txt_ptr'", "text_ptr, token_ids, offsets"):
        item_pointers(f"{tmp_path / 't.npz'}:txt_ptr", 1, 2)
    with raises(NotFoundError, "no-such-file", "tt.npz", "'t.npz'"):
        item_pointers(tmp_path / "tt.npz", 1, 2)
    (tmp_path / "p.txt").write_text("0 2")
    with raises(InvalidInputError, "unknown-format", "'.txt'", ".npy", ".npz", ".pt"):
        item_pointers(tmp_path / "p.txt", 1, 2)
    np.save(tmp_path / "f.npy", np.array([0.0, 2.0]))
    with raises(InvalidInputError, "invalid-pointers", "f.npy", "float64"):
        item_pointers(tmp_path / "f.npy", 1, 2)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_pointer_files(tmp_path, suffix, share):
    whole = tmp_path / f"whole.{suffix}"
    (np.save if suffix == "npy" else np.savez)(whole, np.arange(100))
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with raises(InvalidInputError, "damaged-file", f"cut.{suffix}"):
        item_pointers(cut, None, 99)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickled_arrays_are_not_run(tmp_path, suffix):
    marker = tmp_path / "ran"
    file = tmp_path / f"p.{suffix}"
    (np.save if suffix == "npy" else np.savez)(file, np.array([Payload(marker)], dtype=object))
    with raises(InvalidInputError, "pickled", f"p.{suffix}"):
        item_pointers(file, None, 1)
    assert not marker.exists()
    with np.load(file, allow_pickle=True) if suffix == "npz" else file.open("rb") as stream:
        stream["arr_0"] if suffix == "npz" else np.load(stream, allow_pickle=True)
    assert marker.exists(), "the payload would have run"


def test_token_counts_without_torch(tmp_path, monkeypatch):
    (tmp_path / "token_counts.pt").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)
    with raises(MissingDependencyError, "missing-dependency", "torch", "saestore[sae]"):
        item_pointers(tmp_path / "token_counts.pt", None, 1)


class TestTokenCounts:
    """``token_counts….pt``: per text a list of token counts per word."""

    @pytest.fixture
    def save(self, tmp_path):
        torch = pytest.importorskip("torch")

        def save_counts(counts):
            torch.save(counts, tmp_path / "token_counts_inputsize_('text', 'text2').pt")
            return tmp_path / "token_counts_inputsize_('text', 'text2').pt"

        return save_counts

    def test_sums(self, save):
        path = save([[1, 2, 1], [], [3]])
        np.testing.assert_array_equal(item_pointers(path, 3, 7), [0, 4, 4, 7])
        np.testing.assert_array_equal(item_pointers(str(path), None, 7), [0, 4, 4, 7])

    @pytest.mark.parametrize(
        ("counts", "n_items", "n_rows", "parts"),
        [
            (
                [[1, 2], [400, 200], [3], [513]],
                4,
                1030,
                ["counts 1,119 tokens", "1,030 rows", "text 1", "600", "512", "3 (513)", "exactly the rows"],
            ),
            ([[1, 2], [2, 2], [3]], 3, 8, ["counts 10 tokens", "8 rows", "at text 2", "twice"]),
            ([[1, 2], [3]], 2, 9, ["counts 6 tokens", "9 rows", "left over"]),
            ([[1, 2], [3]], 3, 6, ["2 texts", "3 items"]),
            ([[1, 2], [-3]], 2, 0, ["text 1"]),
            ([[1, 2], ["3"]], 2, 6, ["text 1"]),
            ([1, 2], 2, 3, ["text 0"]),
            ({"a": [1]}, 1, 1, ["dict"]),
        ],
    )
    def test_counts_that_do_not_fit(self, save, counts, n_items, n_rows, parts):
        with pytest.raises(InvalidInputError) as error:
            item_pointers(save(counts), n_items, n_rows)
        for part in parts:
            assert part in str(error.value)

    def test_payload_is_not_run(self, save, tmp_path):
        with raises(InvalidInputError, "pickled", "token_counts"):
            item_pointers(save([Payload(tmp_path / "ran")]), 1, 1)
        assert not (tmp_path / "ran").exists()


def test_token_spans(tmp_path):
    spans = np.array([[0, 3], [3, 3], [4, 2**31 - 1]], dtype=np.int64)
    np.savez(tmp_path / "tokens.npz", offsets=spans, token_ids=np.arange(3))
    np.save(tmp_path / "offsets.npy", spans)
    for spec in (f"{tmp_path / 'tokens.npz'}:offsets", tmp_path / "tokens.npz", tmp_path / "offsets.npy", spans):
        result = token_spans(spec, 3)
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result, spans)


@pytest.mark.parametrize(
    ("spans", "named"),
    [
        ([[0, 3], [-1, 4]], "row 1 is -1 to 4"),
        ([[3, 2], [0, 0]], "row 0 is 3 to 2"),
        ([[0, 2**31], [0, 0]], "row 0 is 0 to 2147483648"),
        ([[0, 3]], "(1, 2)"),
        ([[0.0, 3.0], [0.0, 3.0]], "float64"),
        ([0, 3], "(2,)"),
    ],
)
def test_bad_token_spans(spans, named):
    with raises(InvalidInputError, "invalid-spans", named):
        token_spans(np.array(spans), 2)
