"""Long texts in windows, chats, and the first token of a text."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
from build_helpers import assert_holds, clip_scope, clip_scope_dense, unexplained
from raising import raises
from tiny_models import WIDTH, text_model, text_states
from transformers import AutoTokenizer

import saestore
from saestore.errors import InvalidInputError
from saestore.models.tokens import Tokenizer

pytestmark = pytest.mark.once

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ('user', 'model') %}{{ raise_exception('whose?') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model whose tokenizer adds a BOS, knows a chat template, and would cut texts at their start."""
    folder = text_model("llama", tmp_path_factory.mktemp("models") / "llama")
    words = AutoTokenizer.from_pretrained(folder)
    words.chat_template, words.truncation_side, words.eos_token = TEMPLATE, "left", "<pad>"
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return text_model("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return clip_scope(tmp_path_factory.mktemp("sae") / "tiny.pt", d_in=WIDTH)


def build(tmp_path, texts, **how):
    with unexplained():
        return saestore.build("Mine", store=tmp_path / "s.zarr", texts=texts, layer=1, progress=False, **how)


def refuses(tmp_path, code, *named, texts=(LONG,), **how):
    with raises(InvalidInputError, code, *named):
        saestore.build("Mine", store=tmp_path / "s.zarr", texts=list(texts), layer=1, progress=False, **how)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(("kind", "stride"), [("llama", None), ("llama", 3), ("bert", 4)])
def test_windows_of_long_texts(request, tmp_path, sae, kind, stride):
    """Each window has its own special tokens; a token is stored from the first window that it is in."""
    folder = request.getfixturevalue(kind)
    words = AutoTokenizer.from_pretrained(folder)
    before, after = ([1], []) if kind == "llama" else ([2], [3])
    content = 8 - len(before) - len(after)
    texts = [LONG, "one two", LONG + " " + LONG]
    acts = build(tmp_path, texts, model=folder, sae=sae, window=8, stride=stride, batch_size=2, segment_rows=5)
    step = stride or content
    rows = []
    for text in texts:
        ids = words(text, add_special_tokens=False)["input_ids"]
        for start in range(0, max(1, len(ids) - content + step), step):
            states = text_states(folder, [*before, *ids[start : start + content], *after])[1][0].numpy()
            states = states[len(before) : len(states) - len(after)]
            rows.append(states[content - step if start else 0 :])
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(np.concatenate(rows))))
    spans = [words(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"] for text in texts]
    np.testing.assert_array_equal(acts.spans(), np.concatenate([np.array(each) for each in spans]))
    source = acts.attributes.source
    assert (source["window"], source["stride"], source["n_cut"]) == (8, step, 0)


def test_texts_are_appended_to_windows(tmp_path, llama, sae):
    how = {"model": llama, "sae": sae, "window": 6, "stride": 2}
    build(tmp_path / "a", [LONG], **how)
    grown = build(tmp_path / "a", [LONG, "one two"], append=True, **how)
    whole = build(tmp_path / "b", [LONG, "one two"], **how)
    assert_holds(grown, np.asarray(whole.sparse().todense()))


def test_windows_that_cannot_be(tmp_path, llama, sae):
    how = {"model": llama, "sae": sae}
    refuses(tmp_path, "unused-option", "--window", stride=2, **how)
    refuses(tmp_path, "several-inputs", "window 8", window=8, max_tokens=8, **how)
    refuses(tmp_path, "unused-option", "mean", window=8, sample_type="cls", **how)
    refuses(tmp_path, "invalid-count", "1 to 7", window=8, stride=8, **how)
    refuses(tmp_path, "invalid-count", "window 9999999", window=9999999, **how)
    refuses(tmp_path, "invalid-count", "0 besides", window=1, **how)


def test_chats(tmp_path, llama, sae):
    """A text is a user's message; the set keeps the whole text, and its markers are not samples."""
    words = AutoTokenizer.from_pretrained(llama)
    messages = [{"role": "user", "content": "one two"}, {"role": "model", "content": "three"}]
    texts = ["<bos>user: one\n", "<bos>user: one two\nmodel: three\n"]
    (tmp_path / "chats.jsonl").write_text(
        json.dumps({"text": "one", "split": "test"}) + "\n" + json.dumps({"messages": messages, "split": "cal"})
    )
    rows = []
    for text in texts:
        ids = words(text, add_special_tokens=False)["input_ids"]
        assert ids[0] == 1
        rows.append(text_states(llama, ids)[1][0, 1:].numpy())
    for number, given in enumerate((["one", messages], tmp_path / "chats.jsonl")):
        acts = build(tmp_path / str(number), given, model=llama, sae=sae, chat=True)
        assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(np.concatenate(rows))))
        assert acts.items.column("text").tolist() == texts
        assert acts.attributes.source["chat"] is True
    assert acts.items.column("split").tolist() == ["test", "cal"]


def test_chats_that_cannot_be(tmp_path, llama, bert, sae):
    messages = [{"role": "user", "content": "one"}]
    refuses(tmp_path, "invalid-texts", "--chat", texts=[messages], model=llama, sae=sae)
    refuses(tmp_path, "no-chat-template", "bert", model=bert, sae=sae, chat=True)
    strange = [{"role": "cook", "content": "one"}]
    refuses(tmp_path, "invalid-chat", "text 0", "whose?", texts=[strange], model=llama, sae=sae, chat=True)


def test_the_first_token(tmp_path, llama, sae):
    """None, another one, or the one that the tokenizer adds by itself."""
    words = AutoTokenizer.from_pretrained(llama)
    ids = words("one two", add_special_tokens=False)["input_ids"]
    for bos, first in (("none", []), ("<pad>", [0]), ("<bos>", [1]), (None, [1])):
        acts = build(tmp_path / str(bos), ["one two"], model=llama, sae=sae, bos=bos)
        states = text_states(llama, [*first, *ids])[1][0, len(first) :]
        assert_holds(acts, clip_scope_dense(sae, states))
    refuses(tmp_path, "unknown-token", "<boss>", "Did you mean '<bos>'", model=llama, sae=sae, bos="<boss>")


def test_an_sae_that_wants_a_bos_which_the_tokenizer_does_not_have(llama):
    words = AutoTokenizer.from_pretrained(llama)
    words.bos_token = words.eos_token = None
    with raises(InvalidInputError, "no-bos", "--bos none"):
        Tokenizer.of(words, True, None, 500)
    (one,) = Tokenizer.of(words, True, None, 500, bos="none")(["one"])
    (other,) = Tokenizer.of(words, True, None, 500, bos="<pad>")(["one"])
    assert other[0].ids.tolist() == [0, *one[0].ids.tolist()]
    assert not other[0].stored[0]


def test_options_of_texts_are_refused_for_images(tmp_path, llama, sae):
    for name, value in {"window": 8, "chat": True, "bos": "none", "max_tokens": 5}.items():
        with raises(InvalidInputError, "unused-option", f"--{name.replace('_', '-')}"):
            saestore.build(
                "Mine", store=tmp_path / "s", images=tmp_path, model=llama, sae=sae, layer=1, **{name: value}
            )
