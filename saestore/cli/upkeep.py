"""`saestore verify`, `diagnose`, `compact`, `delete` and `unlock`: looking after sets."""

from __future__ import annotations

import re
import sys

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.options import option
from saestore.cli.set_options import dask_client, dask_option
from saestore.cli.target import Target, json_option, with_set, with_target
from saestore.errors import NotFoundError, escape

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<prefix>[kKMGT]?)(?P<binary>i?)B?\Z")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SMALLEST = 1 << 20  # less than a mebibyte merges nothing


@command("verify", example="saestore verify", keys=keys.VERIFY)
@with_target
@option("--repair", "Make damaged derived data, and a damaged order of a segment, again from the rest.")
@json_option
@click.pass_context
def verify(ctx: click.Context, target: Target, repair: bool) -> None:
    """Re-read everything and check it.

    The whole store, or one set of it. Names each damaged array on a line of its own and exits with status 1; with
    status 0 when nothing is wrong. With `--repair` the lines name what was made again, and the status is 1
    where something is still wrong.
    """
    store, mended = target.open("a" if repair else "r"), list[str]()
    with output.Status() as status:
        path = target.choose(store) if target.named else None
        report = store.verify(path, status)
        if repair and not report.ok:
            damaged = {problem.path for problem in report.problems if problem.path}
            mended = [line for each in sorted(damaged) for line in store.repair(each, status).mended]
            report = store.verify(path, status)
    if target.as_json:
        problems = [{"set": p.path, "node": p.node, "what": p.what} for p in report.problems]
        output.document({"ok": report.ok, "checked": report.checked, "problems": problems, "mended": mended})
    else:
        for line in mended:
            output.line(line)
        if report.ok:
            output.line(f"Nothing is wrong. Checked: {', '.join(report.checked) or 'an empty store'}")
        for problem in report.problems:
            output.line(" ".join(str(problem).split()))
        n = len(report.problems)
        if n:
            note(f"{n} problem{'s' * (n != 1)} found. Restore what is damaged from a copy, or build it again.")
    if not report.ok:
        ctx.exit(1)


def _bytes(_: click.Context, __: click.Parameter, value: str) -> int:
    """A number of bytes: 1GiB, 500MB, 1073741824."""
    match = _SIZE.match(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a number of bytes; write 1GiB, 500MB or 1073741824.")
    number = float(match["number"]) * (1024 if match["binary"] else 1000) ** _POWERS[match["prefix"].upper()]
    if number < _SMALLEST:
        raise click.BadParameter(f"{value!r} is too little to merge in; give 1MiB or more.")
    return int(number)


@command("compact", example="saestore compact CLEVR/patch --memory 2GiB")
@with_target
@option("--memory SIZE", "Memory to merge in, at most.", callback=_bytes, default="1GiB")
@dask_option
def compact(target: Target, memory: int, dask: str | None) -> None:
    """Merge the segments of a set, or of every set.

    Queries answer the same before, during and after. A build ends with it, so it is only needed after one that was not
    finished.
    """
    read = target.open()
    paths = [target.choose(read)] if target.named else list(read)
    store = target.open("a") if paths else read  # opening to write would create a store that is not there
    client = click.get_current_context().with_resource(dask_client(dask))
    for path in paths:
        before = len(store[path].attributes.segments)
        with output.Status() as status:
            after = len(store.compact(path, memory=memory, client=client, progress=status).attributes.segments)
        output.line(f"{path}: {before} segment{'s' * (before != 1)} before, {after} now")


def _asks() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


@command("delete", example="saestore delete CLEVR/patch/clip-scope-22 --yes", keys=keys.DELETE)
@with_set
@option("--yes", "Do not ask.")
@json_option
def delete(target: Target, yes: bool) -> None:
    """Remove a set and all that is stored of it, for good.

    Asks first on a terminal; elsewhere it needs --yes. A set that another process writes is left alone.
    """
    from saestore.writing.leftovers import is_half_deleted

    store = target.open()
    try:
        found = target.choose(store)
    except NotFoundError:
        found = (target.path or "").strip("/")
        if not is_half_deleted(store.root, found):
            raise
    if not yes:
        if not _asks():
            raise click.UsageError(f"This removes {found} for good; add --yes.")
        click.confirm(escape(f"Remove {found} for good?"), abort=True, err=True)
    target.open("r+").delete(found)
    target.say(f"{found}: removed.", set=found)


@command("unlock", example="saestore unlock CLEVR/patch/clip-scope-22", keys=keys.UNLOCK)
@with_set
@option("--force", "Remove the lock of a writer that is alive, too.")
@json_option
def unlock(target: Target, force: bool) -> None:
    """Remove the lock of a writer that is gone.

    Only needed for a writer on another host of a shared folder: the next writer takes over the lock of a process that
    ended on this machine, and the lock on an object store that is no longer renewed. Prints whose the lock was. What a
    living writer has committed stays; with --force it commits nothing more.
    """
    from saestore.writing.lock import describe_owner

    holder = target.open("r+").unlock(str(target.path), force=force)
    shown = {name: holder.get(name) for name in ("host", "pid", "time")} if holder else None
    done = f": removed the lock of {describe_owner(holder)}." if holder else " is not locked."
    target.say(f"{target.path}{done}", set=target.path, owner=shown)


@command("diagnose", example="saestore diagnose CLEVR/patch", keys=keys.DIAGNOSE)
@with_target
@option("--embeddings PATH", "What was encoded, as for `build`.  [default: as the set records]")
@option("--sae-from SAE", "The SAE, as for `build`.  [default: as the set records]")
@option("--n-rows N", "Samples that are decoded.", default=2048)
@option("--seed N", "Of the choice of samples.", default=0)
@json_option
def diagnose(target: Target, *, embeddings: str | None, sae_from: str | None, n_rows: int, seed: int) -> None:
    """Compare a set with its SAE and its embeddings, and find identical, missing and impossible activations.

    Without torch, the SAE or the embeddings, the report has everything else. The exit status is 0 with findings too.
    """
    acts = target.activations()
    with output.Status() as status:
        status(f"{acts.path}: reading {acts.nnz:,} activations")
        result = acts.diagnose(embeddings, sae_from, n_rows=n_rows, seed=seed)
    if target.as_json:
        output.document(result.to_dict())
        return
    rows = result.rows()
    rows += [row for f in result.findings for row in ((f.severity, f.message), ("", f.advice))]
    output.facts(f"{acts.path}: diagnosis", rows if result.findings else [*rows, ("findings", "none")])
