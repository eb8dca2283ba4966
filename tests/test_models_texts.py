"""Texts through a model into an SAE: stored is what transformers and sae_lens give for each text by itself."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
from build_helpers import assert_holds, clip_scope, clip_scope_dense, hashes, run_apart, sae_lens_folder, unexplained
from raising import raises
from tiny_models import TEXTS, WIDTH, text_model, text_states, whole_text_model
from transformers import AutoTokenizer

import saestore
from saestore.errors import InvalidInputError
from saestore.models.tokens import Tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def model(kind):
        if kind not in made:
            made[kind] = text_model(kind, tmp_path_factory.mktemp("models") / kind)
        return made[kind]

    return model


@pytest.fixture
def sae(tmp_path):
    return clip_scope(tmp_path / "tiny.pt", d_in=WIDTH)


def build(tmp_path, texts=TEXTS, **how):
    with unexplained():
        return saestore.build("Mine", store=tmp_path / "s.zarr", texts=texts, progress=False, **how)


def expected_rows(folder, layer, texts=TEXTS, **how):
    """Of every text the states of its own tokens, (tokens, width) each, and where they stand."""
    made = AutoTokenizer.from_pretrained(folder)
    rows, spans = [], []
    for text in texts:
        one = made(text, return_offsets_mapping=True, return_special_tokens_mask=True, **how)
        own = np.array(one["special_tokens_mask"]) == 0
        rows.append(text_states(folder, one["input_ids"])[layer][0].numpy()[own])
        spans.append(np.array(one["offset_mapping"])[own])
    return rows, spans


@pytest.mark.parametrize("kind", ["gemma3", "gpt2", "bert", "qwen3.5"])
def test_texts_of_a_family(tmp_path, models, sae, kind):
    acts = build(tmp_path, model=models(kind), layer=1, sae=sae, batch_size=4)
    rows, spans = expected_rows(models(kind), 1)
    assert acts.path == "Mine/token/tiny"
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(np.concatenate(rows))))
    np.testing.assert_array_equal(acts.spans(), np.concatenate(spans))
    np.testing.assert_array_equal(np.diff(acts.item_index.pointers()), [len(own) for own in rows])
    assert acts.items.column("text").tolist() == TEXTS


def test_conditions_and_a_mask_choose_tokens_of_a_running_model(tmp_path, models, sae):
    """By norms and token ids as transformers gives them."""
    folder = models("gpt2")
    rows = np.concatenate(expected_rows(folder, 1)[0])
    made = AutoTokenizer.from_pretrained(folder)
    ids = np.concatenate([made(text)["input_ids"] for text in TEXTS])
    norm = np.linalg.norm(rows.astype(np.float64), axis=1)
    limit, common = float(np.median(norm)) * (1 + 1e-9), int(np.bincount(ids).argmax())
    mask = np.arange(len(rows)) % 3 > 0
    keep = mask & (norm <= limit) & (ids != common)
    how = {"mask": mask, "include": f"norm <= {limit}", "exclude": f"token == {common}"}
    acts = build(tmp_path, model=folder, layer=1, sae=sae, **how)
    assert 0 < keep.sum() < mask.sum()
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(rows[keep])))
    assert acts.samples["source_row"].tolist() == np.flatnonzero(keep).tolist()
    with raises(InvalidInputError, "bad-mask", "(3,)"):
        build(tmp_path / "wrong", model=folder, layer=1, sae=sae, mask=np.ones(3, bool))


def test_cls_is_the_mean_of_a_texts_tokens(tmp_path, models, sae):
    acts = build(tmp_path, model=models("gemma2"), layer=0, sae=sae, sample_type="cls")
    rows, _ = expected_rows(models("gemma2"), 0)
    means = np.stack([own.mean(axis=0) for own in rows])
    assert acts.path == "Mine/cls/tiny"
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(means)))
    assert acts.spans() is None


def noted(folder, **notes):
    """A sae_lens SAE that says what it was trained on."""
    loaded = sae_lens_folder("jumprelu", folder, d_in=WIDTH)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= notes
    (folder / "cfg.json").write_text(json.dumps(config))
    return loaded


def test_a_hook_inside_a_block(tmp_path, models):
    """The SAE's own, and one that is asked for; rows are what a hook on the whole model sees."""
    loaded = noted(tmp_path / "noted", hook_name="blocks.1.attn.hook_z", model_name="gpt2")
    acts = build(tmp_path, model=models("gpt2"), sae=tmp_path / "noted")
    whole, made, rows = whole_text_model(models("gpt2")), AutoTokenizer.from_pretrained(models("gpt2")), []
    whole.h[1].attn.c_proj.register_forward_pre_hook(lambda _, x: rows.append(x[0][0].numpy()))
    with torch.no_grad():
        for text in TEXTS:
            whole(torch.tensor([made(text)["input_ids"]]))
    assert_holds(acts, encoded(loaded, rows))
    assert acts.attributes.source["hook_name"] == "blocks.1.attn.hook_z"
    sae = clip_scope(tmp_path / "tiny.pt", d_in=WIDTH)
    asked = build(tmp_path / "asked", model=models("gpt2"), sae=sae, hook="blocks.1.attn.hook_z")
    assert_holds(asked, clip_scope_dense(sae, torch.from_numpy(np.concatenate(rows))))


