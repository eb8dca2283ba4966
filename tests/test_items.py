"""Items from tables, and which rows belong to them."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError
from saestore.items import Items, as_items, item_pointers, token_spans

CLEVR = """image_path,class,color::blue,color::green,shape::cube,split,material,size
images/CLEVR_new_000000.jpg,green_sphere,0,1,0,train,rubber,large
images/CLEVR_new_000001.jpg,blue_cube,1,0,1,cal,metal,small
images/CLEVR_new_000002.jpg,green_cube,0,1,1,test,metal,large
"""
COCO = """person,traffic light,image_path,split
1,0,val2017/000000397133.jpg,train
0,1,val2017/000000037777.jpg,test
"""
TEXTS = """text,sarcasm,irony,split
NA,1,0,train
"1, or ""2""
lines",0,0,cal
"""


@pytest.fixture
def write(tmp_path):
    def write_csv(content: str | bytes, name: str = "metadata.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_csv


def test_clevr(write):
    items = Items.from_csv(write(CLEVR))
    assert len(items) == 3
    assert items.key.tolist() == [f"images/CLEVR_new_00000{i}.jpg" for i in range(3)]
    assert items.key.dtype == np.dtypes.StringDType()
    assert list(items.columns) == ["class", "split", "material", "size"]
    assert items.columns["class"].tolist() == ["green_sphere", "blue_cube", "green_cube"]
    assert items.columns["split"].tolist() == ["train", "cal", "test"]
    assert list(items.concepts) == ["color::blue", "color::green", "shape::cube"]
    assert items.concepts["color::green"].tolist() == [True, False, True]
    assert items.concepts["color::green"].dtype == bool


def test_concepts_may_come_first_and_have_plain_names(write):
    items = Items.from_csv(write(COCO))
    assert list(items.concepts) == ["person", "traffic light"]
    assert items.concepts["traffic light"].tolist() == [False, True]
    assert items.key.tolist() == ["val2017/000000397133.jpg", "val2017/000000037777.jpg"]


def test_texts_keep_every_character(write):
    items = Items.from_csv(write(TEXTS))
    assert items.key.tolist() == ["0", "1"]
    assert items.columns["text"].tolist() == ["NA", '1, or "2"\nlines']
    assert list(items.concepts) == ["sarcasm", "irony"]


def test_text_path_is_the_key(write):
    items = Items.from_csv(write("sarcasm,text_path,split\n0,paragraphs/1.txt,cal\n"))
    assert items.key.tolist() == ["paragraphs/1.txt"]
    assert list(items.columns) == ["split"]


def test_a_text_that_looks_like_a_label_or_number_is_text(write):
    items = Items.from_csv(write("text,class,split\n1,0,train\n0,1,test\n"))
    assert items.columns["text"].tolist() == ["1", "0"]
    assert items.columns["class"].tolist() == ["0", "1"]
    assert items.concepts == {}


def test_split_may_be_absent(write):
    assert "split" not in Items.from_csv(write("image_path,color::red\na.jpg,1\n")).columns


def test_byte_order_mark_and_pandas_index(write):
    items = Items.from_csv(write(b"\xef\xbb\xbf,image_path,color::red\n0,a.jpg,1\n1,b.jpg,0\n"))
    assert items.key.tolist() == ["a.jpg", "b.jpg"]
    assert items.columns == {}


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (["480", "-3", "12"], "int64", [480, -3, 12]),
        (["0.5", "2", "1e3"], "float64", [0.5, 2.0, 1000.0]),
        (["007", "008", "009"], "T", ["007", "008", "009"]),
        (["1234567890123456789", "2", "3"], "T", ["1234567890123456789", "2", "3"]),
        (["480", "", "12"], "T", ["480", "", "12"]),
        (["nan", "inf", "2"], "T", ["nan", "inf", "2"]),
        (["2_0", "30", "40"], "T", ["2_0", "30", "40"]),
        (["0", "1", "2"], "int64", [0, 1, 2]),  # numbers, of which some happen to be 0 and 1
    ],
)
def test_other_columns_become_numbers_only_where_nothing_is_lost(write, values, dtype, expected):
    rows = "".join(f"i{row}.jpg,{value}\n" for row, value in enumerate(values))
    items = Items.from_csv(write("image_path,extra\n" + rows))
    assert items.concepts == {}
    column = items.columns["extra"]
    assert column.dtype == (np.dtypes.StringDType() if dtype == "T" else dtype)
    assert column.tolist() == expected


def test_width_of_one_is_no_concept(write):
    items = Items.from_csv(write("image_path,width\na.jpg,1\nb.jpg,1\n"))
    assert items.columns["width"].tolist() == [1, 1]
    assert items.concepts == {}


cells = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n,\"'"), max_size=8)


@given(st.lists(st.tuples(cells, st.booleans(), st.sampled_from(["train", "cal", "test"])), min_size=1, max_size=12))
def test_every_table_comes_back_as_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "metadata.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["a concept", "text", "split"])
        writer.writerows([int(label), text, split] for text, label, split in rows)
    items = Items.from_csv(path)
    assert items.columns["text"].tolist() == [text for text, _, _ in rows]
    assert items.columns["split"].tolist() == [split for _, _, split in rows]
    assert items.concepts["a concept"].tolist() == [label for _, label, _ in rows]


def same(one: Items, other: Items) -> bool:
    columns = [{"key": items.key, **items.columns, **items.concepts} for items in (one, other)]
    return list(columns[0]) == list(columns[1]) and all(
        a.dtype == b.dtype and a.tolist() == b.tolist() for a, b in zip(*map(dict.values, columns), strict=True)
    )


@pytest.mark.parametrize("content", [CLEVR, COCO, TEXTS])
def test_a_frame_and_a_mapping_are_read_as_their_file(write, content):
    path = write(content)
    frame = pd.read_csv(path, keep_default_na=False)
    from_file = as_items(path)
    assert same(as_items(str(path)), from_file)
    assert same(as_items(frame), from_file)
    assert same(as_items({str(name): frame[name].to_numpy() for name in frame}), from_file)
    assert same(as_items({str(name): frame[name].tolist() for name in frame}), from_file)
    assert as_items(from_file) is from_file


@pytest.mark.parametrize(
    "labels", [[0, 1, 1], [0.0, 1.0, 1.0], [False, True, True], ["0", "1", "1"], ["False", "True", "True"]]
)
def test_labels_of_every_type(labels):
    items = as_items({"image_path": ["a", "b", "c"], "color::red": labels})
    assert items.concepts["color::red"].tolist() == [False, True, True]


def test_frame_columns_of_every_type_are_kept():
    frame = pd.DataFrame(
        {
            "image_path": pd.Categorical(["a", "b", "a"]),
            "width": pd.array([480, 320, None], dtype="Int64"),
            "depth": np.array([0.5, 1.5, 2.5], dtype="float32"),
            "note": ["x", None, 3],
            "huge": [2**70, 2, 3],
        }
    )
    before = frame.copy(deep=True)
    items = as_items(frame)
    assert items.key.tolist() == ["a", "b", "a"]
    np.testing.assert_array_equal(items.columns["width"], [480, 320, np.nan])
    assert items.columns["depth"].dtype == "float32"
    assert items.columns["note"].tolist() == ["x", "", "3"]
    assert items.columns["huge"].tolist() == [str(2**70), "2", "3"]
    pd.testing.assert_frame_equal(frame, before)


def test_strings_of_numpy_are_taken():
    strings = np.array(["a", "b"], dtype=np.dtypes.StringDType())
    assert as_items({"text_path": strings}).key.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("image_path,color::red\na,0\nb,2\n", ["color::red", "'2'", "row 1", "0 or 1"]),
        ("image_path,color::red\na,yes\nb,no\n", ["color::red", "'yes'", "row 0"]),
        ("image_path,color::red\na,0\nb,\n", ["color::red", "missing", "row 1"]),
        ("image_path,color::red\na,0\nb\n", ["color::red", "missing", "row 1"]),
        ("text,sarcasm\na,0\nb,1\nc,1\nd,maybe\n", ["sarcasm", "'maybe'", "row 3"]),
        ("image_path,split\na,train\nb,val\n", ["'val'", "row 1", "train, cal, test"]),
        ("image_path,split\na,train\nb,\n", ["''", "row 1", "train, cal, test"]),
        ("path,color::red\na,1\n", ["path, color::red", "image_path", "text_path", "text"]),
        ("image_path;color::red\na;1\n", ["image_path;color::red", "needs image_path"]),
        ("image_path,a,a\nx,1,0\n", ["more than one column 'a'"]),
        ("image_path,a\nx,1\n,0\n", ["image_path is empty", "row 1"]),
        ("image_path,a\nx,1\ny,0,1\n", ["not a CSV", "line 3"]),
        ('image_path,a\n"x,1\n', ["not a CSV"]),
        ("image_path,color::red\n", ["no rows"]),
        ("", ["is empty"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", ["not a CSV"]),
    ],
)
def test_bad_tables(write, content, parts):
    path = write(content)
    with pytest.raises(InvalidInputError) as error:
        as_items(path)
    for part in [str(path), *parts]:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_frames():
    with pytest.raises(InvalidInputError, match=r"'color::red' is missing in row 1"):
        as_items(pd.DataFrame({"image_path": ["a", "b"], "color::red": [1, None]}))
    with pytest.raises(InvalidInputError, match=r"'color::red' is 0\.5 in row 0"):
        as_items({"image_path": ["a", "b"], "color::red": [0.5, 1.0]})
    with pytest.raises(InvalidInputError, match=r"image_path \(2,\), color::red \(1,\)"):
        as_items({"image_path": ["a", "b"], "color::red": [1]})
    with pytest.raises(InvalidInputError, match="a list"):
        as_items(["a", "b"])


def test_missing_file_names_its_neighbours(write):
    path = write(CLEVR)
    with pytest.raises(NotFoundError, match=r"nearest names there: metadata\.csv"):
        as_items(path.with_name("metadta.csv"))
    with pytest.raises(NotFoundError, match="does not exist"):
        as_items(path.parent / "nowhere" / "metadata.csv")
    with pytest.raises(InvalidInputError, match="is a folder"):
        as_items(path.parent)


def test_import_needs_neither_torch_nor_pandas():
    code = "import sys, saestore.items; print([m for m in ('torch', 'pandas', 'sae_lens') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- which rows belong to which item ---------------------------------------------------------------------------------


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
    with pytest.raises(NotFoundError, match=r"2 arrays of 1 dim.*text_ptr, token_ids, offsets.*t\.npz:NAME"):
        item_pointers(tmp_path / "t.npz", 1, 2)
    with pytest.raises(NotFoundError, match=r"no array 'txt_ptr'.*text_ptr, token_ids, offsets"):
        item_pointers(f"{tmp_path / 't.npz'}:txt_ptr", 1, 2)
    with pytest.raises(NotFoundError, match=r"nearest names there: t\.npz"):
        item_pointers(tmp_path / "tt.npz", 1, 2)
    (tmp_path / "p.txt").write_text("0 2")
    with pytest.raises(InvalidInputError, match=r"suffix '\.txt'; known are \.npy, \.npz .*\.pt"):
        item_pointers(tmp_path / "p.txt", 1, 2)
    np.save(tmp_path / "f.npy", np.array([0.0, 2.0]))
    with pytest.raises(InvalidInputError, match=r"f\.npy is float64"):
        item_pointers(tmp_path / "f.npy", 1, 2)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_pointer_files(tmp_path, suffix, share):
    whole = tmp_path / f"whole.{suffix}"
    (np.save if suffix == "npy" else np.savez)(whole, np.arange(100))
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(InvalidInputError, match=rf"cut\.{suffix} is truncated"):
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
    with pytest.raises(InvalidInputError, match=rf"p\.{suffix}"):
        item_pointers(file, None, 1)
    assert not marker.exists()
    with np.load(file, allow_pickle=True) if suffix == "npz" else file.open("rb") as stream:
        stream["arr_0"] if suffix == "npz" else np.load(stream, allow_pickle=True)
    assert marker.exists(), "the payload would have run"


def test_token_counts_without_torch(tmp_path, monkeypatch):
    (tmp_path / "token_counts.pt").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"needs torch; pip install 'saestore\[sae\]'"):
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
                ["counts 1,119 tokens", "1,030 rows", "text 1", "600", "512", "1 more"],
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
        with pytest.raises(InvalidInputError, match="not unpickled"):
            item_pointers(save([Payload(tmp_path / "ran")]), 1, 1)
        assert not (tmp_path / "ran").exists()


# --- where tokens stand in their text --------------------------------------------------------------------------------


def test_token_spans(tmp_path):
    spans = np.array([[0, 3], [3, 3], [4, 2**31 - 1]], dtype=np.int64)
    np.savez(tmp_path / "tokens.npz", offsets=spans, token_ids=np.arange(3))
    np.save(tmp_path / "offsets.npy", spans)
    for spec in (f"{tmp_path / 'tokens.npz'}:offsets", tmp_path / "tokens.npz", tmp_path / "offsets.npy", spans):
        result = token_spans(spec, 3)
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result, spans)


@pytest.mark.parametrize(
    ("spans", "match"),
    [
        ([[0, 3], [-1, 4]], "row 1 is -1 to 4"),
        ([[3, 2], [0, 0]], "row 0 is 3 to 2"),
        ([[0, 2**31], [0, 0]], "row 0 is 0 to 2147483648"),
        ([[0, 3]], r"\(1, 2\).*\(2, 2\)"),
        ([[0.0, 3.0], [0.0, 3.0]], "float64"),
        ([0, 3], r"\(2,\)"),
    ],
)
def test_bad_token_spans(spans, match):
    with pytest.raises(InvalidInputError, match=match):
        token_spans(np.array(spans), 2)
