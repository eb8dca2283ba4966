"""`saestore info`: what is in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saestore.cli import keys, output
from saestore.cli.app import command
from saestore.cli.table import Column, counts, size
from saestore.cli.target import Target, json_option, with_target

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet

_LISTED = 30  # names of concepts or segments that are listed one by one
Info = dict[str, Any]


@command("info", example="saestore info CLEVR/patch", keys=keys.SETS)
@with_target
@json_option
def info(target: Target) -> None:
    """Show what is in the store, or all that is known of a set."""
    store = target.open()
    acts = store[target.choose(store)] if target.named else None
    sets = [each.info() for each in ([acts] if acts is not None else store.values())]
    if target.as_json:
        output.document({"store": target.location, "sets": sets})
    elif acts is not None:
        output.facts(acts.path, [*overview(sets[0]), *_details(acts, sets[0])])
    elif sets:
        output.table(_columns(sets))
    else:
        output.line(f"The store {target.location} has no activation set yet; fill it with `saestore build`.")


def _columns(sets: list[Info]) -> list[Column]:
    return [
        Column("set", [s["path"] for s in sets], cut="end"),
        counts("samples", (s["n_samples"] for s in sets)),
        counts("features", (s["n_features"] for s in sets)),
        counts("non-zeros", (s["nnz"] for s in sets)),
        Column("L0", ["-" if s["l0"] is None else f"{s['l0']:.1f}" for s in sets], right=True),
        counts("items", (s["n_items"] for s in sets)),
        Column("size", [size(s["stored_bytes"]) for s in sets], right=True),
        Column("dense", [_times(s["ratio"]) for s in sets], right=True),
        Column("state", [_state(s) for s in sets]),
    ]


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}x" if ratio < 10 else f"{ratio:,.0f}x"


def _state(found: Info) -> str:
    if found["complete"]:
        return "complete"
    return f"{found['n_samples'] / found['planned_samples']:.0%} built" if found["planned_samples"] else "building"


def overview(found: Info) -> list[tuple[str, str]]:
    """What a build sums up in the end, as labels and values."""
    each = "" if found["bytes_per_nonzero"] is None else f", {found['bytes_per_nonzero']:.2f} bytes per non-zero"
    explained = found["summary"].get("explained_variance")
    rows = [
        ("samples", f"{found['n_samples']:,} of {found['n_items']:,} items"),
        ("features", f"{found['n_features']:,}, of which {found['dead_features']:,} are never active"),
        ("non-zeros", f"{found['nnz']:,}"),
        ("L0", "-" if found["l0"] is None else f"{found['l0']:.2f} active features per sample"),
        ("size", size(found["stored_bytes"]) + each),
        ("dense", f"{size(found['dense_bytes'])} as float32, {_times(found['ratio'])} the size"),
    ]
    rows += [] if explained is None else [("explained variance", f"{explained:.4f} of the first batch")]
    return [*rows, ("dropped", _dropped(found["dropped"]))]


def _dropped(dropped: Info | None) -> str:
    if dropped is None:
        return "nothing"
    how = [f"top_k {dropped['top_k']}"] if dropped.get("top_k") else []
    how += [str(dropped["dtype"])] if dropped.get("dtype") else []
    return (
        f"{dropped.get('n_dropped', 0):,} non-zeros, {dropped.get('share_of_sum', 0):.2%} of the summed activation "
        f"({', '.join(how)}); largest relative error {dropped.get('max_relative_error', 0):.2g}"
    )


def _details(acts: ActivationSet, found: Info) -> list[tuple[str, str]]:
    rows = [
        ("stored as", f"{found['dtype']}, {found['codec']}"),
        ("segments", f"{len(found['segments'])}: {_listed(found['segments'])}" if found["segments"] else "none yet"),
        ("state", _state(found)),
        ("item columns", _listed(acts.items.names())),
        ("concepts", _listed(acts.concepts.names("item"))),
    ]
    if acts.concepts.names("sample"):
        rows.append(("concepts of samples", _listed(acts.concepts.names("sample"))))
    figures = {k: v for k, v in found["summary"].items() if k != "explained_variance"}
    for label, values in (("build", figures), ("sae", found["sae"]), ("source", found["source"])):
        rows += [(f"{label} {name}", str(value)) for name, value in values.items() if value is not None]
    return rows


def _listed(names: list[str]) -> str:
    more = f", … {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more
