"""The explorer without a browser: its answers beside numpy, its errors, what it refuses, what it writes."""

import json
import re
import shlex
import threading
from html import unescape
from urllib.parse import quote

import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from raising import raises
from web_fuzz import fuzz
from web_stores import EVIL, IMAGES, N_FEATURES, N_ITEMS, OTHER, SPLITS, TOKENS, dense, explorer_of, get, make_store

import saestore
from saestore.cli import main
from saestore.errors import TooLargeError
from saestore.progress import deadline
from saestore.web import compare, drawing, tables
from saestore.web.keys import KEYS, markdown
from saestore.web.request import Request, as_json

pytestmark = pytest.mark.once

X, T = f"/{IMAGES}", f"/{TOKENS}"
PAGES = [
    "/", X, T, f"{X}/features", f"{X}/features/2", f"{X}/features/9", f"{X}/features/2?level=sample&from=random&n=3",
    f"{X}/features/2?level=sample&from=range:0.5,1&where=split == 'test'", f"{X}/features/2?offset=2&n=2",
    f"{X}/features/2?concept=middle&where=split == 'test'&intervals=1", f"{X}/features/2?from=silent",
    f"{T}/features/1?from=quantile:0.5&context=2", f"{X}/items", f"{X}/items/3?feature=2&concept=middle",
    f"{T}/items/3?position=4", f"{X}/items/7", f"{X}/concepts", f"{X}/concepts/color::red", f"{X}/concepts/middle",
    f"{X}/compare", f"{X}/compare?other={OTHER}&metric=jaccard",
    f"{X}/compare?other={OTHER}&match=one-to-one", "/search", "/search?q=five",
    f"/search?set={OTHER}&like=item:2",
]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def explorer(path):
    return explorer_of(path)


def data(explorer, address):
    """The JSON twin of a page."""
    head, mark, query = address.partition("?")
    answer = get(explorer, f"{'/index' if head == '/' else head}.json{mark}{query}")
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


@pytest.mark.parametrize("address", PAGES)
def test_a_page_and_its_twin_come_from_one_answer(explorer, address):
    page, twin = get(explorer, address), data(explorer, address)
    html = page.body.decode()
    assert (page.status, page.media_type) == (200, "text/html")
    assert twin["python"] in unescape(html)
    assert EVIL not in html
    assert not re.findall(r"<script(?! defer src=)|\sstyle=|\son\w+=", html), "CSP would block it"
    assert ".json" in html


@pytest.mark.parametrize("address", PAGES)
def test_copied_lines_run(explorer, address, monkeypatch):
    twin = data(explorer, address)
    if twin["command"] is not None:
        words = shlex.split(twin["command"])
        result = CliRunner().invoke(main, words[1:], prog_name="saestore")
        assert result.exit_code == 0, result.output
    exec(twin["python"], {"saestore": saestore})


def test_a_feature_is_what_numpy_computes(explorer):
    values = dense(0)[:, 2]
    twin = data(explorer, f"{X}/features/2?level=sample&n=64&bins=40")
    assert {"feature", "name", "stats", "histogram", "examples", "concepts", "similar"} <= twin.keys()
    assert (twin["feature"], twin["name"]) == (2, EVIL)
    active = np.flatnonzero(values)
    expected = active[np.lexsort((active, -values[active]))]
    assert [e["sample"] for e in twin["examples"]] == expected[:64].tolist()
    assert [e["activation"] for e in twin["examples"]] == values[expected[:64]].tolist()
    for e in twin["examples"]:
        assert (e["item"], e["position"]) == divmod(e["sample"], 9)
        whole = np.zeros(9)
        for position, value in e["heat"]:
            whole[position] = value
        assert np.array_equal(whole, values[9 * e["item"] :][:9])
    counts, edges = np.histogram(values[active], 40)
    assert twin["histogram"]["count"] == counts.tolist()
    np.testing.assert_allclose(twin["histogram"]["left"], edges[:-1], rtol=1e-6, atol=1e-7)
    assert twin["stats"]["n_active"] == len(active)
    np.testing.assert_allclose(twin["stats"]["std"], values.astype(float).std())


