"""The query commands: what they print equals numpy on the dense tensor."""

import csv
import io
import json

import cli_stores
import numpy as np
import pytest
from cli_stores import ask, ask_json, invoke, text_spans

import saestore
from saestore.stats import STATISTICS


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return cli_stores.image_store(tmp_path_factory.mktemp("cli") / "images.zarr")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return cli_stores.text_store(tmp_path_factory.mktemp("cli") / "texts.zarr")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return cli_stores.several_sets(tmp_path_factory.mktemp("cli") / "several.zarr")


def cells(text):
    """The head and the rows of a table whose cells hold no two spaces, its heading skipped."""
    lines = [line.split("  ") for line in text.splitlines()[1:]]
    head, *rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return head, rows


# top-samples


def strongest(dense, feature, n, per_item=False, kept=None):
    """Samples and activations, by a full sort of the dense column."""
    values = dense[:, feature]
    order = np.lexsort((np.arange(len(values)), -values))
    order = order[values[order] != 0]
    if kept is not None:
        order = order[kept[order // cli_stores.PATCHES]]
    if per_item:
        order = order[np.sort(np.unique(order // cli_stores.PATCHES, return_index=True)[1])]
    return order[:n].tolist(), values[order[:n]].tolist()


WHERE = {
    "everywhere": ([], None),
    "split": (["split=test"], [s == "test" for s in cli_stores.SPLITS]),
    "two values": (["split=test", "split=cal"], [s in ("test", "cal") for s in cli_stores.SPLITS]),
    "concept": (["color::red=true"], [r == 1 for r in cli_stores.RED]),
    "not concept": (["color::red=FALSE"], [r == 0 for r in cli_stores.RED]),
    "number": (["width=641"], [i % 2 == 1 for i in range(cli_stores.N_ITEMS)]),
    "both": (
        ["split=train", "color::red=no"],
        [s == "train" and r == 0 for s, r in zip(cli_stores.SPLITS, cli_stores.RED, strict=True)],
    ),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("level", ["sample", "item"])
def test_top_samples_equal_a_sort_of_the_dense_column(images, level, where):
    given, kept = WHERE[where]
    options = [word for condition in given for word in ("--where", condition)]
    found = ask_json("top-samples", "--feature", 3, "--feature", 0, "-n", 7, "--level", level, *options, store=images)
    mask = None if kept is None else np.array(kept)
    for feature in (3, 0):
        samples, values = strongest(images.dense, feature, 7, level == "item", mask)
        rows = [row for row in found["rows"] if row["feature"] == feature]
        assert [row["sample"] for row in rows] == samples
        assert [row["activation"] for row in rows] == values
    assert [row["feature"] for row in found["rows"]] == sorted((r["feature"] for r in found["rows"]), reverse=True)
    assert {key: found[key] for key in ("set", "level", "n", "where")} == {
        "set": "Toy/patch/x",
        "level": level,
        "n": 7,
        "where": given or None,
    }


def test_a_patch_is_told_by_key_row_and_column(images):
    rows = ask_json("top-samples", "--feature", 2, store=images)["rows"]
    assert rows
    for row in rows:
        assert (row["item"], row["position"]) == divmod(row["sample"], 9)
        assert (row["row"], row["column"]) == divmod(row["position"], 3)
        assert row["key"] == cli_stores.IMAGES[row["item"]]
        assert row["text"] is row["token"] is row["char_start"] is row["char_stop"] is None


def test_top_samples_table_says_what_the_json_says(images):
    head, rows = cells(ask("top-samples", "--feature", 2, "-n", 5, store=images))
    assert head == ["activation", "sample", "item", "key", "row", "column"]
    expected = ask_json("top-samples", "--feature", 2, "-n", 5, store=images)["rows"]
    assert len(rows) == 5
    for row, values in zip(rows, expected, strict=True):
        assert float(row[0]) == pytest.approx(values["activation"], rel=1e-4)
        assert row[1:] == [str(values[name]) for name in ("sample", "item", "key", "row", "column")]


def test_numbers_are_aligned_on_the_right(images):
    lines = ask("top-samples", "--feature", 2, store=images).splitlines()[1:]
    ends = {line.index("activation") + len("activation") for line in lines[:1]} | {
        len(line) - len(line.lstrip()) + len(line.split()[0]) for line in lines[1:]
    }
    assert len(ends) == 1


def test_several_features_have_a_column_of_their_own(images):
    head, rows = cells(ask("top-samples", "--feature", 2, "--feature", 5, "-n", 2, store=images))
    assert head[0] == "feature"
    assert [row[0] for row in rows] == ["2", "2", "5", "5"]


def test_a_set_without_items_has_neither_key_nor_position(several):
    head, _ = cells(ask("top-samples", "--feature", 1, "Toy/cls", store=several))
    assert head == ["activation", "sample"]
    rows = ask_json("top-samples", "--feature", 1, "Toy/cls", store=several)["rows"]
    assert all(row["key"] is None and row["row"] is None and row["position"] == 0 for row in rows)


def test_a_feature_that_is_never_active_is_said_to_be(images):
    dead = cli_stores.N_FEATURES - 1
    result = invoke("top-samples", "--feature", dead, store=images)
    assert result.exit_code == 0
    assert f"no sample has feature {dead} active" in result.stderr
    assert ask_json("top-samples", "--feature", dead, store=images)["rows"] == []


@pytest.mark.filterwarnings("default")
def test_a_condition_that_nothing_fulfils_is_said_to_be(images):
    result = invoke("top-samples", "--feature", 2, "--where", "split=tset", "--json", store=images)
    assert json.loads(result.stdout)["rows"] == []
    assert "--where split=tset" in result.stderr


def test_a_negative_feature_counts_from_the_end(images):
    result = invoke("top-samples", "--feature", -2, "--json", store=images)
    assert {row["feature"] for row in json.loads(result.stdout)["rows"]} == {cli_stores.N_FEATURES - 2}
    assert result.stderr == ""
    similar = invoke("similar", "--feature", -2, "--json", store=images)
    assert json.loads(similar.stdout)["feature"] == cli_stores.N_FEATURES - 2


@pytest.mark.parametrize(
    ("arguments", "option", "named"),
    [
        (["diff", "--group-a", "color::purple"], "--group-a", "color::purple"),
        (["diff", "--group-a", "color::red", "--group-b", "blue"], "--group-b", "blue"),
        (["card", "--feature", 2, "--output", "card.pdf"], "--output", ".html"),
        (["export", "Toy/patch/x", "x.npz", "--format", "scipy", "--features", "9-3"], "--features", "3-9"),
    ],
)
def test_an_error_names_the_option_that_it_is_about(images, arguments, option, named):
    result = invoke(*arguments, store=images)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"'{option}'" in result.stderr
    assert named in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["top-samples", "--feature", 10**6], 1, "out-of-range"),
        (["stats", "--where", "colour=red"], 2, "unknown-column"),
        (["info", "Elsewhere/patch"], 1, "unknown-set"),
        (["concepts", "--choose-on", "split=cal"], 2, "usage"),
        (["delete", "--yes", "Elsewhere/patch"], 1, "unknown-set"),
    ],
)
def test_an_error_is_json_where_the_answer_would_be(images, arguments, status, code):
    result = invoke(*arguments, "--json", store=images)
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (status, code)
    assert " ".join(error["message"].split()) in " ".join(result.stderr.split())
    assert invoke(*arguments, store=images).stdout == ""


# Texts


def test_the_token_of_a_text_is_told_by_its_characters(texts):
    rows = ask_json("top-samples", "--feature", 0, "-n", 1000, store=texts)["rows"]
    tokens = [token for text in cli_stores.TEXTS for token in text]
    assert len(rows) == len(tokens)
    for row in rows:
        assert row["token"] == tokens[row["sample"]]
        assert row["text"] == "".join(cli_stores.TEXTS[row["item"]])
        assert row["text"][row["char_start"] : row["char_stop"]] == row["token"]
        assert row["key"] == str(row["item"])


@pytest.mark.parametrize(
    ("sample", "shown"),
    [
        (1, "Oh [great], another Monday"),
        (2, "Oh great[,] another Monday"),
        (6, r"line[\n]break and tab"),
        (9, "line break and [tab]"),
        (10, "[🙂] happy 👩\u200d👩\u200d👧 日本語 naïve"),
        (len(text_spans()) - 2, "\N{REPLACEMENT CHARACTER}[31mred alert[\\u202e]!"),
        (12, "🙂 happy [👩\u200d👩\u200d👧] 日本語 naïve"),
    ],
)
def test_the_token_is_marked_in_its_text(texts, sample, shown):
    assert ask("top-features", "--sample", sample, store=texts).splitlines()[2] == shown


def test_a_long_text_is_cut_around_its_token(texts):
    sample = 5 * 3 + 2 + 60
    lines = ask("top-samples", "--feature", 0, "-n", 1000, store=texts).splitlines()
    (line,) = [line for line in lines if line.split()[1:2] == [str(sample)]]
    text = line[line.index("…") :]
    assert len(line) == 100
    assert "word [needle] straw" in text
    assert text.startswith("…")
    assert text.endswith("…")


def test_a_table_has_a_line_a_row_and_no_control_characters(texts):
    out = ask("top-samples", "--feature", 0, "-n", 1000, store=texts)
    assert len(out.splitlines()) == 2 + len(texts.dense)
    assert all(char.isprintable() or char in "\n\u200d" for char in out)
    assert max(map(len, out.splitlines())) <= 100


# top-features


@pytest.mark.parametrize("sample", [0, 17, 53])
def test_top_features_equal_a_sort_of_the_dense_row(images, sample):
    found = ask_json("top-features", "--sample", sample, "-n", 4, store=images)
    values = images.dense[sample]
    order = np.lexsort((np.arange(len(values)), -values))
    order = order[values[order] != 0][:4]
    assert [row["feature"] for row in found["rows"]] == order.tolist()
    assert [row["activation"] for row in found["rows"]] == values[order].tolist()
    assert {row["key"] for row in found["rows"]} == {cli_stores.IMAGES[sample // 9]}
    lines = ask("top-features", "--sample", sample, "-n", 4, store=images).splitlines()
    assert lines[2].split() == ["feature", "activation"]
    assert [int(line.split()[0]) for line in lines[3:]] == order.tolist()


def test_several_samples_have_a_table_each(images):
    out = ask("top-features", "--sample", 17, "--sample", 3, "-n", 2, store=images)
    assert out.count("feature  activation") == 2
    assert "row 2, column 2" in out
    assert "row 1, column 0" in out


# stats


def test_stats_equal_numpy_on_the_dense_tensor(images):
    found = ask_json("stats", "-n", cli_stores.N_FEATURES, "--sort", "feature", store=images)
    assert found["n_samples"] == len(images.dense)
    assert [row["feature"] for row in found["rows"]] == list(range(cli_stores.N_FEATURES))
    for row, values in zip(found["rows"], images.dense.T.astype(np.float64), strict=True):
        active = values[values != 0]
        expected = {
            "n_active": len(active),
            "frac_nonzero": len(active) / len(values),
            "mean": values.mean(),
            "std": values.std(),
            "mean_active": active.mean() if len(active) else None,
            "min": active.min() if len(active) else None,
            "max": active.max() if len(active) else None,
        }
        for name, value in expected.items():
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-12, abs=1e-15)), name


@pytest.mark.parametrize("name", ["n_active", "max", "mean_active", "std"])
def test_stats_are_sorted_largest_first_and_the_dead_last(images, name):
    rows = ask_json("stats", "--sort", name, store=images)["rows"]
    values = [-np.inf if row[name] is None else row[name] for row in rows]
    assert values == sorted(values, reverse=True)
    assert rows[-1]["feature"] == cli_stores.N_FEATURES - 1


def test_stats_show_the_most_active_first_by_default(images):
    head, rows = cells(ask("stats", "-n", 3, store=images))
    assert head == ["feature", "n_active", "frac_nonzero", "mean", "std", "mean_active", "min", "max"]
    n_active = (images.dense != 0).sum(axis=0)
    assert [int(row[1]) for row in rows] == np.sort(n_active)[::-1][:3].tolist()


def test_stats_of_given_features_keep_their_order(images):
    rows = ask_json("stats", "--feature", 7, "--feature", 2, store=images)["rows"]
    assert [row["feature"] for row in rows] == [7, 2]
    _, table = cells(ask("stats", "--feature", cli_stores.N_FEATURES - 1, store=images))
    assert table[0][-3:] == ["-", "-", "-"]


def test_stats_where_are_over_these_samples_only(images):
    found = ask_json("stats", "--feature", 3, "--where", "split=test", store=images)
    kept = np.repeat([s == "test" for s in cli_stores.SPLITS], 9)
    assert found["n_samples"] == kept.sum()
    assert found["rows"][0]["n_active"] == np.count_nonzero(images.dense[kept, 3])


def test_stats_csv_holds_every_feature_exactly(images):
    rows = list(csv.DictReader(io.StringIO(ask("stats", "--csv", store=images))))
    table = saestore.open(images.path)["Toy"].stats()
    assert [int(row["feature"]) for row in rows] == list(range(cli_stores.N_FEATURES))
    for statistic in STATISTICS:
        values = np.array([float(row[statistic.name] or "nan") for row in rows])
        np.testing.assert_array_equal(values.astype(table[statistic.name].dtype), table[statistic.name].to_numpy())


# info


def test_info_lists_every_set(several):
    lines = ask("info", store=several).splitlines()
    head, *rows = [line.split() for line in lines]
    assert head == ["set", "samples", "features", "non-zeros", "L0", "items", "size", "dense", "state"]
    assert [row[0] for row in rows] == ["Other/cls/y", "Toy/cls/x", "Toy/patch/x"]
    assert {tuple(row[1:4]) for row in rows} == {("20", "8", str(np.count_nonzero(several.dense)))}


def test_info_of_a_set_says_all_of_it(images):
    out = ask("info", "Toy", store=images)
    said = {name.strip(): value.strip() for name, value in (line[2:].split("  ", 1) for line in out.splitlines()[1:])}
    assert said["samples"] == "54 of 6 items"
    assert said["non-zeros"] == str(np.count_nonzero(images.dense))
    assert said["segments"] == "1: 0-54"
    assert said["state"] == "complete"
    assert said["item columns"] == "key, split, width"
    assert said["concepts"] == "color::red"


def test_info_json_is_that_of_the_set(images):
    (found,) = ask_json("info", store=images)["sets"]
    assert found == ask_json("info", "Toy/patch", store=images)["sets"][0]
    assert found == saestore.open(images.path)["Toy"].info()
    assert (found["nnz"], found["dead_features"]) == (np.count_nonzero(images.dense), 1)


def test_info_of_a_set_that_is_being_built_says_how_far_it_is(tmp_path):
    dense = cli_stores.random_activations(40, 5, seed=4)
    cli_stores.write_segments(tmp_path / "s.zarr", "Toy/cls/x", dense, [10, 10], finish=False)
    assert "50% built" in invoke("info", "--store", tmp_path / "s.zarr").stdout


def test_info_of_an_empty_store_says_what_to_do(tmp_path):
    saestore.open(tmp_path / "empty.zarr", mode="a")
    result = invoke("info", "--store", tmp_path / "empty.zarr")
    assert result.exit_code == 0
    assert "saestore build" in result.stdout
