"""Items from every kind of table."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from raising import raises
from zarr.storage import MemoryStore

import saestore
from saestore.errors import InvalidInputError, NotFoundError
from saestore.scoring.splits import samples_on
from saestore.tables.items import Items, as_items

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
        (["0", "1", "0", "1", "3"], "int64", [0, 1, 0, 1, 3]),  # how many there are
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
    ("content", "code", "named"),
    [
        ("image_path,color::red\na,0\nb,2\n", "invalid-label", ["color::red", "'2'", "row 1"]),
        ("image_path,color::red\na,yes\nb,no\n", "invalid-label", ["color::red", "'yes'", "row 0"]),
        ("image_path,color::red\na,\nb\n", "invalid-label", ["color::red", "missing", "row 0"]),
        ("text,sarcasm\na,0\nb,1\nc,1\nd,maybe\n", "invalid-label", ["sarcasm", "'maybe'", "row 3"]),
        ("image_path,split\na,train\nb,\n", "unknown-split", ["split is empty", "row 1"]),
        ("path,color::red\na,1\n", "no-keys", ["path, color::red", "image_path", "text_path", "text"]),
        ("image_path;color::red\na;1\n", "no-keys", ["image_path;color::red"]),
        ("image_path,a,a\nx,1,0\n", "duplicate-name", ["'a'"]),
        ("image_path,a\nx,1\n,0\n", "empty-key", ["image_path", "row 1"]),
        ("image_path,a\nx,1\ny,0,1\n", "unreadable-file", ["line 3"]),
        ('image_path,a\n"x,1\n', "unreadable-file", []),
        ("image_path,color::red\n", "empty-file", []),
        ("", "empty-file", []),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "unreadable-file", []),
    ],
)
def test_bad_tables(write, content, code, named):
    path = write(content)
    with raises(InvalidInputError, code, path, *named) as error:
        as_items(path)
    assert "\n" not in str(error.value)


def test_an_empty_cell_is_an_unknown_label(write):
    items = as_items(write("image_path,color::red\na,0\nb,\nc,1\n"))
    assert items.concepts["color::red"].tolist() == [False, None, True]
    items = as_items(pd.DataFrame({"key": ["a", "b"], "color::red": [1, None]}))
    assert items.concepts["color::red"].tolist() == [True, None]
    assert items.key.tolist() == ["a", "b"]


def test_bad_frames():
    with raises(InvalidInputError, "invalid-label", "'color::red'", "0.5", "row 0"):
        as_items({"image_path": ["a", "b"], "color::red": [0.5, 1.0]})
    with raises(InvalidInputError, "wrong-length", "image_path (2,), color::red (1,)"):
        as_items({"image_path": ["a", "b"], "color::red": [1]})
    with raises(InvalidInputError, "unsupported-items", "a list"):
        as_items(["a", "b"])


def test_missing_file_names_its_neighbours(write):
    path = write(CLEVR)
    with raises(NotFoundError, "no-such-file", "'metadata.csv'"):
        as_items(path.with_name("metadta.csv"))
    with raises(NotFoundError, "no-such-file", "nowhere"):
        as_items(path.parent / "nowhere" / "metadata.csv")
    with raises(InvalidInputError, "not-a-file", path.parent):
        as_items(path.parent)


def test_import_needs_neither_torch_nor_pandas():
    code = "import sys, saestore.tables; print([m for m in ('torch', 'pandas', 'sae_lens') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "content",
    [
        "image_path,red,split\na,TRUE,train\nb,FALSE,cal\nc,true,test\n",
        "image_path, red, split\na, 1, train\nb, 0, cal\nc, 1, test\n",
        "image_path ,red ,split \na ,1 ,train \nb ,0 ,cal \nc ,1 ,test \n",
        'image_path, "red", "split"\na, "1", "train"\nb, "0", "cal"\nc, "1", "test"\n',
        'image_path,red,split\na, "1", "train"\nb, "0", "cal"\nc, "1", "test"\n',
        "Image_Path,red,SPLIT\na,1.00,train\nb,0.,cal\nc,1e0,test\n",
        "image_path\ufeff,red\u200b,split\na,1,train\nb,0,cal\nc,1,test\n",
        '"image_path","red","split"\n"a","True","train"\n"b","False","cal"\n"c","True","test"\n',
    ],
    ids=[
        "spreadsheet",
        "after commas",
        "before commas",
        "quotes after spaces",
        "values after spaces",
        "capitals",
        "invisible",
        "quotes",
    ],
)
def test_tables_as_spreadsheets_and_hands_leave_them(write, content):
    items = Items.from_csv(write(content))
    assert items.key.tolist() == ["a", "b", "c"]
    assert items.concepts["red"].tolist() == [True, False, True]
    assert items.columns["split"].tolist() == ["train", "cal", "test"]


def test_a_split_has_no_spaces_beside_it(tmp_path):
    (tmp_path / "m.csv").write_text("key,split\na,\ttest\nb,test\u00a0\n")
    assert as_items(tmp_path / "m.csv").columns["split"].tolist() == ["test", "test"]


def test_spaces_of_texts_are_kept(write):
    """Token spans count from the first character of a text."""
    items = Items.from_csv(write("text,red\n a b ,1\nc,0\n"))
    assert items.columns["text"].tolist() == [" a b ", "c"]


def test_labels_that_are_masked_or_minus_one_are_not_false():
    items = as_items({"key": list("abcd"), "masked": np.ma.array([1, 0, 1, 0], mask=[0, 0, 1, 0]), "n": [-1, 0, 1, -1]})
    assert np.ma.getmaskarray(items.concepts["masked"]).tolist() == [False, False, True, False]
    assert items.columns["n"].tolist() == [-1, 0, 1, -1]
    with raises(InvalidInputError, "invalid-label", "-1"):
        as_items({"key": list("abcd"), "red": [-1, 0, 1, 1]})


def test_half_characters_are_refused():
    with raises(InvalidInputError, "invalid-text", "key"):
        as_items({"key": ["a", "\udc80"]})


def test_words_that_look_like_labels_or_splits_in_another_case_are_named():
    items = {"key": ["a", "b", "c"], "split": ["Train", "test", "Other"], "red": ["yes", "No", ""]}
    with pytest.warns(UserWarning, match="split|red") as warned:
        read = as_items(items)
    assert [any(word in str(w.message) for w in warned) for word in ("split 'Train'", "'red' is text")] == [True, True]
    assert read.columns["split"].tolist() == ["train", "test", "Other"]
    assert read.columns["red"].tolist() == ["yes", "No", ""]


def test_a_split_that_is_kept_in_lower_case_is_found_as_it_was_given():
    table = {"key": list("abc"), "split": ["Train", "TEST", "Other"]}
    with pytest.warns(UserWarning, match="lower case"):
        acts = saestore.open(MemoryStore(), "a").write("T/cls/s", sp.eye_array(3, format="csr"), items=table)
    conditions = ({"split": "Train"}, 'split == "TEST"', 'split != "Test"', {"split": ["TRAIN", "other"]})
    assert [acts.samples.where(each).tolist() for each in conditions] == [[0], [1], [0, 2], [0]]
    assert samples_on(acts, "Test").tolist() == [False, True, False]
    acts.items.set("split", ["Train", "train", "test"])
    assert acts.samples.where('split == "Train"').tolist() == [0]


def test_what_is_not_a_text_or_a_number_is_refused():
    torch = pytest.importorskip("torch")
    read = as_items({"key": [b"\xc3\xa9", b"b"], "n": torch.tensor([3, 4]), "red": torch.tensor([0, 1])})
    assert (read.key.tolist(), read.columns["n"].tolist()) == (["é", "b"], [3, 4])
    assert read.concepts["red"].tolist() == [False, True]
    for value, code in ((object(), "unsupported-dtype"), ({}, "unsupported-dtype"), (b"\xff", "invalid-text")):
        with raises(InvalidInputError, code, "'n'"):
            as_items({"key": ["a", "b"], "n": [value, value]})
    with raises(InvalidInputError, "unsupported-tensor", "'n'", "meta"):
        as_items({"key": ["a", "b"], "n": torch.zeros(2, device="meta")})
    for missing in ([1.0, np.nan], [1, None]):
        with raises(InvalidInputError, "empty-key", "row 1"):
            as_items({"key": missing})