def test_a_condition_restricts_everything(explorer):
    twin = data(explorer, f"{X}/features/2?level=item&where=split == 'test'")
    items = np.array(SPLITS) == "test"
    of_test = dense(0)[:, 2].reshape(N_ITEMS, 9)[items]
    best = of_test.max(axis=1)
    assert {e["split"] for e in twin["examples"]} == {"test"}
    assert [e["activation"] for e in twin["examples"] if e["activation"] > 0] == sorted(best[best > 0])[::-1]
    assert twin["stats"]["n_samples"] == of_test.size
    assert twin["stats"]["n_active"] == (of_test != 0).sum()
    np.testing.assert_allclose(twin["stats"]["mean"], of_test.mean(), rtol=1e-6)


@pytest.mark.parametrize(("origin", "q"), [("quantile:0", 0), ("quantile:0.5", 0.5), ("quantile:1", 1)])
def test_quantiles_take_examples_around_theirs(explorer, origin, q):
    values = dense(0)[:, 2]
    ordered = np.sort(values[values != 0])[::-1]
    twin = data(explorer, f"{X}/features/2?level=sample&n=5&from={origin}")
    shown = [e["activation"] for e in twin["examples"]]
    assert len(shown) == 5
    assert min(shown) <= np.quantile(ordered, q) <= max(shown)


def test_a_range_random_and_silent_examples(explorer):
    values = dense(0)[:, 2]
    ranged = data(explorer, f"{X}/features/2?level=sample&n=64&from=range:0.5,1")
    assert ranged["n_candidates"] == ((values >= 0.5) & (values <= 1)).sum()
    drawn = [e["sample"] for e in data(explorer, f"{X}/features/2?level=sample&n=6&from=random&seed=1")["examples"]]
    assert len(set(drawn)) == 6
    assert (values[drawn] != 0).all()
    silent = [e["sample"] for e in data(explorer, f"{X}/features/2?level=sample&n=6&from=silent")["examples"]]
    assert len(set(silent)) == 6
    assert (values[silent] == 0).all()
    near = [e["sample"] for e in data(explorer, f"{X}/features/2?level=sample&n=6&from=near")["examples"]]
    assert (values[near] == 0).all()
    assert len(near) == 6


@pytest.mark.parametrize(
    "rest", ["from=top&offset=3&n=2", "from=quantile:0.5&n=3", "from=quantile:0", "from=range:0.5,1", "from=range:3,4",
             "from=range:0.3,1.2&offset=1&where=split == 'test'", "from=top&offset=999"])  # fmt: skip
@pytest.mark.parametrize("level", ["item", "sample"])
def test_copied_python_gives_the_examples_of_the_page(explorer, rest, level):
    twin = data(explorer, f"{X}/features/2?level={level}&{rest}")
    names = {"saestore": saestore}
    exec(twin["python"].replace("\nacts.", "\nfound = acts."), names)
    assert names["found"].sample.tolist() == [example["sample"] for example in twin["examples"]]


def test_scores_and_neighbours_are_those_of_the_set(explorer, path, monkeypatch):
    acts = saestore.open(path)[IMAGES]
    twin = data(explorer, f"{X}/features/2?where=split != 'cal'")
    scores = acts.concepts.scores("item", where="split != 'cal'", features=[2])
    (red,) = [row for row in twin["concepts"] if row["concept"] == "color::red"]
    assert red["roc_auc"] == scores["roc_auc"].sel(concept="color::red").item()
    assert red["where"] == "split != 'cal'"
    similar, matches = acts.similar(2), acts.compare(saestore.open(path)[OTHER], "jaccard", 3)
    matches = matches[matches.feature == 2]
    for rare in (compare._RARE, 0):  # rows are read, or counted from ids that are held
        monkeypatch.setattr(compare, "_RARE", rare)
        twin = data(explorer, f"{X}/features/2?other={OTHER}&where=split != 'cal'")
        for name, found in (("similar", (similar.feature, similar.score, similar.n_both)),
                            ("matches", (matches.other_feature, matches.score, matches.n_both))):  # fmt: skip
            keys = ["feature" if name == "similar" else "other_feature", "score", "n_both"]
            assert [[row[key] for key in keys] for row in twin[name]] == [list(row) for row in zip(*found, strict=True)]


def test_a_question_ends_at_its_deadline(explorer):
    with deadline(-1):
        page, twin = (get(explorer, f"{X}/features/2{end}?metric=cosine&seed=99") for end in ("", ".json"))
    assert (page.status, twin.status) == (503, 503)
    assert json.loads(twin.body)["error"]["code"] == "too-slow"
    assert "ask for less" in page.body.decode()


