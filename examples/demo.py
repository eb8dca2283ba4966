"""What `make demo` runs: build the two examples, find a feature for a label in each, and show what makes it fire.

Everything goes to ``demo/``. A second run finds the stores built and goes straight to the questions.
"""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from choosing import average_precision, best_detector, f1

import saestore
from saestore import ActivationSet
from saestore.cli import main

ROOT = Path(__file__).resolve().parent.parent
STORE, PICTURE = Path("demo/activations.zarr"), Path("demo/green.png")
CLEVR, ISARCASM = Path("examples/clevr"), Path("examples/isarcasm")
COMMAND = Path(sys.executable).with_name("saestore")  # beside the Python that runs this
COVERED = 0.25  # a patch shows the object where the object covers more of it than this

Array = np.ndarray[Any, Any]


def run(command: str) -> None:
    """Run a command of saestore as a shell would, and show it. In this process: importing sae_lens takes seconds."""
    print(f"\n$ saestore {command}", flush=True)
    try:
        main(shlex.split(command), prog_name="saestore")
    except SystemExit as end:
        if end.code:
            raise


def say(text: str) -> None:
    """Print a step of the demo."""
    print(f"\n{textwrap.fill(text, 100)}", flush=True)


def build() -> None:
    """Build both activation sets into one store; what is there already stays."""
    run(
        f"build CLEVR --sample-type patch --embeddings {CLEVR}/embeddings.npy --sae {CLEVR}/sae "
        f"--items {CLEVR}/metadata.csv --store {STORE}"
    )
    run(
        f"build iSarcasm --sample-type token --embeddings {ISARCASM}/embeddings.npy --sae {ISARCASM}/sae "
        f"--items {ISARCASM}/texts.csv --item-ptr {ISARCASM}/tokens.npz:text_ptr "
        f"--token-spans {ISARCASM}/tokens.npz:offsets --store {STORE}"
    )
    run(f"info --store {STORE}")


def green_patches(acts: ActivationSet) -> Array:
    """Which patches show a green object, bool (n_samples,)."""
    covered = np.load(CLEVR / "patch_object_fraction.npy") > COVERED
    return (covered & acts.items["color::green"][:, None]).ravel()


def show_green(acts: ActivationSet) -> None:
    """Choose the feature that detects green objects, and show its strongest patches."""
    positive = green_patches(acts)
    test = np.repeat(acts.items.column("split") == "test", acts.shape[0] // acts.n_items)
    detector = best_detector(acts.sparse(samples=~test), positive[~test])
    predicted = acts.dense(features=detector.feature) >= detector.threshold
    chosen, held_out = f1(predicted[~test], positive[~test]), f1(predicted[test], positive[test])
    say(
        f"Which feature says that a patch shows a green object? Of {acts.shape[1]:,}, feature {detector.feature}, "
        f"where it is at least {detector.threshold:.3f}: F1 {chosen:.2f} on the {(~test).sum():,} patches it was "
        f"chosen on, {held_out:.2f} on the {test.sum():,} held out, of which {positive[test].sum()} show one "
        f"(saying yes to all gives {f1(np.ones(test.sum(), bool), positive[test]):.2f})."
    )
    run(f"top-samples --dataset CLEVR --feature {detector.feature} -n 10 --store {STORE}")
    ax = acts.plot.top(detector.feature, fit="squash")
    ax.set_title(
        f"What makes it fire: green objects\n"
        f"Feature {detector.feature} of {acts.path}, chosen by labels; F1 on held-out patches {held_out:.2f}"
    )
    ax.figure.savefig(PICTURE, dpi=200)


def show_sarcasm(acts: ActivationSet) -> None:
    """Choose the feature that finds sarcastic tweets, and show its strongest tokens in their sentences."""
    strongest = np.maximum.reduceat(acts.dense(), acts.item_index.pointers()[:-1])
    positive, test = acts.items["sarcastic"], acts.items["split"] == "test"
    feature = int(average_precision(strongest[~test], positive[~test]).argmax())
    chosen, held_out = (average_precision(strongest[part][:, [feature]], positive[part])[0] for part in (~test, test))
    say(
        f"Which feature finds the sarcastic tweets among plain rephrasings, by its strongest token in a text? "
        f"Of {acts.shape[1]:,}, feature {feature}: average precision {chosen:.2f} on the {(~test).sum()} texts it was "
        f"chosen on, {held_out:.2f} on the {test.sum()} held out (chance gives {positive[test].mean():.2f})."
    )
    run(f"top-samples --dataset iSarcasm --feature {feature} --level item -n 12 --store {STORE}")


def demo() -> None:
    """Run it all."""
    os.chdir(ROOT)
    mpl.use("agg")  # a picture is written, no window opened
    STORE.parent.mkdir(exist_ok=True)
    build()
    store = saestore.open(STORE)
    show_green(store["CLEVR/patch"])
    show_sarcasm(store["iSarcasm/token"])
    say(f"The strongest images of the first feature, with the patches where it is active: {PICTURE}")
    say("Look around in the browser, at any feature, with:")
    print(f"\n    {COMMAND} serve {STORE} --open")


if __name__ == "__main__":
    demo()
