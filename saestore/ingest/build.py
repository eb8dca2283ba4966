"""`saestore.build`: one call from embeddings to a finished activation set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saestore.activation_set import ActivationSet
from saestore.errors import reached, require
from saestore.ingest.known import add_found_truth
from saestore.ingest.options import BuildOptions
from saestore.ingest.recipes import BuildRecipe, make_plan, run_everywhere
from saestore.progress import Progress, ProgressOption
from saestore.storage import durable, local_folder
from saestore.storage.places import local_path
from saestore.store import destination_of
from saestore.writing.pipeline import write_set


@reached("the input")
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
    tokens: Any = None,
    mask: Any = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    images: Any = None,
    texts: Any = None,
    model: Any = None,
    layer: int | None = None,
    hook: str | None = None,
    model_dtype: str = "float32",
    batch_size: int | None = None,
    max_tokens: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    chat: bool = False,
    bos: str | None = None,
    exif: bool | None = None,
    transparency: str | None = None,
    skip_bad: bool = False,
    other_model: bool = False,
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
    client: Any = None,
    durability: str | None = None,
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
        A file or folder (``.pt`` alone or in chunks, ``.npy``, ``.npz``, ``.safetensors``, HDF5, Parquet, SAELens's
        cached activations, saev's shards, a zarr array), an array or tensor, samples x d_in or items x samples x d_in,
        a mapping of them, a `datasets.Dataset`, or ``(batches, n_rows)``: a list, a function that returns an iterator,
        or a generator, which goes through a temporary file. By default found by name under `data`, then
        ``$SAESTORE_SCRATCH``, in ``Embeddings/<dataset>/``.
    sae
        A folder or file of an SAE, ``release:sae_id``, a registered name, a loaded sae_lens SAE, or any object with
        ``encode(x)``, ``d_in`` and ``d_sae``.
    items
        A ``metadata.csv``, a DataFrame or a mapping of columns: keys, split, concepts.
    item_ptr
        Samples per item, or which samples belong to which item: an array (n_items + 1,), ``file.npy``,
        ``file.npz:name`` or a ``token_counts`` ``.pt``.
    token_spans
        First and last character (exclusive) of every token in its text, (n_samples, 2): an array or ``file.npz:name``.
    mask
        Which embeddings are samples, such as an attention mask: bool or 0 and 1, (n_rows,) or (n_items, rows), which
        gives the items: an array, a file, or the name of a tensor in the file of embeddings or of a file beside it.
        `item_ptr`, `token_spans` and `tokens` count all rows.
    tokens
        The token id of each embedding, which becomes the column ``token`` of the samples: integers, given as `mask` is.
    include, exclude
        Conditions as in ``where=``, or lists of them: samples fulfil each of `include` and none of `exclude`. They may
        name ``position``, ``token`` (with `tokens` or `texts`), ``norm`` (the length of an embedding), ``sink`` (a norm
        above 10 times the median; with `images` or `texts` the model runs twice), and the columns of the items.
        Positions count all rows. The set records the conditions.
    images
        In place of embeddings: a folder of images, to run through `model`. `items` may name and order them.
    texts
        In place of embeddings: ``.txt`` (one text per line), ``.csv`` or ``.jsonl`` (with ``text``), or a list of str.
    model
        A folder or a name on the hub, of a model that transformers knows; ``timm:NAME`` or ``open_clip:NAME:WEIGHTS``;
        by default the model that the SAE was trained on.
    layer
        Number of the block, counted from 0, whose output is encoded; by default the SAE's own.
    hook
        In place of `layer`, a place by its name in TransformerLens: ``blocks.N.hook_resid_post``, ``hook_resid_pre``,
        ``hook_resid_mid``, ``attn.hook_z``, ``hook_attn_out`` or ``hook_mlp_out``; or a module, ``model.layers.N``.
    model_dtype
        Dtype of the model's weights: ``float32``, ``bfloat16``, ``float16``.
    batch_size
        Images or texts that run together; by default 16, and 64 on a GPU.
    max_tokens
        Longer texts are cut; by default where the SAE's training cut them, else at the model's own limit.
    window
        In place of `max_tokens`: longer texts run in windows of this many tokens, special ones included.
    stride
        Tokens from the start of a window to the start of the next, by default a whole window. Smaller strides give each
        token more context: windows overlap, and a token is stored once, from the first window that has it.
    chat
        Put every text, as a user's message, or every list of messages (``{"role": …, "content": …}``) into the chat
        template of the model's tokenizer. The set keeps the whole text.
    bos
        The token that the model sees first in every text, or ``"none"``; by default as in the SAE's training, else as
        the tokenizer does.
    exif
        Whether images are turned by their EXIF orientation, as cameras record it; by default they are. False as in
        training on images that Pillow opened and nothing turned.
    transparency
        What transparent pixels of images show: ``white`` (the default), ``black``, or ``stored``, the colours that the
        file has below them, as Pillow's ``convert("RGB")`` gives them.
    skip_bad
        Leave out images that cannot be read and texts without tokens instead of refusing them; the set records them.
    other_model
        Encode although the embeddings (their file or folder) or the model state another model or hook than the SAE.
    device
        Where to encode, and to run the model: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
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
    client
        A ``distributed.Client``: its workers encode and merge, and the set has the same bytes. They need to see the
        same paths. By default this process does everything.
    durability
        ``"full"`` or ``"fast"``, as `saestore.open` takes it; by default as the store was opened.
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
    Peak memory is the SAE, 128 MiB of pre-activations, two segments of about 100 MiB, and 256 MiB for merges, for any
    number of samples. While it runs the set has at most 16 segments: a thread merges them. With bfloat16 candidates the
    encoder's weights are needed one and a half times more.
    """
    given = dict(locals())
    require("torch", "sae", "building")
    recipe, report = BuildRecipe(BuildOptions.of(given), overwrite), Progress(progress)
    destination = destination_of(store)
    plan = recipe.resolve(destination, report)
    folder = local_path(store) if destination.root is None else local_folder(destination.root)
    with durable.at_durability(folder, durability):
        if client is not None:
            acts = run_everywhere(make_plan(recipe, plan, destination, report, append=append), client, report)
        else:
            acts = ActivationSet(write_set(plan, destination, report, append=append, overwrite=overwrite), plan.path)
            add_found_truth(acts, plan.truth, report)
    for note in plan.inputs.notes:
        report.line(f"{plan.path}: {note}")
    return acts