def test_what_takes_long_is_computed_beside_the_pages(path):
    view, event = explorer_of(path).store.open(IMAGES), threading.Event()
    with deadline(0.01), raises(TooLargeError, "being-computed", "again"):
        view.remember("slow", event.wait)
    event.set()
    assert view.remember("slow", pytest.fail) is True


def test_a_mask_has_its_precision_and_iou(explorer):
    (example,) = data(explorer, f"{X}/features/2?n=1&concept=middle")["examples"]
    active = dense(0)[:, 2].reshape(N_ITEMS, 9)[example["item"]] > 0
    mask = np.arange(9) % 3 == 1
    assert example["precision"] == (active & mask).sum() / active.sum()
    assert example["iou"] == (active & mask).sum() / (active | mask).sum()
    assert 'class="mask"' in get(explorer, f"{X}/features/2?n=1&concept=middle").body.decode()


def test_features_are_sorted_and_paged(explorer):
    twin = data(explorer, f"{X}/features?sort=-max&limit=3&offset=1")
    strongest = np.where((dense(0) != 0).any(axis=0), dense(0).max(axis=0), -np.inf)
    assert [row["feature"] for row in twin["rows"]] == np.argsort(-strongest, kind="stable")[1:4].tolist()
    assert twin["n_matching"] == N_FEATURES
    named = data(explorer, f"{X}/features?where=name == 'five'")
    assert [row["feature"] for row in named["rows"]] == [5]
    assert [row["feature"] for row in data(explorer, f"{X}/features?sort=name")["rows"]][:2] == [2, 5]
    best = data(explorer, f"{X}/features?sort=-roc_auc")
    assert best["rows"] == data(explorer, f"{X}/features?sort=-roc_auc&concept=*")["rows"]
    scored = data(explorer, f"{X}/features?sort=-roc_auc of middle&concept=middle")["rows"]
    known = [row["roc_auc of middle"] for row in scored if row["roc_auc of middle"] is not None]
    assert known == sorted(known, reverse=True)


def test_features_are_filtered_by_their_statistics(explorer):
    rates = (dense(0) != 0).mean(axis=0)
    twin = data(explorer, f"{X}/features?sort=feature&where=frac_nonzero >= 0.4 and name is unknown")
    expected = [f for f in np.flatnonzero(rates >= 0.4).tolist() if f not in (2, 5)]
    assert [row["feature"] for row in twin["rows"]] == expected
    html = get(explorer, X).body.decode()
    bar = re.search(r'<a href="([^"]+frac_nonzero[^"]+)" aria-label="[^"]+: (\d+)"', html)
    assert data(explorer, unescape(bar[1]))["n_matching"] == int(bar[2])


def test_an_item_shows_its_strongest_features(explorer):
    rows = dense(0)[27:36]
    twin = data(explorer, f"{X}/items/3")
    best = {row["feature"]: row["activation"] for row in twin["features"]}
    stored = np.where(rows == 0, -np.inf, rows)
    assert best == {f: stored[:, f].max() for f in np.flatnonzero(rows.any(axis=0)).tolist()}
    at = data(explorer, f"{X}/items/3?position=4")["features"]
    assert {row["feature"]: row["activation"] for row in at} == {f: rows[4, f] for f in np.flatnonzero(rows[4])}


def test_a_concept_is_chosen_and_shown_on_different_items(explorer, path):
    twin = data(explorer, f"{X}/concepts/color::red")
    assert (twin["choose"], twin["show"], twin["same"]) == ('split != "test"', 'split == "test"', False)
    acts = saestore.open(path)[IMAGES]
    chosen = acts.concepts.scores(where='split != "test"', concepts="color::red")["roc_auc"].values[0]
    shown = acts.concepts.scores(where='split == "test"', concepts="color::red")["roc_auc"].values[0]
    best = [row["feature"] for row in twin["rows"]]
    assert [row["chosen_by"] for row in twin["rows"]] == chosen[best].tolist() == sorted(chosen[best], reverse=True)
    assert [row["roc_auc"] for row in twin["rows"]] == [None if np.isnan(v) else v for v in shown[best]]
    same = get(explorer, f"{X}/concepts/color::red?choose=item >= 0&show=item >= 0").body.decode()
    assert "optimistic" in same


