"""``acts.features``: the table of the features, whose explanations a judge can score."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from saestore.analysis.explaining import SCORE_COLUMNS, ExplanationScores, explanation_sets
from saestore.errors import InvalidInputError, NotFoundError, StoreWriteError
from saestore.formats.explanations import EXPLANATION
from saestore.query.reader import SetReader
from saestore.query.set_table import SetTable

Judge = Callable[[str, list[str], str], Sequence[bool]]


class FeatureTable(SetTable):
    """The table of the features of a set: a `SetTable`, whose explanations can be scored."""

    def __init__(self, reader: SetReader) -> None:
        super().__init__(reader, "features")
        self._acts = reader

    def score_explanations(
        self,
        judge: Judge,
        features: Any = None,
        *,
        keep: bool = True,
        save_to: str | os.PathLike[str] | None = None,
        **sets: Any,
    ) -> ExplanationScores:
        """Score the stored explanations by detection and fuzzing: a judge decides which texts each one fits.

        Parameters
        ----------
        judge
            ``judge(explanation, texts, task)`` gives True or False for each of a list of texts. The task is
            ``"detection"``: does the text fit? or ``"fuzzing"``: do the tokens between ``<<`` and ``>>`` fit? It is
            called once for each feature and task.
        features
            Also a condition; by default all that have an explanation.
        keep
            Keep the balanced accuracy as the columns ``detection_score`` and ``fuzz_score`` of the features.
        save_to
            A folder for the judged trials, as Delphi's scorers write them, beside the explanations.
        sets
            As for `explanation_sets`: ``test``, ``non_activating``, ``near_misses``, ``context`` and more. Samples
            that `explanation_sets` shows to explain from, with the same options and seed, are not asked about.

        Returns
        -------
        ExplanationScores
            A row for each feature and task.

        Raises
        ------
        NotFoundError
            A feature has no explanation, or the set does not store the texts of its tokens.
        StoreWriteError
            The scores are to be kept and the store is read only; nothing was asked.
        InvalidInputError
            The judge gave another number of answers, or something else than True and False.

        Notes
        -----
        As the detection and fuzzing scorers of Delphi (Paulo et al. 2024). Memory: as `examples`.
        """
        if keep and self._acts.root.read_only:
            message = f"the store of {self._acts.path} is read only; open it with mode='a', or give keep=False."
            raise StoreWriteError(message, code="read-only")
        explained = self._explanations(features)
        made = explanation_sets(self._acts, list(explained), **sets)
        answers: dict[int, bool] = {}
        for feature, text in explained.items():
            for task in SCORE_COLUMNS:
                asked = made.trials[(made.trials.feature == feature) & (made.trials.task == task)]
                said = list(judge(text, asked.text.tolist(), task)) if len(asked) else []
                if len(said) != len(asked):
                    message = f"the judge gave {len(said):,} answers to {len(asked):,} texts of feature {feature}."
                    raise InvalidInputError(message, code="wrong-length")
                answers |= dict(zip(asked.trial.tolist(), said, strict=True))
        scores = made.score(answers)
        if save_to is not None:
            made.save_scores(save_to, answers, self._acts, explained)
        if keep:
            self.annotate(scores.to_columns())
        return scores

    def _explanations(self, features: Any) -> dict[int, str]:
        known = self[EXPLANATION] if EXPLANATION in self.names() else np.full(self._acts.shape[1], "")
        texts = np.ma.filled(known, "").astype(object)
        ids = np.flatnonzero(texts != "") if features is None else self._acts.select_features(features).ids
        without = [int(feature) for feature in ids if not texts[feature]]
        if without or not len(ids):
            what = f"feature {without[0]} has no explanation" if without else "no feature has an explanation"
            raise NotFoundError(f"{what} in {self._acts.path}; set the column 'explanation'.", code="no-explanations")
        return {int(feature): str(texts[feature]) for feature in dict.fromkeys(ids.tolist())}
