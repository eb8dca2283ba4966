"""Running a build: the plan, the lock, the rows, the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import zarr

from saestore.activation_set import ActivationSet
from saestore.errors import NotFoundError
from saestore.format import KEY, SetAttributes
from saestore.ingest.append import appended_from, begin_append, check_prefix, grows
from saestore.ingest.build_options import Request
from saestore.ingest.build_plan import Plan, make_plan
from saestore.ingest.encode_pipeline import check_finite, encode_and_write
from saestore.ingest.ground_truth import add_ground_truth
from saestore.ingest.progress import Bars
from saestore.store import Store, start_set
from saestore.store import open as open_store
from saestore.writing import SetLock, SetWriter
from saestore.writing.writer import read_attributes

# The merge at the end stays under this, so that a build's peak does not depend on the number of samples.
_MERGE_MEMORY = 256 << 20
# Trained SAEs explain 0.6 to 0.95; embeddings of another layer, hook or normalisation give 0.3, 0, or far below.
_LOW_VARIANCE = 0.4


def run_build(store: Any, request: Request, *, append: bool, overwrite: bool, progress: bool) -> ActivationSet:
    """See `saestore.build`."""
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
        add_ground_truth(acts, plan.truth, bars.say)
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
            stacklevel=6,
        )
    return batch.nnz / count, explained