def test_two_sets_match_feature_by_feature(explorer):
    twin = data(explorer, f"{X}/compare?other={OTHER}")
    assert {row["feature"]: row["other_feature"] for row in twin["rows"]} == {f: 9 - f for f in range(9)}
    pairs = data(explorer, f"{X}/compare?other={OTHER}&match=one-to-one&limit=3&offset=1")
    assert [row["feature"] + row["other_feature"] for row in pairs["rows"]] == [9, 9, 9]
    assert (pairs["n_matches"], pairs["n_unmatched"], pairs["n_other_unmatched"]) == (9, 0, 0)
    np.testing.assert_allclose([pairs["mean_score"], pairs["share"]], 1)


def test_features_without_a_match_are_named_of_both_sets(tmp_path):
    from scipy.optimize import linear_sum_assignment

    store, rng = saestore.open(tmp_path / "s.zarr", mode="a"), np.random.default_rng(3)
    one, two = np.abs(dense(5, 60)), np.abs(dense(6, 60))[:, :6]
    one[:, 0] = two[:, 0] = 0
    one[:40, 1], one[40:, 1] = 0, rng.random(20) + 1  # alone: no other feature fires on the last samples
    two[40:] = 0
    acts = store.write("A/cls/b", sp.csr_array(one))
    other = store.write("A/cls/c", sp.csr_array(two))
    explorer = explorer_of(tmp_path / "s.zarr")
    twin = data(explorer, "/A/cls/b/compare?other=A/cls/c&metric=jaccard")
    best = acts.compare(other, "jaccard")
    assert [row["feature"] for row in twin["rows"]] == best.feature[np.argsort(-best.score, kind="stable")].tolist()
    assert [row["feature"] for row in twin["unmatched"]] == [1]
    active, active_other = (set(np.flatnonzero(values.any(axis=0)).tolist()) for values in (one, two))
    assert {row["feature"] for row in twin["other_unmatched"]} == active_other - set(best.other_feature.tolist())
    pairs = data(explorer, "/A/cls/b/compare?other=A/cls/c&metric=jaccard&match=one-to-one")
    both = (one != 0).T.astype(int) @ (two != 0)
    either = (one != 0).sum(0)[:, None] + (two != 0).sum(0) - both
    scores = np.where(either > 0, both / np.maximum(either, 1), 0)
    rows, columns = linear_sum_assignment(-scores)
    np.testing.assert_allclose(sum(row["score"] for row in pairs["rows"]), scores[rows, columns].sum())
    assert {row["feature"] for row in pairs["unmatched"]} == active - {row["feature"] for row in pairs["rows"]}
    html = get(explorer, "/A/cls/b/compare?other=A/cls/c&metric=jaccard&match=one-to-one").body.decode()
    assert "are in no pair" in html


def test_large_sets_are_matched_beside_the_page(explorer, path, monkeypatch):
    store, ready = saestore.open(path), threading.Event()
    whole = {row["feature"]: row for row in store[IMAGES].compare(store[OTHER], "npmi")}
    monkeypatch.setattr(compare, "_LIVE_PAIRS", 0)
    monkeypatch.setattr(compare, "_PATIENCE", 0)
    found = compare._matches
    monkeypatch.setattr(compare, "_matches", lambda *given: ready.wait() and found(*given))
    address = f"{X}/compare?other={OTHER}&metric=npmi&limit=4&offset=2"
    page = get(explorer, address)
    assert "data-moves" in page.body.decode()
    twin = data(explorer, address)
    assert [row["feature"] for row in twin["rows"]] == [2, 3, 4, 5]
    assert (twin["partial"], twin["waiting"], twin["n_matches"], twin["n_unmatched"]) == (
        True,
        True,
        N_FEATURES - 1,
        None,
    )
    for row in twin["rows"]:
        expected = whole[row["feature"]]
        assert (row["other_feature"], row["n_both"]) == (expected["other_feature"], expected["n_both"])
        np.testing.assert_allclose(row["score"], expected["score"])
    with monkeypatch.context() as fewer:
        fewer.setattr(compare, "_MOST_SAMPLES", int((dense(0)[:, :3] != 0).sum()) + 1)
        assert data(explorer, f"{X}/compare?other={OTHER}&metric=npmi")["limit"] == 3  # as many as can be waited for
    ready.set()
    monkeypatch.setattr(compare, "_PATIENCE", np.inf)
    done = get(explorer, address, seen=page.headers["ETag"])
    assert (done.status, "data-moves" in done.body.decode()) == (200, False)
    assert data(explorer, address)["n_matches"] == len(whole)
    monkeypatch.setattr(compare, "_MOST_PRODUCTS", 0)
    assert data(explorer, address)["waiting"] is False
    assert "saestore compare" in get(explorer, address).body.decode()


