"""What a build or an import is made from, as values that other processes can open."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import zarr

from saestore.activation_set import ActivationSet
from saestore.distributed.engines import run_tasks
from saestore.distributed.plan import Plan, keep_open, planned_attributes
from saestore.errors import InvalidInputError, NotFoundError
from saestore.format import KEY, canonical_json
from saestore.ingest.import_plan import ImportPlan, plan_import
from saestore.ingest.known import add_found_truth
from saestore.ingest.options import BuildOptions, ImportOptions, RowOptions
from saestore.progress import Progress
from saestore.storage.places import expanded
from saestore.writing.compare import stored_items
from saestore.writing.pipeline import Destination, plan_set

if TYPE_CHECKING:
    from saestore.ingest.build_plan import BuildPlan

_LONGEST_RECORD = 8192  # bytes in the attributes of a set, which every reader reads


@dataclass(frozen=True)
class _Recipe:
    options: Any
    overwrite: bool = False  # whether it replaces a set, whose items then do not matter
    has_truth: bool = False  # whether the complete set gets ground truth

    def open(self, root: zarr.Group) -> Any:
        raise NotImplementedError

    def complete(self, root: zarr.Group, path: str, progress: Progress) -> None:
        """Give the committed set the ground truth that belongs to it."""
        if self.has_truth:
            add_found_truth(ActivationSet(root, path), self.open(root).truth, progress)


@dataclass(frozen=True)
class BuildRecipe(_Recipe):
    """The arguments of a build."""

    options: BuildOptions

    @property
    def device(self) -> str:
        """Where it encodes."""
        return self.options.device

    def on(self, device: str) -> BuildRecipe:
        """The same build, on another device."""
        from saestore.sae.encode import usable_device

        usable_device(device)
        return replace(self, options=replace(self.options, device=device))

    def resolve(self, destination: Destination, report: Progress, *, locked: bool = False) -> BuildPlan:
        """Open and check everything; with `locked` another process may be writing the set."""
        from saestore.ingest.build_plan import open_build

        def known(path: str) -> list[str]:
            return [] if self.overwrite else _stored_keys(destination, path, locked=locked)

        with ExitStack() as stack:

            def looking(path: str) -> Callable[[int], None]:
                return stack.enter_context(report.bar(path, "looked at", None, unit="items")).advance

            return open_build(self.options, looking, known)

    def open(self, root: zarr.Group) -> BuildPlan:
        """Open everything, in a process that runs tasks."""
        return self.resolve(Destination(root), Progress(False), locked=True)


@dataclass(frozen=True)
class ImportRecipe(_Recipe):
    """The arguments of an import."""

    options: ImportOptions
    device: str = "cpu"

    def on(self, device: str) -> ImportRecipe:  # noqa: ARG002
        """Refuse: an import encodes nothing."""
        raise InvalidInputError("device does not apply to an import, which encodes nothing.", code="unused-option")

    def open(self, root: zarr.Group) -> ImportPlan:  # noqa: ARG002
        """Open the files, which stay open until the process ends."""
        resources = ExitStack()
        atexit.register(resources.close)
        return plan_import(self.options, resources, Progress(False))


_KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "build": (BuildRecipe, BuildOptions),
    "import": (ImportRecipe, ImportOptions),
}


def make_plan(
    recipe: BuildRecipe | ImportRecipe,
    inputs: BuildPlan | ImportPlan,
    destination: Destination,
    report: Progress,
    *,
    append: bool = False,
) -> Plan:
    """Write the plan of a set into it, or find the one that is there."""
    kind = next(name for name, (of, _) in _KINDS.items() if isinstance(recipe, of))
    here: Any = recipe.options
    options: Any = replace(here, **{each.name: _absolute(getattr(here, each.name)) for each in fields(here)})
    recipe = replace(recipe, options=options, has_truth=inputs.truth is not None)
    record = {"kind": kind, "options": _record(recipe.options), "overwrite": recipe.overwrite}
    record["has_truth"] = recipe.has_truth
    root, attributes = plan_set(inputs, destination, report, record=record, append=append, overwrite=recipe.overwrite)
    plan = Plan.of(inputs.path, recipe, root, attributes)
    if plan.token is not None:
        keep_open(plan, inputs)
    return plan


def run_everywhere(plan: Plan, client: Any, report: Progress) -> ActivationSet:
    """Run the tasks of a plan and the merge on the workers of a client; returns the set."""
    run_tasks(plan, client, report)
    plan.commit(progress=report.line, client=client)
    return ActivationSet(plan.root, plan.path)


def planned(root: zarr.Group, path: str) -> Plan:
    """The plan that the set at `path` records."""
    attributes = planned_attributes(root, path)
    if attributes is None or attributes.plan is None:
        raise NotFoundError(f"{path} has no plan; make one with `saestore plan`.", code="no-plan")
    record = attributes.plan
    if record["options"] is None:
        raise InvalidInputError(
            f"{path} was planned from arrays or tables in memory, which are not in the store: run the tasks of the "
            "plan object that plan_build returned (it pickles), or plan again from files.",
            code="plan-in-memory",
        )
    recipe, options = _KINDS[record["kind"]]
    made = recipe(options(**record["options"]), record["overwrite"], record["has_truth"])
    return Plan.of(path, made, root, attributes)


def _record(options: RowOptions) -> dict[str, Any] | None:
    """The options as JSON, for a process that knows only the store; None where some are objects, or long lists."""
    given = {each.name: getattr(options, each.name) for each in fields(options)}
    try:
        return given if len(canonical_json(given)) <= _LONGEST_RECORD else None
    except (TypeError, ValueError):
        return None


def _absolute(value: Any) -> Any:
    """A path that is right in every working folder, ``file.npz:name`` too; other values as they are."""
    if not isinstance(value, str | os.PathLike):
        return value
    text = os.fspath(value)
    file, colon, name = text.rpartition(":")
    for path, rest in ((text, ""), (file, colon + name)):
        if path and expanded(path).exists():
            return f"{expanded(path).absolute()}{rest}"
    return text


def _stored_keys(destination: Destination, path: str, *, locked: bool) -> list[str]:
    """Keys of the items that the store has at `path`; none where there is no set, or one without keys."""
    attributes, root = destination.attributes(path, locked=locked), destination.root
    if attributes is None or root is None:
        return []
    items = stored_items(root, path, attributes)
    return [str(key) for key in items.read(KEY).values] if KEY in items.info.columns else []
