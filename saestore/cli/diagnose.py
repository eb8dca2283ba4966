"""`saestore diagnose`: whether a set is what its SAE gives of its embeddings."""

from __future__ import annotations

from saestore.cli import keys, output
from saestore.cli.group import command
from saestore.cli.options import option
from saestore.cli.table import pairs
from saestore.cli.target import Target, json_option, with_target


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
    output.title(f"{acts.path}: diagnosis")
    rows = result.rows()
    rows += [row for f in result.findings for row in ((f.severity, f.message), ("", f.advice))]
    output.line("\n".join(pairs(rows if result.findings else [*rows, ("findings", "none")], output.line_width())))