def test_a_feature_shows_its_match_in_another_set(explorer):
    twin = data(explorer, f"{X}/features/2?metric=correlation")
    assert (twin["other"], twin["others"]) == (OTHER, [OTHER])
    expected = np.corrcoef(dense(0)[:, 2], dense(0)[:, :9], rowvar=False)[0, 1:]
    best = np.argsort(-expected)[:3]
    assert [row["other_feature"] for row in twin["matches"]] == (9 - best).tolist()
    np.testing.assert_allclose([row["score"] for row in twin["matches"]], expected[best], rtol=1e-6)
    other = data(explorer, f"{X}/features/2?other={TOKENS}")
    assert other["matches"] == []
    assert "samples" in other["matches_note"]


def test_the_best_concept_of_every_feature(explorer, path):
    acts = saestore.open(path)[IMAGES]
    scores = {}
    for level in ("item", "sample"):
        found = acts.concepts.scores(level)["roc_auc"]
        scores |= {name: found.sel(concept=name).values for name in found["concept"].values.tolist()}
    for row in data(explorer, f"{X}/features?concept=*&sort=-roc_auc")["rows"]:
        of_feature = {name: values[row["feature"]] for name, values in scores.items()}
        if row["roc_auc"] is not None:
            assert row["roc_auc"] == max(of_feature.values()) == of_feature[row["best concept"]]


def test_scores_that_take_long_come_later(path, monkeypatch):
    explorer, ready = explorer_of(path), threading.Event()
    found = tables._best_of
    monkeypatch.setattr(tables, "_best_of", lambda *given: ready.wait() and found(*given))
    monkeypatch.setattr(tables, "_PATIENCE", 0)
    with deadline(30):
        waiting = data(explorer, f"{X}/features?concept=*&sort=-roc_auc&limit=3")
        assert (waiting["waiting"], len(waiting["rows"])) == (True, 3)
        assert "data-moves" in get(explorer, f"{X}/features?concept=*&sort=-roc_auc").body.decode()
    ready.set()
    done = data(explorer, f"{X}/features?concept=*&sort=-roc_auc&limit=3")
    assert (done["waiting"], done["columns"][-1]) == (False, "roc_auc")


def test_neighbours_by_the_decoder(tmp_path):
    torch = pytest.importorskip("torch", reason="an SAE needs torch")
    from build_helpers import clip_scope, near

    sae = clip_scope(tmp_path / "tiny.pt")
    np.save(tmp_path / "x.npy", near(sae, 40).numpy())
    saestore.build("A", sample_type="cls", embeddings=tmp_path / "x.npy", sae=sae, store=tmp_path / "s.zarr",
                   progress=False)  # fmt: skip
    explorer = explorer_of(tmp_path / "s.zarr")
    twin = data(explorer, "/A/cls/tiny/features/3?metric=decoder")
    directions = torch.load(sae, weights_only=True)["model_state_dict"]["dec"].numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosine = directions @ directions[3]
    assert [row["feature"] for row in twin["similar"]] == np.argsort(-cosine, kind="stable")[1:11].tolist()
    np.testing.assert_allclose([row["score"] for row in twin["similar"]], np.sort(cosine)[::-1][1:11], rtol=1e-6)
    clip_scope(sae, seed=1)
    again = data(explorer_of(tmp_path / "s.zarr"), "/A/cls/tiny/features/3?metric=decoder")
    assert "fingerprint" in again["similar_note"]
    sae.unlink()
    assert get(explorer, "/A/cls/tiny/features/3?metric=decoder").status == 400
    assert "decoder" not in data(explorer, "/A/cls/tiny/features/3")["metrics"]


def test_tokens_of_a_window_are_the_text(explorer):
    twin = data(explorer, f"{T}/features/1?level=sample&n=64&context=1000")
    texts = saestore.open(explorer.store.location)[TOKENS].items["text"].tolist()
    for e in twin["examples"]:
        assert "".join(token["text"] for token in e["tokens"]) == texts[e["item"]]


