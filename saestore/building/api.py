"""`saestore.build`: one call from embeddings to a finished activation set."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import zarr

from saestore.activations import ActivationSet
from saestore.building.append import appended_from, begin_append, check_prefix, grows
from saestore.building.pipeline import check_finite, encode_and_write
from saestore.building.plan import Plan, make_plan
from saestore.building.progress import Bars
from saestore.building.request import Request
from saestore.building.truth import give_truth
from saestore.errors import NotFoundError
from saestore.format import SetAttributes
from saestore.items.stored import KEY
from saestore.store import Store, start_set
from saestore.store import open as open_store
from saestore.writing import SetLock, SetWriter
from saestore.writing.writer import read_attributes

# The merge at the end stays under this, so that a build's peak does not depend on the number of samples.
_MERGE_MEMORY = 256 << 20
# Trained SAEs explain 0.6 to 0.95; embeddings of another layer, hook or normalisation give 0.3, 0, or far below.
_LOW_VARIANCE = 0.4


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
    exact_encode: str = "auto",
    data: str | None = None,
    ground_truth: str | bool | None = None,
    append: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> ActivationSet:
    """Encode embeddings, or a model's hidden state, through an SAE and store the non-zeros; resumes what was left.

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
        A ``metadata.csv``, DataFrame or mapping of columns: keys, split, concepts.
    item_ptr
        Samples per item, or which samples belong to which item: an array (n_items + 1,), ``file.npy``,
        ``file.npz:name`` or a ``token_counts`` ``.pt``.
    token_spans
        First and last character (exclusive) of every token in its text, (n_samples, 2): an array or ``file.npz:name``.
    images
        In place of embeddings: a folder of images, to run through `model`. `items` may say which, and in what order.
    texts
        In place of embeddings: ``.txt`` (a text a line), ``.csv`` or ``.jsonl`` (with ``text``), or a list of str.
    model
        A folder or a name on the hub, of a model that transformers knows; by default what the SAE was trained on.
    layer
        Number of the block, counted from 0, whose output is encoded; by default what the SAE was trained on.
    model_dtype
        What the model's weights are held in: ``float32``, ``bfloat16``, ``float16``.
    batch_size
        Images or texts that run together; by default 16, and 64 on a GPU.
    max_tokens
        Longer texts are cut; by default where the SAE's training cut them, else the model's own limit.
    skip_bad
        Leave out images that cannot be read and texts without tokens, rather than refuse them; the set records which.
    device
        Where to encode, and to run the model: ``cpu``, ``cuda``.
    dtype
        ``float32`` keeps everything; ``float16`` is recorded with its largest relative error.
    top_k
        Keep only so many activations a sample; what that drops is recorded.
    segment_rows
        Samples of a segment, the unit of commit; by default about two million non-zeros.
    codec
        ``pcodec``, or ``blosc`` for readers in other languages.
    exact_encode
        ``float32`` computes every pre-activation in float32, ``bfloat16`` only those that a bfloat16 product with its
        error bounds leaves in question, ``auto`` whichever is likely to be quicker. The activations are the same;
        ``attributes.summary["encoding"]`` says which it was.
    data
        The folder that holds ``Embeddings/``, ``Data/`` and ``GT_Samples/`` of known data sets; what is not in it is
        looked for under ``$SAESTORE_SCRATCH``.
    ground_truth
        A folder with ``gt_samples_per_concept…pt`` and ``gt_patch_per_concept…pt``, which become concepts of items and
        of samples. By default that of a known data set whose embeddings were found by name; False for none.
    append
        Add what is new to a complete set: further images, texts, or rows of embeddings with their items, after those
        that are there, which must be the first and unchanged. Without such a set this is an ordinary build.
    overwrite
        Replace a set that another build made.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    ActivationSet
        Complete and compacted. ``attributes.summary["explained_variance"]`` is that of the first batch.

    Raises
    ------
    SaestoreError
        The input does not fit (before anything is written), the store holds another build, another builder is at work,
        or the place is full: what is committed stays, and the same call goes on from there.

    Notes
    -----
    Peak memory is the SAE, 128 MiB of pre-activations, two segments of about 100 MiB and 256 MiB for the merge at the
    end, whatever the number of samples; where bfloat16 candidates are used, also the encoder's weights one and a half
    times.
    """
    request = Request(
        dataset=dataset,
        sample_type=sample_type,
        embeddings=embeddings,
        sae=sae,
        items=items,
        item_ptr=item_ptr,
        token_spans=token_spans,
        images=images,
        texts=texts,
        model=model,
        layer=layer,
        model_dtype=model_dtype,
        batch_size=batch_size,
        max_tokens=max_tokens,
        skip_bad=skip_bad,
        device=device,
        dtype=dtype,
        top_k=top_k,
        segment_rows=segment_rows,
        codec=codec,
        exact_encode=exact_encode,
        data=data,
        ground_truth=ground_truth,
    )
    _peek(store, None)
    plan = _plan(request, progress, lambda path: [] if overwrite else _stored_keys(store, path))
    with Bars(plan.path, shown=progress) as bars:
        existing = _peek(store, plan.path)
        if overwrite:
            existing = None
        elif existing is not None:
            _refuse_other(plan, existing, _root(store), append=append)
        if not plan.inputs.computed:
            bar = bars.bar("checking", plan.source.n_rows, first := existing.n_samples if existing else 0)
            check_finite(plan, first, bar.advance)
            bar.close()
        opened = store if isinstance(store, Store) else open_store(store, mode="a")
        with SetWriter(opened.root, plan.path) as writer:
            _run(plan, writer, bars, overwrite=overwrite, append=append)
        for line in plan.inputs.notes:
            bars.say(f"{plan.path}: {line}")
        acts = opened[plan.path]
        give_truth(acts, plan.truth, bars.say)
    return acts


def _plan(request: Request, progress: bool, known: Callable[[str], list[str]]) -> Plan:
    """What will be done, with a bar while images or texts are looked at."""
    with ExitStack() as stack:

        def looking(path: str) -> Callable[[int], None]:
            return stack.enter_context(Bars(path, shown=progress)).bar("looking", None, unit=" items").advance

        return make_plan(request, looking, known)


def _peek(store: Any, path: str | None) -> SetAttributes | None:
    """What the store holds at `path`, without writing to it; no store, or a set that is being written, is an error."""
    try:
        root = _root(store)
    except NotFoundError:
        return None
    if path is None:
        return None
    SetLock(root, path).check()
    return read_attributes(root, path)


def _root(store: Any) -> zarr.Group:
    return store.root if isinstance(store, Store) else open_store(store).root


def _stored_keys(store: Any, path: str) -> list[str]:
    """Keys of the items that the store has at `path`; none where there is no set, or one without keys."""
    if _peek(store, path) is None:
        return []
    items = ActivationSet(_root(store), path).items
    return [str(key) for key in items.column(KEY)] if KEY in items.names() else []


def _refuse_other(plan: Plan, existing: SetAttributes, root: zarr.Group, *, append: bool) -> None:
    if append and existing.complete and plan.source.n_rows != existing.n_samples:
        check_prefix(plan, root, existing)
    else:
        plan.refuse_other(existing)


def _run(plan: Plan, writer: SetWriter, bars: Bars, *, overwrite: bool, append: bool) -> None:
    """Start the set or take up the one that is there, and finish it."""
    if writer.attributes is not None and overwrite:
        writer.clear()
    if writer.attributes is None:
        _start(plan, writer)
    attributes = _taken_up(plan, writer, append=append)
    if attributes.complete:
        bars.say(f"{plan.path} is complete already ({attributes.n_samples:,} samples); nothing to do.")
        return
    if attributes.n_samples:
        bars.say(f"{plan.path}: going on after {attributes.n_samples:,} of {plan.source.n_rows:,} samples.")
    bar = bars.bar("encoding", plan.source.n_rows, attributes.n_samples)
    encode_and_write(plan, writer, bar.encoded)
    bar.close()
    writer.finish(first=appended_from(attributes), memory=_MERGE_MEMORY, progress=bars.say)


def _taken_up(plan: Plan, writer: SetWriter, *, append: bool) -> SetAttributes:
    """The set as it is, once more checked, now that no other builder can change it; or with more items planned."""
    if writer.attributes is not None and append and grows(plan, writer.attributes):
        check_prefix(plan, writer.root, writer.attributes)
        _measure(plan, writer.attributes.n_samples)
        begin_append(plan, writer)
    if writer.attributes is None:
        raise RuntimeError("the set was not started")
    plan.refuse_other(writer.attributes)
    return writer.attributes


def _start(plan: Plan, writer: SetWriter) -> None:
    """Measure the first batch and create the set."""
    l0, explained = _measure(plan, 0)
    start_set(writer, plan.attributes(l0, explained), plan.items, plan.index, plan.spans)


def _measure(plan: Plan, first: int) -> tuple[float, float]:
    """Mean number of active features and explained variance of the batch from row `first` on; warns if that is low."""
    count = min(plan.encoder.batch_rows, plan.source.n_rows - first)
    block = plan.source.read(first, first + count)
    batch = plan.encoder.encode(block)
    explained = plan.encoder.explained_variance(block, batch)
    if explained < _LOW_VARIANCE:
        warnings.warn(
            f"{plan.sae.name} explains {explained:.2f} of the variance of the first {count}{' new' if first else ''} "
            "embeddings; trained SAEs explain 0.6 or more. A wrong layer or hook, or embeddings normalised otherwise "
            "than the SAE expects, would look like this.",
            stacklevel=5,
        )
    return batch.nnz / count, explained
