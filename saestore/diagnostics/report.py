"""What a look at a set's fidelity found: numbers, and in words what they say is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

from saestore.query import html

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A sign that something is wrong.

    Attributes
    ----------
    sign
        Which: ``wrong-layer``, ``normalisation``, ``other-activations``, ``first-position``, ``outlier-rows``, ``l0``,
        ``above-k``, ``below-k``, ``incomplete``, ``negative``, ``below-threshold``, ``always-on``.
    severity
        ``error``: this cannot be of that SAE. ``warning``: most likely wrong. ``note``: worth knowing.
    what
        What was seen, in words.
    evidence
        The numbers behind it.
    advice
        What to do.
    """

    sign: str
    severity: Severity
    what: str
    evidence: Mapping[str, Any]
    advice: str


@dataclass(frozen=True, repr=False)
class Fidelity:
    """How faithful the activations of a set are, and the signs of what went wrong.

    Attributes
    ----------
    set
        Path of the set.
    reconstruction
        ``explained_variance`` and where it was measured: ``measured`` is "stored activations against embeddings" or
        "first batch of the build"; with embeddings at hand also ``mse``, ``cosine`` (mean over rows), ``n_rows``,
        ``agreement`` (share of the stored non-zeros that encoding again gives) and the norms of
        the embeddings. None where neither is known.
    l0
        Active features a sample, over all samples: ``min``, ``p25``, ``median``, ``p75``, ``max``, ``mean``, exact.
    activations
        ``min`` and ``max`` exact, ``p50`` and ``p99`` of the active values to within 0.05 %, ``n_negative`` features
        with negative ones.
    features
        ``n_dead`` (never active), ``n_always_on`` (on more than half of the samples) and the ids of up to 100 of these.
    positions
        The samples that stand first in their item beside the others; None where items have one sample.
    expected
        What the SAE's metadata says: ``architecture``, ``d_in``, ``k``, ``l0``, ``negative``; None where it does not.
    left_out
        What could not be looked at, and why.
    findings
        What is wrong; none where all is as expected.
    """

    set: str
    reconstruction: dict[str, Any] | None
    l0: dict[str, Any]
    activations: dict[str, Any]
    features: dict[str, Any]
    positions: dict[str, Any] | None
    expected: dict[str, Any]
    left_out: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True where nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it but for NaN."""
        return {"ok": self.ok, **asdict(self), "left_out": list(self.left_out), "findings": self._findings()}

    def _findings(self) -> list[dict[str, Any]]:
        return [asdict(finding) for finding in self.findings]

    def rows(self) -> list[tuple[str, str]]:
        """The numbers as labels and texts, for people."""
        low = self.l0
        rows = [("explained variance", self._explained())]
        rows += self._reconstruction()
        rows.append(
            (
                "L0",
                f"min {low['min']}, quartiles {low['p25']:g} / {low['median']:g} / {low['p75']:g}, max {low['max']}, "
                f"mean {low['mean']:.2f}",
            )
        )
        rows.append(("expected", _expected(self.expected)))
        on = self.features
        listed = ", ".join(str(i) for i in on["always_on"][:10]) + (" …" if on["n_always_on"] > 10 else "")
        always = f": {listed}" if listed else ""
        rows.append(("features", f"{on['n_dead']:,} dead; {on['n_always_on']:,} on more than half of samples{always}"))
        a = self.activations
        rows.append(("activations", ", ".join(f"{k} {_number(a[k])}" for k in ("min", "p50", "p99", "max"))))
        if self.positions is not None:
            p = self.positions
            rows.append(
                (
                    "first in item",
                    f"{p['share']:.1%} of samples, {p['share_of_strongest']:.1%} of the {p['n_strongest']:,} strongest "
                    f"activations; norm x{_number(p['norm_ratio'])}, L0 x{_number(p['l0_ratio'])} of the others'",
                )
            )
        return rows + [("left out", reason) for reason in self.left_out]

    def _explained(self) -> str:
        found = self.reconstruction
        if found is None:
            return "not known"
        rows = f", {found['n_rows']:,} samples" if "n_rows" in found else ""
        return f"{_number(found['explained_variance'])} ({found['measured']}{rows})"

    def _reconstruction(self) -> list[tuple[str, str]]:
        found = self.reconstruction
        if found is None or "mse" not in found:
            return []
        return [
            ("reconstruction", f"mean squared error {_number(found['mse'])}, cosine {_number(found['cosine'])}"),
            ("embeddings", f"median norm {_number(found['norm_median'])}, largest {_number(found['norm_max'])}"),
            ("encoded again", f"{found['agreement']:.1%} of the stored non-zeros come out"),
        ]

    def __repr__(self) -> str:
        lines = [f"Fidelity of {self.set}:", *(f"  {name}: {value}" for name, value in self.rows())]
        lines += [f"  {f.severity}: {f.what} {f.advice}" for f in self.findings] or ["  nothing wrong was found"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        found = [[f.severity, f.what, f.advice] for f in self.findings] or [["-", "nothing wrong was found", ""]]
        numbers = html.table(["", ""], self.rows(), left=(0, 1))
        findings = html.table(["", "found", "what to do"], found, left=(0, 1, 2))
        return f"<strong>{escape(self.set)}</strong>{findings}{numbers}"


def _expected(expected: Mapping[str, Any]) -> str:
    said = [str(expected["architecture"])] if expected["architecture"] else []
    said += [f"{name} {_number(expected[name])}" for name in ("k", "l0", "d_in") if expected[name] is not None]
    if expected["negative"] is not None:
        said.append("negative values possible" if expected["negative"] else "no negative values")
    return ", ".join(said) or "the set says nothing of its SAE"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