def test_a_search_by_features_and_by_example_is_exact(explorer):
    values = dense(0).astype(float)
    sums = 2 * values[:, 3] + 0.5 * values[:, 4] - values[:, 1]
    address = f"/search?set={IMAGES}&level=sample&limit=5&q=" + quote("2*3 + 0.5*4 - 1")
    hits = data(explorer, address)["hits"]
    assert [hit["score"] for hit in hits] == np.sort(sums)[::-1][:5].tolist()
    assert all(sums[hit["sample"]] == hit["score"] for hit in hits)
    alike = data(explorer, f"/search?set={IMAGES}&like=sample:7&level=sample&limit=3")["hits"]
    products = values @ values[7]
    assert [hit["score"] for hit in alike] == np.sort(products)[::-1][:3].tolist()
    assert "item 3" in get(explorer, f"/search?set={IMAGES}&like=item:3").body.decode()


@pytest.mark.parametrize(
    ("address", "status", "code"),
    [
        ("/No/such/set", 404, "unknown-set"),
        ("/nowhere", 404, "unknown-page"),
        (f"{X}/nowhere", 404, "unknown-page"),
        (f"{X}/features/10", 404, "out-of-range"),
        (f"{X}/features/-1", 404, "unknown-page"),
        (f"{X}/items/99", 404, "out-of-range"),
        (f"{X}/items/99/image", 404, "out-of-range"),
        (f"{X}/items/7/image", 404, "image-missing"),
        (f"{X}/items/6/image", 400, "unreadable-image"),
        (f"{X}/items/0/image?size=9999", 400, "bad-parameter"),
        (f"{X}/concepts/blue", 404, "unknown-concept"),
        (f"{X}/features?limit=1000000", 400, "bad-parameter"),
        (f"{X}/features?sort=colour", 400, "bad-parameter"),
        (f"{X}/features?whre=1", 400, "unknown-parameter"),
        (f"{X}/features/2?where=splt == 1", 400, "unknown-column"),
        (f"{X}/features/2?n=0", 400, "bad-parameter"),
        (f"{X}/features/2?from=quantile:nan", 400, "bad-parameter"),
        (f"{X}/features/2?from=nearly", 400, "bad-parameter"),
        (f"{X}/features/2?concept=color::red", 400, "unknown-concept"),
        (f"{X}/items/0?position=9", 400, "bad-parameter"),
        (f"{X}/compare?other={TOKENS}", 400, None),
        (f"/search?set={IMAGES}&like=thing:1", 400, "bad-parameter"),
        (f"/search?set={IMAGES}&like=item:99", 404, "out-of-range"),
        ("/-/../secret.txt", 404, "unknown-page"),
        (f"/search?set={X[1:]}x&q=a", 404, "unknown-set"),
    ],
)
def test_an_error_has_its_status_and_code_and_a_page(explorer, address, status, code):
    head, mark, query = address.partition("?")
    twin = get(explorer, f"{head}.json{mark}{query}")
    page = get(explorer, address)
    assert (twin.status, page.status) == (status, status)
    error = json.loads(twin.body)["error"]
    assert set(error) == {"code", "message"}
    assert code is None or error["code"] == code
    assert "Traceback" not in page.body.decode()
    assert "problem" in page.body.decode()


def test_a_mistake_in_a_condition_is_marked(explorer):
    html = get(explorer, f"{X}/features/2?where=split == 'test' and colour").body.decode()
    assert re.search(r"<pre class=\"mark\"[^>]*>.*split == .*\n +\^{6}</pre>", html, re.DOTALL)


def test_images_are_encoded_again_and_stay_below_their_folder(tmp_path, explorer):
    body = get(explorer, f"{X}/items/0/image?size=160").body
    assert body[:3] == b"\xff\xd8\xff"
    gone = get(explorer, f"{X}/features/0?from=silent&n=8").body.decode()
    assert get(explorer, f"{X}/items/7").body.decode().count("no image: gone.png") == 1
    assert "TOP-SECRET" not in gone
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(get(explorer, f"{X}/items/0/image").body)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    keys = ["../secret.png", "link.png", str(tmp_path / "secret.png"), "a\0b.png"[:1] + ".png"]
    matrix = saestore.open(explorer.store.location)[IMAGES].sparse()[:4]
    saestore.open(tmp_path / "s.zarr", mode="a").write("A/cls/b", matrix, items={"image_path": keys}, images=folder)
    other = explorer_of(tmp_path / "s.zarr")
    assert [get(other, f"/A/cls/b/items/{i}/image").status for i in range(4)] == [400, 400, 400, 404]


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    from PIL import Image

    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(drawing, "_MOST_PIXELS", 1000)
    with raises(saestore.errors.InvalidInputError, "image-too-large", "300 x 300"):
        drawing.Thumbnails().jpeg(tmp_path / "large.png", 160)