def encoded(loaded, rows):
    with torch.no_grad():
        return loaded.encode(torch.from_numpy(np.concatenate(rows))).numpy()


def test_layer_bos_and_length_are_those_of_the_sae(tmp_path, models):
    """The tokenizer adds no BOS, the SAE wants one; it is seen by the model, and not stored."""
    notes = {"hook_name": "blocks.2.hook_resid_pre", "prepend_bos": True, "context_size": 9, "model_name": "gpt2"}
    loaded = noted(tmp_path / "noted", **notes)
    acts = build(tmp_path, model=models("gpt2"), sae=tmp_path / "noted")
    made = AutoTokenizer.from_pretrained(models("gpt2"))
    rows = [text_states(models("gpt2"), [1, *made(text)["input_ids"][:8]])[1][0, 1:].numpy() for text in TEXTS]
    assert_holds(acts, encoded(loaded, rows))
    source = acts.attributes.source
    assert (source["layer"], source["max_tokens"], source["not_stored"]) == (1, 9, ["<bos>", "padding"])
    assert source["n_cut"] == sum(len(made(text)["input_ids"]) > 8 for text in TEXTS) > 0
    assert "5" not in source["cut"] or len(made(TEXTS[5])["input_ids"]) > 8


def test_a_bos_that_the_sae_does_not_want_is_left_out(tmp_path, models):
    loaded = noted(tmp_path / "noted", hook_name="blocks.1.hook_resid_post", prepend_bos=False)
    acts = build(tmp_path, model=models("llama"), sae=tmp_path / "noted")
    rows, _ = expected_rows(models("llama"), 1, add_special_tokens=False)
    assert_holds(acts, encoded(loaded, rows))
    assert acts.attributes.source["not_stored"] == ["padding"]


def test_a_special_token_is_special_by_its_id(tmp_path, models):
    """Wherever it stands in a text, and a text that begins with BOS gets no second one."""
    loaded = noted(tmp_path / "noted", hook_name="blocks.1.hook_resid_post", prepend_bos=True)
    made = AutoTokenizer.from_pretrained(models("llama"))
    texts = ["<bos>one two", "one <bos> two", "one two"]
    ids = [made(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = [one if one[0] == 1 else [1, *one] for one in ids]
    rows = [text_states(models("llama"), one)[1][0].numpy()[np.array(one) != 1] for one in ids]
    for kind in ("llama", "gpt2"):  # one adds a BOS by itself
        if kind == "gpt2":
            rows = [text_states(models("gpt2"), one)[1][0].numpy()[np.array(one) != 1] for one in ids]
        acts = build(tmp_path / kind, texts, model=models(kind), sae=tmp_path / "noted")
        assert_holds(acts, encoded(loaded, rows))


def test_markers_of_a_chat_template_are_special_and_an_unknown_token_is_not(models):
    made = AutoTokenizer.from_pretrained(models("bert"))
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    ((tokens,),) = Tokenizer.of(made, None, None, 500)(["<|im_start|> one ☃"])
    names = np.array(made.convert_ids_to_tokens(tokens.ids))
    assert not tokens.stored[np.isin(names, ["[CLS]", "<|im_start|>", "[SEP]"])].any()
    assert tokens.stored[~np.isin(names, ["[CLS]", "<|im_start|>", "[SEP]"])].all()
    assert "[UNK]" in names[tokens.stored]


def test_eos_takes_the_place_of_a_bos_that_the_tokenizer_lacks(models):
    made = AutoTokenizer.from_pretrained(models("gpt2"))
    made.eos_token, made.bos_token = "<bos>", None
    ((tokens,),) = Tokenizer.of(made, True, None, 500)(["one"])
    assert (tokens.ids[0], tokens.stored[0]) == (made.eos_token_id, False)
    assert tokens.stored[1:].all()
    made.eos_token = None
    with raises(InvalidInputError, "no-bos"):
        Tokenizer.of(made, True, None, 500)


def test_facts_of_the_training_are_warned_of_and_recorded(tmp_path, models):
    noted(tmp_path / "noted", hook_name="blocks.1.hook_resid_post", exclude_special_tokens=True,
          model_from_pretrained_kwargs={"center_writing_weights": True})  # fmt: skip
    with pytest.warns(UserWarning, match="center_writing_weights"):
        acts = build(tmp_path, model=models("gpt2"), sae=tmp_path / "noted")
    sae = acts.attributes.sae
    assert sae["model_from_pretrained_kwargs"] == {"center_writing_weights": True}
    assert sae["exclude_special_tokens"] is True


def test_a_plan_of_texts_makes_the_set_that_a_build_makes(tmp_path, models, sae):
    """Tasks cut through texts and groups of texts; another process opens the model anew."""
    folder = models("gemma3")
    (tmp_path / "texts.txt").write_text("\n".join(text for text in TEXTS if text.strip()))
    given = {"texts": tmp_path / "texts.txt", "model": folder, "layer": 1, "sae": sae, "batch_size": 2}
    how = {**given, "segment_rows": 5, "progress": False}
    with unexplained():
        saestore.build("Mine", store=tmp_path / "a.zarr", **how)
        plan = saestore.plan_build("Mine", store=tmp_path / "b.zarr", **how)
    assert len(plan) > 2
    run_apart(plan, tmp_path / "b.zarr", "Mine")
    assert hashes(tmp_path / "a.zarr") == hashes(tmp_path / "b.zarr")
