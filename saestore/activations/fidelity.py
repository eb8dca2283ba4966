"""The question whether a set is what its SAE gives of the embeddings it was trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saestore.activations.opened import OpenSet, on_snapshot

if TYPE_CHECKING:
    from saestore.fidelity.report import Fidelity


class Faithful(OpenSet):
    """`fidelity`."""

    @on_snapshot
    def fidelity(self, embeddings: Any = None, sae: Any = None, *, n_rows: int = 2048, seed: int = 0) -> Fidelity:
        """Look for signs of a wrong layer, a missing normalisation, or BOS rows among the samples.

        Parameters
        ----------
        embeddings
            What was encoded, in any form that `build` takes; by default where the set says that they lay.
        sae
            The SAE; by default where the set says that it came from.
        n_rows
            Samples that are decoded and compared with their embeddings.
        seed
            Which: 64 runs of consecutive ones, spread over the set.

        Returns
        -------
        Fidelity
            With ``findings``, none where all is as expected. What could not be looked at, because embeddings, the SAE
            or torch are not there, is named in ``left_out``; explained variance is then that of the build's first
            batch.

        Raises
        ------
        SaestoreError
            `embeddings` or `sae` were given, and cannot be read or are not those of this set.

        Notes
        -----
        Every activation is read once. Memory: some 80 MB and 60 bytes a feature whatever the number of samples; with
        embeddings also the SAE, 128 MiB of pre-activations and ``n_rows`` embeddings eight times.
        """
        from saestore.fidelity.measure import measure

        return measure(self, self._segments, embeddings, sae, n_rows=n_rows, seed=seed)  # type: ignore[arg-type]