def test_an_answer_that_a_browser_has_is_not_sent_again(path):
    explorer = explorer_of(path, writable=True)
    first = get(explorer, f"{X}/features/3")
    again = get(explorer, f"{X}/features/3", seen=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    saestore.open(path, mode="r+")[IMAGES].features.set("name", {2: EVIL, 3: "three", 5: "five"})
    changed = get(explorer, f"{X}/features/3", seen=first.headers["ETag"])
    assert changed.status == 200
    assert "three" in changed.body.decode()


def test_a_name_is_changed_and_the_others_stay(tmp_path):
    explorer = explorer_of(make_store(tmp_path / "w"), writable=True)
    form = {"token": explorer.token, "name": "third", "note": ""}
    assert get(explorer, f"{X}/features/3", method="POST", form=form).status == 303
    assert "third" in get(explorer, f"{X}/features/3").body.decode()
    acts = saestore.open(tmp_path / "w/s.zarr")[IMAGES]
    assert acts.features["name"].filled("").tolist() == ["", "", EVIL, "third", "", "five", "", "", "", ""]
    assert acts.features["note"].filled("")[5] == "fires on five"
    chosen = {"token": explorer.token, "name": "picked", "ids": "1,3"}
    made = get(explorer, f"{X}/concepts", method="POST", form=chosen)
    assert made.headers["Location"] == f"{X}/concepts/picked"
    assert np.flatnonzero(saestore.open(tmp_path / "w/s.zarr")[IMAGES].concepts.mask("picked")).tolist() == [1, 3]
    for bad in ("", "x", "99", "-1", "9" * 30):
        assert get(explorer, f"{X}/concepts", method="POST", form={**chosen, "ids": bad}).status == 400
    assert get(explorer, f"{X}/concepts", method="POST", form=chosen).status == 409
    assert get(explorer, f"{X}/items", method="POST", form=chosen).status == 405


def test_nothing_is_written_without_the_token_or_in_a_store_that_is_read_only(path):
    for writable, form in ((True, {"name": "x"}), (True, {"token": "y", "name": "x"}), (False, {"name": "x"})):
        explorer = explorer_of(path, writable=writable)
        sent = form if writable else {**form, "token": explorer.token}
        answer = get(explorer, f"{X}/features/7", method="POST", form=sent)
        assert answer.status == 403
    assert "x" not in saestore.open(path)[IMAGES].features["name"].filled("").tolist()


def test_a_set_that_is_being_built_shows_and_moves(tmp_path):
    from cli_stores import write_segments

    write_segments(tmp_path / "s.zarr", "A/cls/b", dense(0), [20, 20], finish=False)
    explorer = explorer_of(tmp_path / "s.zarr")
    for page in ("/", "/A/cls/b"):
        html = get(explorer, page).body.decode()
        assert "building: 40 of 72 samples" in html
        assert 'http-equiv="refresh"' in html
        assert "data-moves" in html
    assert get(explorer, "/A/cls/b/features/2").status == 200
    saestore.open(tmp_path / "s.zarr", "a").write("A/cls/b", sp.csr_array(dense(1)), overwrite=True)
    replaced = data(explorer, "/A/cls/b/features/2?level=sample&n=1")
    assert replaced["stats"]["n_samples"] == 72


def test_odd_names_of_concepts_and_items_without_samples(tmp_path):
    names = ["a", "a.json", "x/y", "trail/", " spaces ", "%2F?#", "<i>", ".", "..", "a/../b", "\u202egnp.exe", "a\nb"]
    acts = saestore.open(tmp_path / "s.zarr", mode="a").write(
        "A/t.json/b", sp.csr_array(dense(0, 4)), items={"text": ["one", "", "two"]}, item_ptr=[0, 2, 2, 4]
    )
    acts.concepts.add({name: np.array([1, 0, 0, 1], bool) for name in names}, level="sample")
    explorer = explorer_of(tmp_path / "s.zarr")
    for name in names:
        page = re.sub(r"(?<=/)\.+(?=/|$)", lambda dots: len(dots[0]) * "%252E", f"/A/t.json/b/concepts/{quote(name)}")
        if name != "a":  # the twin of "a" is the page of "a.json"
            assert json.loads(get(explorer, f"{page}.json").body)["concept"] == name
        html = get(explorer, page).body.decode()
        assert "<i>" not in html
        assert f'href="{page}.json"' in html
        twin = data(explorer, f"/A/t.json/b/features/0?concept={quote(name)}")
        assert all("iou" in example for example in twin["examples"])
    form = get(explorer, "/A/t.json/b/features/0").body.decode()
    assert set(names) <= set(map(unescape, re.findall(r'<option value="([^"]*)"', form)))
    empty = data(explorer, "/A/t.json/b/items/1")
    assert (empty["n_samples"], empty["features"], empty["example"]["tokens"][0]["text"]) == (0, [], "")
    assert data(explorer, "/search?set=A/t.json/b&like=item:1")["hits"] == []
    assert get(explorer, "/A/t.json/b/items/1?position=0").status == 404


def test_forms_send_back_what_was_typed_or_stored(tmp_path):
    """Elsewhere on the pages characters that turn what follows are written out."""
    texts = {2: "\u202eevil <i>", 3: "two\nlines", 4: " spaces "}
    acts = saestore.open(tmp_path / "s.zarr", mode="a").write("A/token/b", sp.csr_array(dense(0, 3)), item_ptr=[0, 3])
    acts.features.annotate({"note": texts})
    explorer = explorer_of(tmp_path / "s.zarr", writable=True)
    before = saestore.open(tmp_path / "s.zarr")["A/token/b"].attributes
    for feature, text in texts.items():
        html = get(explorer, f"/A/token/b/features/{feature}").body.decode()
        assert unescape(re.search(r'name="note"[^>]*>([^<]*)</textarea>', html)[1]) == text
        form = {"token": explorer.token, "note": text.replace("\n", "\r\n")}  # as browsers send it
        assert explorer.answer(Request(f"/A/token/b/features/{feature}", {}, "POST", form)).status == 303
    assert saestore.open(tmp_path / "s.zarr")["A/token/b"].attributes == before
    typed = "note == '\u202eevil\ty'"
    for address in ("/A/token/b/features/2?where=", "/A/token/b/features?where=", "/search?q="):
        html = get(explorer, address + quote(typed)).body.decode()
        fields = re.findall(r'<input[^>]* name="(?:q|where)"[^>]* value="([^"]*)"', html)
        assert typed in map(unescape, fields)
        assert "\u202e" not in re.sub(r'value="[^"]*"|<textarea.*?</textarea>', "", html, flags=re.DOTALL)


def test_random_addresses_never_fail(explorer, capfd):
    seen = fuzz(explorer, 800, seed=14)
    assert min(seen[status] for status in (200, 400, 404)) > 100
    assert "Traceback" not in capfd.readouterr().err


def test_the_keys_of_every_page_are_documented(explorer, project_dir):
    assert (project_dir / "docs/explorer-json.md").read_text("utf-8") == markdown()
    seen = {}
    for address in [*PAGES, f"{X}/features?concept=*", f"{X}/features/2?concept=middle&intervals=1",
                    f"/search?set={TOKENS}&like=item:1"]:  # fmt: skip
        found = re.fullmatch(r"/(?:(\w+/\w+/\w)(/\w+)?(/.*)?|(\w*))", address.partition("?")[0])
        kind = (found[2] or "/set")[1:] if found[1] else found[4] or "store"
        document = data(explorer, address)
        keys = seen.setdefault(kind.removesuffix("s") if found[3] else kind, set())
        for key, value in document.items():
            rows = value if isinstance(value, list) and not (key == "rows" and "columns" in document) else []
            parts = {f"{key}[].{name}" for row in rows if isinstance(row, dict) for name in row}
            keys |= parts if parts and key != "busiest" else {key}
    assert seen.keys() == KEYS.keys()
    for kind, (_, documented) in KEYS.items():
        named = {key for names in documented for key in names.split(", ")} | {"python", "command"}
        lists = {key.partition("[]")[0] for key in named | seen[kind] if "[]" in key}
        assert seen[kind] - lists == named - lists, kind


def test_json_has_no_nan():
    assert json.loads(as_json({"a": [np.nan, np.float32(1), np.int64(2)], 1: np.arange(2)})) == {
        "a": [None, 1.0, 2],
        "1": [0, 1],
    }
