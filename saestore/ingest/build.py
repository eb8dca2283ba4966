"""`saestore.build`: one call from embeddings to a finished activation set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saestore.ingest.build_options import Request
from saestore.interop.optional import require

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet


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
    matmul_precision
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
        matmul_precision=matmul_precision,
        data=data,
        ground_truth=ground_truth,
    )
    for package in ("torch", "tqdm"):
        require(package, "sae", "building")
    from saestore.ingest.run_build import run_build

    return run_build(store, request, append=append, overwrite=overwrite, progress=progress)
