"""From a request to rows of a model: load the model, look at every item, and check that all fits together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.labels.patch_grid import GRID_COLUMNS
from saestore.models.blocks import find_tower, load_text_model, load_tower
from saestore.models.hooks import Hook
from saestore.models.images import ImageTransform, NaflexTransform, find_images
from saestore.models.packages import ImageModel, load_package_model, package_of
from saestore.models.pretrained import Pretrained
from saestore.models.request import ModelInputs, ModelRequest, select_items
from saestore.models.run import RunImages, RunTexts, text_groups
from saestore.models.source import ModelSource
from saestore.models.texts import find_texts
from saestore.models.tokens import Tokenizer, tokenize
from saestore.models.training_spec import SAETrainingSpec
from saestore.sparse_rows import pointers
from saestore.tables.label_matrix import listed

_NO_LIMIT = 1 << 40  # tokenizers without a limit have one that is larger still
_LISTED = 100  # names in the store's attributes
_TOKENS_PER_TEXT = 256  # in a full batch; fewer texts run together where they are longer


def open_model_source(request: ModelRequest, spec: SAETrainingSpec, advance: Callable[[int], None]) -> ModelInputs:
    """Load the model and look at every image or text; `advance` receives the number of items that were looked at."""
    request.check()
    hook = spec.place(request.layer, request.hook)
    name = spec.model_name(None if request.model is None else os.fspath(request.model))
    if request.images is None:
        return _texts(request, spec, Pretrained(name), hook, advance)
    if package_of(name) is not None:
        return _images(request, spec, load_package_model(name, hook, request), hook, advance)
    return _images(request, spec, _of_transformers(Pretrained(name), hook, request), hook, advance)


def _of_transformers(pretrained: Pretrained, hook: Hook, request: ModelRequest) -> ImageModel:
    tower, config = find_tower(pretrained)
    transform = (NaflexTransform if tower.naflex else ImageTransform).of(
        pretrained.image_processor(), config.patch_size, pretrained.name,
        exif=request.exif is not False, transparency=request.transparency or "white",
    )  # fmt: skip
    size = transform.record["size"]
    if not tower.any_size and set(size) != {config.image_size}:
        raise InvalidInputError(
            f"{pretrained.name} takes images of {config.image_size} x {config.image_size}, and its "
            f"preprocessor_config.json makes them {size[0]} x {size[1]}; change it",
            code="image-size",
        )
    where: Any = {"dtype": request.dtype, "device": request.device}
    model = load_tower(pretrained, tower, config, hook, **where, probe=transform.probe())
    return ImageModel(pretrained.name, config.model_type, model, transform, tower.n_before, tower.has_cls)


def _images(
    request: ModelRequest, spec: SAETrainingSpec, found: ImageModel, hook: Hook, advance: Callable[[int], None]
) -> ModelInputs:
    model, transform = found.model, found.transform
    spec.check_model(found.name, model.width, other=request.other_model)
    cls = request.sample_type == "cls"
    if cls and not found.has_cls:
        raise InvalidInputError(
            f"{found.name} ({found.kind}) has no CLS token: use sample_type 'patch' (its pooled output "
            "comes after the last block, and is not what an SAE on a block takes)",
            code="no-cls-token",
        )
    spec.warn_of_other_transform(transform.record)
    exif = transform.record["exif"]
    files = find_images(
        request.images, request.items, skip_bad=request.skip_bad, exif=exif, known=request.known, advance=advance
    )
    before, n, items = found.n_before, len(files.paths), files.items
    grids = transform.grids(*(items.columns[name].tolist() for name in ("width", "height")))
    if transform.record["grid"] is None:
        items = select_items(items, np.ones(n, bool), **dict(zip(GRID_COLUMNS, grids.T, strict=True)))
    ptr = pointers(np.ones(n, np.int64) if cls else grids.prod(axis=1))
    facts = {**_facts(request, model.fingerprint, hook), "transform": transform.record}
    source = ModelSource(
        RunImages(model, transform, files.paths, slice(0, 1) if cls else slice(before, None)),
        path=str(request.images),
        d_in=model.width,
        dtype=request.dtype,
        ptr=ptr,
        groups=np.append(np.arange(0, n, request.batch), n).astype(np.int64),
        keys=items.key,
        digests=files.digests,
        facts=facts,
    )
    not_stored = ["patches"] if cls else ["CLS", f"{before - 1} registers"][: 0 if not before else 1 + (before > 1)]
    record = {**_record(request, found.name, facts, files.skipped), "not_stored": not_stored}
    return ModelInputs(source, items, ptr, None, record, tuple(_skipped_note("image", files.skipped)))


def _texts(
    request: ModelRequest, spec: SAETrainingSpec, pretrained: Pretrained, hook: Hook, advance: Callable[[int], None]
) -> ModelInputs:
    model, config = load_text_model(pretrained, hook, request.dtype, request.device)
    spec.check_model(pretrained.name, model.width, other=request.other_model)
    loaded = pretrained.tokenizer()
    longest = _longest(request, spec, config, loaded.model_max_length)
    tokenizer = Tokenizer.of(loaded, spec.prepend_bos, longest, config.vocab_size, bos=request.bos, chat=request.chat)
    if request.window is not None:
        tokenizer = tokenizer.in_windows(request.stride)
    texts = find_texts(request.texts, request.items, _chat_template(loaded, pretrained.name) if request.chat else None)
    found = tokenize(texts, tokenizer, skip_bad=request.skip_bad, advance=advance)
    mean = request.sample_type == "cls"
    ptr = np.arange(len(found.items) + 1, dtype=np.int64) if mean else found.ptr
    facts = {**_facts(request, model.fingerprint, hook), **tokenizer.record}
    source = ModelSource(
        RunTexts(model, tokenizer, found.items.columns["text"].tolist(), found.windows, mean),
        path=str(request.texts) if isinstance(request.texts, str | os.PathLike) else "a list of texts",
        d_in=model.width,
        dtype=request.dtype,
        ptr=ptr if mean else found.window_ptr,
        groups=text_groups(found.lengths, request.batch, request.batch * _TOKENS_PER_TEXT),
        keys=found.items.key[found.windows[:, 0]],
        digests=found.digests,
        facts=facts,
    )
    record = {
        **_record(request, pretrained.name, facts, found.skipped),
        "not_stored": [*dict.fromkeys(tokenizer.record["special_tokens"]), "padding"],
        "n_cut": len(found.cut),
        "cut": found.cut[:_LISTED],
    }
    notes = _skipped_note("text", found.skipped)
    if found.cut:
        notes.append(f"{len(found.cut):,} texts have more than {longest:,} tokens and were cut: {listed(found.cut, 5)}")
    spans, ids = (None, None) if mean else (found.spans, found.ids)
    return ModelInputs(source, found.items, ptr, spans, record, tuple(notes), ids)


def _chat_template(tokenizer: Any, name: str) -> Callable[[list[Any]], str]:
    if tokenizer.chat_template is None:
        raise InvalidInputError(
            f"the tokenizer of {name} has no chat template: leave out --chat (chat=), or name a model that was "
            "trained on chats",
            code="no-chat-template",
        )
    return lambda messages: str(tokenizer.apply_chat_template(messages, tokenize=False))


def _longest(request: ModelRequest, spec: SAETrainingSpec, config: Any, of_tokenizer: int) -> int | None:
    """Tokens of a text that the model sees: as requested, else as the SAE was trained, and never more than it can."""
    positions = int(getattr(config, "max_position_embeddings", None) or 0)  # -1 for relative positions
    most = min(positions if positions > 0 else int(of_tokenizer), int(of_tokenizer))
    if "roberta" in config.model_type:  # its positions begin after the padding's
        most -= config.pad_token_id + 1 if most == config.max_position_embeddings else 0
    requested = request.max_tokens or request.window
    if requested is not None and not 1 <= requested <= most:
        name = "window" if request.max_tokens is None else "max_tokens"
        raise InvalidInputError(
            f"{name} {requested}: this model takes 1 to {most:,} tokens of a text.", code="invalid-count"
        )
    longest = min(requested or spec.context_size or most, most)
    return longest if longest < _NO_LIMIT else None


def _facts(request: ModelRequest, fingerprint: str, hook: Hook) -> dict[str, Any]:
    """What decides the rows, besides the items."""
    place = {"layer": hook.layer, "hook_name": hook.name}
    return {"model_fingerprint": fingerprint, **place, "sample_type": request.sample_type}


def _record(request: ModelRequest, model: str, facts: dict[str, Any], skipped: dict[str, str]) -> dict[str, Any]:
    record = {"kind": request.kind, "model": model, **facts}
    if request.skip_bad:
        record |= {"n_skipped": len(skipped), "skipped": dict(list(skipped.items())[:_LISTED])}
    return record


def _skipped_note(kind: str, skipped: dict[str, str]) -> list[str]:
    if not skipped:
        return []
    names = listed([f"{name} ({reason})" for name, reason in skipped.items()], 5)
    return [f"{len(skipped):,} {kind}s were left out: {names}"]
