"""Dashboards for Neuronpedia, Delphi's neighbours, and columns joined in Parquet, against numpy and pandas."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from cli_stores import ask, text_store
from raising import raises
from strategies import memory_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError

N, CTX, D = 15, 4, 12
DENSE = np.random.default_rng(0).random((N * CTX, D)).astype(np.float32)
DENSE[DENSE < 0.6] = 0
DENSE[:, 5] = 0
SPLIT = np.array(["train", "test", "val"] * 5)
SPANS = np.tile([[0, 3], [3, 6], [6, 9], [9, 11]], (N, 1))
TEXTS = [f"aa bb cc {chr(97 + i)}d" for i in range(N)]
ITEMS = {
    "text": TEXTS,
    "split": SPLIT,
    "size": np.arange(N) % 4,
    "red": np.ma.array(np.arange(N) % 2, mask=SPLIT == "val"),
}


@pytest.fixture(scope="module")
def acts():
    items = {**ITEMS, "red": np.ma.filled(ITEMS["red"], 0)}
    sae = {"name": "s", "hook_name": "blocks.6.hook_resid_post", "model_name": "tiny"}
    how = {"item_ptr": CTX, "items": items, "token_spans": SPANS, "sae": sae}
    written = memory_store().write("A/token/s", sp.csr_array(DENSE), **how)
    written.concepts.add({"first": np.arange(N * CTX) % CTX == 0}, level="sample")
    written.concepts.add({"known": np.ma.array(SPLIT == "test", mask=SPLIT == "val")}, level="item")
    return written


def dashboards(acts, folder, **how):
    done = saestore.export(acts, folder / "x.json", **how)
    batch = json.loads(done.files[0].read_text())
    return batch, batch["features"]


def test_a_dashboard_shows_what_numpy_counts(acts, tmp_path):
    batch, features = dashboards(acts, tmp_path)
    assert (batch["model_id"], batch["layer"], batch["sae_set"], len(features)) == ("tiny", 6, "s", D)
    correlation = np.corrcoef(DENSE.T.astype(float)[np.arange(D) != 5])
    for number, feature in enumerate(features):
        column = DENSE[:, number]
        assert feature["feature_index"] == number
        assert feature["frac_nonzero"] == np.count_nonzero(column) / len(DENSE)
        assert feature["freq_hist_data_bar_heights"] == (
            np.histogram(column[column > 0], 40)[0].tolist() if column.any() else []
        )
        tops = [shown for shown in feature["activations"] if shown["bin_min"] == -1]
        assert [max(shown["values"]) for shown in tops][:1] == pytest.approx([column.max()] if column.any() else [])
        assert len(tops) == min(10, np.count_nonzero(column))
        for shown in feature["activations"]:
            item = TEXTS.index("".join(shown["tokens"]))
            assert shown["values"][shown["qualifying_token_index"]] > 0
            assert shown["values"] == pytest.approx(column[item * CTX : (item + 1) * CTX].tolist())
            assert shown in tops or any(shown["bin_min"] <= v <= shown["bin_max"] * 1.000001 for v in shown["values"])
        if number != 5:
            place = number - (number > 5)
            others = np.delete(correlation[place], place)
            assert feature["correlated_features_pearson"] == pytest.approx(np.sort(others)[::-1][:5].tolist(), abs=1e-5)


def test_saedashboard_reads_it(acts, tmp_path):
    peer = pytest.importorskip("sae_dashboard.neuronpedia.neuronpedia_dashboard")
    batch, features = dashboards(acts, tmp_path)
    read = peer.NeuronpediaDashboardBatch(**batch)
    assert [f.feature_index for f in read.features] == [f["feature_index"] for f in features]
    assert [a.tokens for a in read.features[1].activations] == [a["tokens"] for a in features[1]["activations"]]


def test_only_some_samples_and_features(acts, tmp_path):
    _, features = dashboards(acts, tmp_path, where={"split": "test"}, features=[7, 2])
    assert [each["feature_index"] for each in features] == [2, 7]
    column = DENSE[np.repeat(SPLIT == "test", CTX)][:, 2]
    assert features[0]["frac_nonzero"] == np.count_nonzero(column) / len(column)
    assert features[0]["activations"][0]["bin_max"] == pytest.approx(column.max())


def test_logits_of_an_unembedding(tmp_path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    shapes = {"pre_b": (3,), "enc": (3, D), "dec": (D, 3)}
    weights = {name: torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}
    torch.save({"k": 4, "n_features": D, "d_in": 3, "model_state_dict": weights}, tmp_path / "1200.pt")
    acts = memory_store().write("A/token/s", sp.csr_array(DENSE), item_ptr=CTX, sae=str(tmp_path / "1200.pt"))
    matrix, tokens = rng.normal(size=(3, 50)).astype(np.float32), [f"t{i}" for i in range(50)]
    np.save(tmp_path / "head.npy", matrix.T)
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    effects = weights["dec"].numpy().astype(float) @ matrix
    for number, given in enumerate([(matrix, tokens), (tmp_path / "head.npy", tmp_path / "vocab.json")]):
        _, features = dashboards(acts, tmp_path / str(number), unembedding=given, features=[4])
        order = np.argsort(-effects[4])
        assert features[0]["pos_str"] == [tokens[i] for i in order[:10]]
        assert features[0]["neg_str"] == [tokens[i] for i in order[::-1][:10]]
        assert features[0]["neg_values"] == pytest.approx(effects[4][order[::-1][:10]].tolist(), rel=1e-5)
        assert sum(features[0]["logits_hist_data_bar_heights"]) == 50
    with raises(InvalidInputError, "wrong-unembedding", "3 x 50", 49):
        dashboards(acts, tmp_path, unembedding=(matrix, tokens[1:]))
    with raises(InvalidInputError, "bad-vocabulary"):
        dashboards(acts, tmp_path, unembedding=(matrix, 7))
    assert not (tmp_path / "x.json").exists()


def test_neighbours_are_the_largest_jaccard_indices(acts, tmp_path):
    done = saestore.export(acts, tmp_path / "neighbours", format="delphi-neighbours", features=[1, 2, 5])
    lists = json.loads((done.files[0] / "blocks.6.hook_resid_post-co-occurrence.json").read_text())
    assert list(lists) == ["1", "2", "5"]
    assert lists["5"] == []
    active = DENSE != 0
    for feature in (1, 2):
        both = (active[:, [feature]] & active).sum(0)
        jaccard = both / np.maximum(1, (active[:, [feature]] | active).sum(0))
        jaccard[feature] = -1
        expected = np.sort(jaccard[both > 0])[::-1][:10]
        assert [score for _, score in lists[str(feature)]] == pytest.approx(expected[expected > 0].tolist())
        assert all(jaccard[other] == pytest.approx(score) for other, score in lists[str(feature)])


def test_joined_columns(acts, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    item = np.repeat(np.arange(N), CTX)
    saestore.export(acts, tmp_path / "x.parquet", columns=["split", "size", "known", "first"])
    table = pandas.read_parquet(tmp_path / "x.parquet")
    rows = table["sample"].to_numpy()
    assert np.array_equal(rows, np.nonzero(DENSE)[0])
    assert table["split"].tolist() == SPLIT[item[rows]].tolist()
    assert table["size"].tolist() == ITEMS["size"][item[rows]].tolist()
    assert table["first"].tolist() == (rows % CTX == 0).tolist()
    known = [None if SPLIT[i] == "val" else SPLIT[i] == "test" for i in item[rows]]
    assert table["known"].astype(object).where(table["known"].notna(), None).tolist() == known
    saestore.export(acts, tmp_path / "all.parquet", columns="all")
    assert {"text", "red", "first", "token_start"} <= set(pandas.read_parquet(tmp_path / "all.parquet"))
    with raises(NotFoundError, "unknown-column", "spilt", "split"):
        saestore.export(acts, tmp_path / "y.parquet", columns=["spilt"])
    with raises(InvalidInputError, "option-of-another-format", "columns"):
        saestore.export(acts, tmp_path / "y.npz", columns=["split"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.parquet", "x.parquet"]


def test_on_the_command_line(tmp_path):
    store = text_store(tmp_path / "s.zarr")
    out = tmp_path / "x.json"
    said = ask("export", store.name, str(out), "--features", "0-2", store=store)
    assert "as neuronpedia" in said
    assert [each["feature_index"] for each in json.loads(out.read_text())["features"]] == [0, 1, 2]


def test_parquet_on_the_command_line_joins_no_columns_unless_asked(tmp_path):
    pytest.importorskip("pyarrow")
    store = text_store(tmp_path / "s.zarr")
    for columns, joined in (([], set()), (["--columns", "text"], {"text"})):
        ask("export", store.name, tmp_path / "x.parquet", "--overwrite", *columns, store=store)
        table = pytest.importorskip("pandas").read_parquet(tmp_path / "x.parquet")
        assert set(table) == {"sample", "feature", "activation", "item", "position"} | joined
