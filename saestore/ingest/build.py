"""`saestore.build`: one call from embeddings to a finished activation set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

from saestore.activation_set import ActivationSet
from saestore.format import KEY
from saestore.ingest.known import add_found_truth
from saestore.ingest.options import BuildOptions
from saestore.interop.optional import require
from saestore.progress import Progress, ProgressOption
from saestore.store import destination_of
from saestore.writing.compare import stored_items
from saestore.writing.pipeline import Destination, write_set

__all__ = ["build"]


def build(
    dataset: str,
    *,
    store: Any = "activations.zarr",
    sample_type: str | None = None,
    embeddings: Any = None,
    sae: Any = None,
    items: Any = None,
    item_ptr: Any = None,
    token_spans: Any = None,
    images: Any = None,
    texts: Any = None,
    model: Any = None,
    layer: int | None = None,
    model_dtype: str = "float32",
    batch_size: int | None = None,
    max_tokens: int | None = None,
    skip_bad: bool = False,
    device: str = "cpu",
    dtype: str | None = None,
    top_k: int | None = None,
    segment_rows: int | None = None,
    codec: str = "pcodec",
    matmul_precision: str = "auto",
    data: str | None = None,
    ground_truth: str | bool | None = None,
    append: bool = False,
    overwrite: bool = False,
    progress: ProgressOption = True,
) -> ActivationSet:
    """Encode embeddings, or a model's hidden state, through an SAE and store the non-zeros.

    The same call resumes an interrupted build. A complete set is left as it is.

    Parameters
    ----------
    dataset
        ``CLEVR``, ``Coco``, … or a name of your own with `embeddings` and `sae`.
    store
        A folder, URL or zarr store; created if it does not exist. Or an open `saestore.Store`.
    sample_type
        ``patch``, ``token`` or ``cls``; by default patches of images, tokens of texts.
    embeddings
        A file or folder (``.pt`` alone or in chunks, ``.npy``, ``.safetensors``, a zarr array) or an array,
        samples x d_in. By default found by name under `data`, then
        ``$SAESTORE_SCRATCH``, in ``Embeddings/<dataset>/``.
    sae
        A folder in sae_lens format, ``release:sae_id``, a registered name, or a loaded sae_lens SAE.
    items
        A ``metadata.csv``, a DataFrame or a mapping of columns: keys, split, concepts.
    item_ptr
        Samples per item, or which samples belong to which item: an array (n_items + 1,), ``file.npy``,
        ``file.npz:name`` or a ``token_counts`` ``.pt``.
    token_spans
        First and last character (exclusive) of every token in its text, (n_samples, 2): an array or ``file.npz:name``.
    images
        In place of embeddings: a folder of images, to run through `model`. `items` may name and order them.
    texts
        In place of embeddings: ``.txt`` (one text per line), ``.csv`` or ``.jsonl`` (with ``text``), or a list of str.
    model
        A folder or a name on the hub, of a model that transformers knows; by default the model that the SAE was
        trained on.
    layer
        Number of the block, counted from 0, whose output is encoded; by default the SAE's own.
    model_dtype
        Dtype of the model's weights: ``float32``, ``bfloat16``, ``float16``.
    batch_size
        Images or texts that run together; by default 16, and 64 on a GPU.
    max_tokens
        Longer texts are cut; by default where the SAE's training cut them, else at the model's own limit.
    skip_bad
        Leave out images that cannot be read and texts without tokens instead of refusing them; the set records them.
    device
        Where to encode, and to run the model: ``cpu``, ``cuda``.
    dtype
        ``float32`` keeps everything; ``float16`` is recorded with its largest relative error.
    top_k
        Keep only this many activations per sample; the set records what that drops.
    segment_rows
        Samples per segment, the unit of commit; by default about two million non-zeros.
    codec
        ``pcodec``, or ``blosc`` for readers in other languages.
    matmul_precision
        ``float32`` computes every pre-activation in float32. ``bfloat16`` filters with a bfloat16 product and
        recomputes the candidates in float32; the result is identical. ``auto`` chooses the one that is likely to be
        faster, and ``attributes.summary["encoding"]`` records it.
    data
        The folder with ``Embeddings/``, ``Data/`` and ``GT_Samples/`` of known data sets. Files that it lacks are
        searched for under ``$SAESTORE_SCRATCH``.
    ground_truth
        A folder with ``gt_samples_per_concept…pt`` and ``gt_patch_per_concept…pt``, which become concepts of items and
        of samples. By default the folder beside embeddings that were found by name; False for none.
    append
        Add further images, texts, or rows of embeddings with their items to a complete set. The items of the set must
        come first and be unchanged. Without such a set this is an ordinary build.
    overwrite
        Replace a set of other content.
    progress
        True shows bars and lines on stderr, False shows nothing, a function receives every line.

    Returns
    -------
    ActivationSet
        Complete and compacted. ``attributes.summary["explained_variance"]`` is measured on the first batch.

    Raises
    ------
    SaestoreError
        The input does not fit (before anything is written), the store has other content at this path, another process
        writes the set, or the disk is full: what is committed stays, and the same call goes on from there.

    Notes
    -----
    Peak memory is the SAE, 128 MiB of pre-activations, two segments of about 100 MiB and 256 MiB for the merge at the
    end, for any number of samples. With bfloat16 candidates the encoder's weights are needed one and a half times more.
    """
    given = dict(locals())
    options = BuildOptions(**{each.name: given[each.name] for each in fields(BuildOptions)})
    require("torch", "sae", "building")
    from saestore.ingest.build_plan import plan_build

    report, destination = Progress(progress), destination_of(store)
    with ExitStack() as stack:

        def looking(path: str) -> Callable[[int], None]:
            return stack.enter_context(report.bar(path, "looked at", None, unit="items")).advance

        plan = plan_build(options, looking, lambda path: [] if overwrite else _stored_keys(destination, path))
    root = write_set(plan, destination, report, append=append, overwrite=overwrite)
    for note in plan.inputs.notes:
        report.line(f"{plan.path}: {note}")
    acts = ActivationSet(root, plan.path)
    add_found_truth(acts, plan.truth, report)
    return acts


def _stored_keys(destination: Destination, path: str) -> list[str]:
    """Keys of the items that the store has at `path`; none where there is no set, or one without keys."""
    attributes, root = destination.attributes(path), destination.root
    if attributes is None or root is None:
        return []
    items = stored_items(root, path, attributes)
    return [str(key) for key in items.read(KEY).values] if KEY in items.info.columns else []
