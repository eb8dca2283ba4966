"""The report of a diagnosis: numbers, and findings in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from saestore.errors import escape as escape_control
from saestore.query import html
from saestore.query.html import escape

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A fact that does not fit the SAE or the embeddings of the set."""

    # ``not-reproduced``, ``missing-activations``, ``explains-nothing``, ``scale``, ``identical-embeddings``,
    # ``identical-first-rows``, ``identical-rows``, ``empty-rows``, ``above-k``, ``negative``, ``below-threshold``.
    code: str
    # ``error``: the SAE cannot give this. ``warning``: most likely a mistake. ``note``: worth knowing.
    severity: Severity
    message: str  # the fact, in words
    evidence: Mapping[str, Any]  # the numbers behind it
    advice: str  # what to do


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Facts about the activations of a set, and findings.

    Attributes
    ----------
    set
        Path of the set.
    reconstruction
        ``recorded``, the explained variance of the build's first batch. With embeddings and SAE also, over ``n_rows``
        samples: ``explained_variance``, ``without_first`` (without the first sample of each item), ``mse``,
        ``cosine`` (mean), ``agreement`` (share of the stored non-zeros that encoding again gives), ``missing`` (share
        of the non-zeros that encoding again gives and the set lacks), ``norm_median``, ``decoded_norm_median``; and
        ``scale``, ``shift``, ``scaled_explained_variance``: the best of the tried scales of the embeddings.
    l0
        Active features per sample: ``min``, ``p25``, ``median``, ``p75``, ``max``, ``mean``.
    activations
        ``min``, ``max``, and ``n_negative``, the features with negative activations.
    features
        ``n``, ``n_dead`` (never active), ``n_always_on`` (active on more than half of the samples), and the ids of up
        to 100 of the latter.
    samples
        ``n``; ``n_empty`` (without an active feature); ``n_identical`` (the same activations as another sample of their
        item); ``first_identical`` and ``second_identical``, the share of items whose first or second sample has the
        most common activations of its kind (None where items have one sample).
    expected
        What the SAE's metadata gives: ``architecture``, ``d_in``, ``k``, ``l0``, ``negative``; None if unknown.
    left_out
        What could not be measured, and why.
    findings
        The worst first; empty where all facts fit.
    """

    set: str
    reconstruction: dict[str, Any]
    l0: dict[str, Any]
    activations: dict[str, Any]
    features: dict[str, Any]
    samples: dict[str, Any]
    expected: dict[str, Any]
    left_out: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True without an error or a warning."""
        return all(finding.severity == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; numbers that are not finite are NaN."""
        result = {"ok": self.ok, **asdict(self)}
        return {**result, "left_out": list(self.left_out), "findings": list(result["findings"])}

    def rows(self) -> list[tuple[str, str]]:
        """The numbers as labels and texts, for people."""
        r, l0, on, samples = self.reconstruction, self.l0, self.features, self.samples
        explained = f"{_number(r.get('recorded'))} in the first batch of the build"
        rows = [("explained variance", explained if "n_rows" not in r else
                 f"{_number(r['explained_variance'])} of {r['n_rows']:,} samples, {explained}")]  # fmt: skip
        if "n_rows" in r:
            rows += [
                ("reconstruction", f"mean squared error {_number(r['mse'])}, cosine {_number(r['cosine'])}"),
                ("encoded again", f"{r['agreement']:.1%} of the stored non-zeros; {r['missing']:.1%} are missing"),
                ("best scale", f"{r['scale']:.3g}, explained variance {_number(r['scaled_explained_variance'])}"),
            ]
        quartiles = f"min {l0['min']}, quartiles {l0['p25']:g} / {l0['median']:g} / {l0['p75']:g}"
        listed = ", ".join(map(str, on["always_on"][:10])) + (" …" if on["n_always_on"] > 10 else "")
        rows += [
            ("L0", f"{quartiles}, max {l0['max']}, mean {l0['mean']:.2f}"),
            ("expected", _expected(self.expected)),
            ("features", f"{on['n_dead']:,} dead; {on['n_always_on']:,} active on more than half of the samples"
             + (f": {listed}" if listed else "")),
            ("activations", f"min {_number(self.activations['min'])}, max {_number(self.activations['max'])}"),
            ("samples", f"{samples['n_empty']:,} without activations, {samples['n_identical']:,} identical to another "
             "of their item"),
        ]  # fmt: skip
        if samples["first_identical"] is not None:
            shares = f"{samples['first_identical']:.1%} of first, {samples['second_identical']:.1%} of second samples"
            rows.append(("identical", shares))
        return rows + [("left out", reason) for reason in self.left_out]

    def __repr__(self) -> str:
        lines = [f"Diagnosis of {self.set}:", *(f"  {name}: {value}" for name, value in self.rows())]
        lines += [f"  {f.severity} {f.code}: {f.message} {f.advice}" for f in self.findings] or ["  no findings"]
        return escape_control("\n".join(lines))

    def _repr_html_(self) -> str:
        found = [[f.severity, f.message, f.advice] for f in self.findings] or [["-", "no findings", ""]]
        findings = html.table(["", "finding", "what to do"], found, left=(0, 1, 2))
        return f"<strong>{escape(self.set)}</strong>{findings}{html.table(['', ''], self.rows(), left=(0, 1))}"


def _expected(expected: Mapping[str, Any]) -> str:
    known = [str(expected["architecture"])] if expected["architecture"] else []
    known += [f"{name} {_number(expected[name])}" for name in ("k", "l0", "d_in") if expected[name] is not None]
    if expected["negative"] is not None:
        known.append("negative values possible" if expected["negative"] else "no negative values")
    return ", ".join(known) or "the set records nothing of its SAE"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
