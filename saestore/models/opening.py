"""From what the caller asked for to a source of rows: the model loaded, the items looked at, all checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.models.blocks import load_text_model, load_tower
from saestore.models.common import some
from saestore.models.images import find_images
from saestore.models.pretrained import Pretrained
from saestore.models.run import RunImages, RunTexts, text_groups
from saestore.models.source import ModelSource
from saestore.models.texts import Tokenizer, find_texts, tokenize
from saestore.models.training_spec import SAETrainingSpec
from saestore.models.transform import ImageTransform
from saestore.tables import Items

__all__ = ["MODEL_DTYPES", "ModelRequest", "Ready", "open_model_source"]

MODEL_DTYPES = ("float32", "bfloat16", "float16")
# A GPU is not filled by what fills a processor.
_BATCH = {"cpu": 16, "cuda": 64}
_NO_LIMIT = 1 << 40  # what tokenizers without a limit say is larger still
_LISTED = 100  # names in the store's attributes
_TOKENS_PER_TEXT = 256  # of a full batch; longer texts run fewer at a time


@dataclass(frozen=True)
class ModelRequest:
    """What the caller asked for; None where nothing was said.

    Attributes
    ----------
    images, texts
        One of the two: a folder; a file, or a list of texts.
    items
        A table of them.
    model, layer
        Which model, and which of its blocks.
    sample_type
        ``patch`` or ``cls`` of images, ``token`` or ``cls`` of texts.
    device, dtype
        Where the model runs, and what its weights are held in.
    batch_size
        Images or texts that run together.
    max_tokens
        Longer texts are cut.
    skip_bad
        Leave out what cannot be read or has no tokens.
    known
        Keys of the images that come first, whatever their names: those that a store has already.
    """

    images: Any = None
    texts: Any = None
    items: Any = None
    model: str | os.PathLike[str] | None = None
    layer: int | None = None
    sample_type: str = "patch"
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int | None = None
    max_tokens: int | None = None
    skip_bad: bool = False
    known: Sequence[str] = ()

    @property
    def batch(self) -> int:
        """Images or texts that run together."""
        return self.batch_size or _BATCH.get(self.device.partition(":")[0], _BATCH["cuda"])


@dataclass(frozen=True)
class Ready:
    """What a build needs in place of embeddings and their items.

    Attributes
    ----------
    source
        The rows.
    items
        What they are rows of.
    ptr
        int64 (n_items + 1,), which rows are whose.
    spans
        int32 (n_rows, 2), the characters of each token; None where rows are no tokens.
    record
        For the set's attribute ``source``.
    notes
        What the caller should be told at the end, a line each.
    """

    source: ModelSource
    items: Items
    ptr: np.ndarray
    spans: np.ndarray | None
    record: dict[str, Any]
    notes: tuple[str, ...]


def open_model_source(request: ModelRequest, wanted: SAETrainingSpec, advance: Callable[[int], None]) -> Ready:
    """Load the model and look at every image or text.

    Parameters
    ----------
    request
        What to run on what.
    wanted
        What the SAE was trained on.
    advance
        Called with the number of items that were looked at.

    Raises
    ------
    NotFoundError
        If the model, its files or items are not there.
    InvalidInputError
        If they cannot be used, or are not what the SAE was trained on.
    MissingDependencyError
        If transformers or Pillow is not installed.
    """
    allowed = ("patch", "cls") if request.images is not None else ("token", "cls")
    if request.sample_type not in allowed:
        kind = "images" if request.images is not None else "texts"
        raise InvalidInputError(f"sample_type {request.sample_type!r}: of {kind} use {' or '.join(allowed)}.")
    if request.dtype not in MODEL_DTYPES:
        raise InvalidInputError(f"model_dtype {request.dtype!r}: use one of {', '.join(MODEL_DTYPES)}.")
    if request.batch_size is not None and request.batch_size < 1:
        raise InvalidInputError(f"batch_size {request.batch_size}: run at least 1 at a time.")
    layer = wanted.layer(request.layer)
    asked = None if request.model is None else os.fspath(request.model)
    place = Pretrained(wanted.model_name(asked))
    opener = _images if request.images is not None else _texts
    return opener(request, wanted, place, layer, advance)


def _images(
    request: ModelRequest, wanted: SAETrainingSpec, place: Pretrained, layer: int, advance: Callable[[int], None]
) -> Ready:
    model, tower, config = load_tower(place, layer, request.dtype, request.device)
    wanted.check_width(place.name, model.width)
    wanted.warn_of_other_model(place.name)
    transform = ImageTransform.of(place.image_processor(), config.patch_size, place.name)
    height, width = transform.record["size"]
    if not tower.any_size and {height, width} != {config.image_size}:
        raise InvalidInputError(
            f"{place.name} takes images of {config.image_size} x {config.image_size}, and its preprocessor_config.json "
            f"makes them {height} x {width}; change it"
        )
    if request.sample_type == "cls" and not tower.has_cls:
        raise InvalidInputError(
            f"{place.name} ({config.model_type}) has no CLS token: use sample_type 'patch' (its pooled output comes "
            "after the last block, and is not what an SAE on a block takes)"
        )
    wanted.warn_of_other_transform(transform.record)
    files = find_images(request.images, request.items, skip_bad=request.skip_bad, known=request.known, advance=advance)
    cls = request.sample_type == "cls"
    before = tower.n_before
    rows = slice(0, 1) if cls else slice(before, before + transform.n_patches)
    n = len(files.paths)
    ptr = np.arange(n + 1, dtype=np.int64) * (1 if cls else transform.n_patches)
    facts = {**_facts(request, model.fingerprint, layer), "transform": transform.record}
    source = ModelSource(
        RunImages(model, transform, files.paths, rows),
        path=str(request.images),
        width=model.width,
        dtype=request.dtype,
        ptr=ptr,
        groups=np.append(np.arange(0, n, request.batch), n).astype(np.int64),
        keys=files.items.key,
        digests=files.digests,
        facts=facts,
    )
    not_stored = ["patches"] if cls else ["CLS", f"{before - 1} registers"][: 0 if not before else 1 + (before > 1)]
    record = {**_record("images", request, place, facts, files.skipped), "not_stored": not_stored}
    return Ready(source, files.items, ptr, None, record, tuple(_skipped_note("image", files.skipped)))


def _texts(
    request: ModelRequest, wanted: SAETrainingSpec, place: Pretrained, layer: int, advance: Callable[[int], None]
) -> Ready:
    model, config = load_text_model(place, layer, request.dtype, request.device)
    wanted.check_width(place.name, model.width)
    wanted.warn_of_other_model(place.name)
    made = place.tokenizer(config.vocab_size)
    longest = _longest(request, wanted, config, made.model_max_length)
    tokenizer = Tokenizer.of(made, wanted.prepend_bos, longest)
    found = tokenize(find_texts(request.texts, request.items), tokenizer, skip_bad=request.skip_bad, advance=advance)
    mean = request.sample_type == "cls"
    ptr = np.arange(len(found.items) + 1, dtype=np.int64) if mean else found.ptr
    facts = {**_facts(request, model.fingerprint, layer), **tokenizer.record}
    source = ModelSource(
        RunTexts(model, tokenizer, found.items.columns["text"].tolist(), mean),
        path=str(request.texts) if isinstance(request.texts, str | os.PathLike) else "a list of texts",
        width=model.width,
        dtype=request.dtype,
        ptr=ptr,
        groups=text_groups(found.lengths, request.batch, request.batch * _TOKENS_PER_TEXT),
        keys=found.items.key,
        digests=found.digests,
        facts=facts,
    )
    record = {
        **_record("texts", request, place, facts, found.skipped),
        "not_stored": [*dict.fromkeys(tokenizer.record["special_tokens"]), "padding"],
        "n_cut": len(found.cut),
        "cut": found.cut[:_LISTED],
    }
    notes = _skipped_note("text", found.skipped)
    if found.cut:
        notes.append(f"{len(found.cut):,} texts have more than {longest:,} tokens and were cut: {some(found.cut)}")
    return Ready(source, found.items, ptr, None if mean else found.spans, record, tuple(notes))


def _longest(request: ModelRequest, wanted: SAETrainingSpec, config: Any, of_tokenizer: int) -> int | None:
    """How many tokens of a text the model sees: as asked, else as the SAE was trained, and never more than it can."""
    most = min(int(getattr(config, "max_position_embeddings", None) or of_tokenizer), int(of_tokenizer))
    if "roberta" in config.model_type:  # its positions begin after that of padding
        most -= config.pad_token_id + 1 if most == config.max_position_embeddings else 0
    if request.max_tokens is not None and not 1 <= request.max_tokens <= most:
        raise InvalidInputError(f"max_tokens {request.max_tokens}: this model takes 1 to {most:,} tokens of a text.")
    longest = min(request.max_tokens or wanted.context_size or most, most)
    return longest if longest < _NO_LIMIT else None


def _facts(request: ModelRequest, fingerprint: str, layer: int) -> dict[str, Any]:
    """What decides the rows, besides the items."""
    return {"model_fingerprint": fingerprint, "layer": layer, "sample_type": request.sample_type}


def _record(
    kind: str, request: ModelRequest, place: Pretrained, facts: dict[str, Any], skipped: dict[str, str]
) -> dict[str, Any]:
    record = {"kind": kind, "model": place.name, "hook_name": f"blocks.{facts['layer']}.hook_resid_post", **facts}
    if request.skip_bad:
        record |= {"n_skipped": len(skipped), "skipped": dict(list(skipped.items())[:_LISTED])}
    return record


def _skipped_note(kind: str, skipped: dict[str, str]) -> list[str]:
    if not skipped:
        return []
    return [f"{len(skipped):,} {kind}s were left out: {some(f'{name} ({why})' for name, why in skipped.items())}"]
