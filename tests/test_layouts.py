"""One pipeline's files are known in one folder only, which nobody imports without having such files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import saestore
from saestore import layouts

pytestmark = pytest.mark.once

PACKAGE = Path(saestore.__file__).parent

PLAIN_USE = """
import sys
from pathlib import Path
import numpy as np, scipy.sparse as sp, saestore

dense = np.random.default_rng(0).gamma(2, size=(40, 12)).astype(np.float32) * (np.arange(12) % 3 == 0)
sp.save_npz("x.npz", sp.csr_matrix(dense))
np.save("x.npy", dense)
np.save("ptr.npy", np.arange(0, 41, 8))
acts = saestore.import_activations("Mine/token/a", "x.npz", store="s.zarr", item_ptr="ptr.npy")
acts.top_samples(3, n=5), acts.top_features(sample=0), acts.stats(), acts.dense(slice(0, 3))
saestore.export(acts, "y.npz")
saestore.export(acts, "cache", format="delphi")
try:
    import torch
except ImportError:
    torch = None
if torch is not None:
    saestore.import_activations("Mine/token/b", "x.npy", store="s.zarr", item_ptr=1)
    from build_helpers import clip_scope, near
    sae = clip_scope(Path("tiny.pt"))
    saestore.build("Mine", embeddings=near(sae, 12).numpy(), sae=sae, store="s.zarr")
loaded = [name for name in sys.modules if name.startswith("saestore.superactivators")]
assert not loaded, loaded
assert (torch is None) == ("saestore.embeddings.opening" not in sys.modules)
"""


def test_a_plain_user_imports_no_layout(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parent)])}
    run = subprocess.run(
        [sys.executable, "-c", PLAIN_USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


# What only that pipeline has: names of files and folders, of data sets, of keys, and its numbers.
OF_THE_PIPELINE = re.compile(
    r"_chunks_info|_chunk_|unit_mapping\.json|token_counts|gt_patch|gt_samples|_inputsize_|percentthrumodel|clipscope"
    r"|gemmascope|SAE_Activations|sparse_topk|sparse_filtered|GT_Samples|Augmented_|SAESTORE_SCRATCH|saestore\.toml"
    r"|CLEVR|Sarcasm|GoEmotions|Broden|superactivators|\b16 x 16\b|_TOKEN_LIMIT|_PATCHES\b"
)
# Their help, docstrings and lazy imports name the pipeline's files; examples in docstrings name a data set.
DOORS = ("superactivators", "cli", "ingest")
ALLOWED = {"vocabulary.py": "superactivators", "layouts.py": "superactivators"}


@pytest.mark.parametrize(
    "room", sorted(path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
)
def test_no_other_room_knows_the_pipeline(room):
    if room in DOORS:
        assert OF_THE_PIPELINE.search("".join(path.read_text() for path in (PACKAGE / room).rglob("*.py")))
        return
    files = [PACKAGE / room] if room.endswith(".py") else sorted((PACKAGE / room).rglob("*.py"))
    for file in files:
        names = {match for match in OF_THE_PIPELINE.findall(file.read_text()) if match != "CLEVR"}
        assert names <= {ALLOWED.get(file.name)}, f"{file.relative_to(PACKAGE)} names {sorted(names)}"


def test_a_second_layout_needs_nothing_but_its_name(tmp_path, monkeypatch):
    """A package with some of the functions of `Layout`."""
    package = tmp_path / "second_lab"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import numpy as np\n"
        "def item_pointers(path, n_items, n_rows):\n"
        "    return np.array([0, 2, n_rows]) if path.suffix == '.sizes' else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(layouts, "LAYOUTS", (*layouts.LAYOUTS, "second_lab"))
    from saestore.tables.item_pointers import item_pointers

    assert item_pointers("x.sizes", None, 5).tolist() == [0, 2, 5]
    assert layouts.ask("activation_format", tmp_path) is None  # a question that it does not answer
