"""Sets for automatic interpretation: examples and trials; and ``acts.features``, whose explanations they score."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saestore.analysis.examples import ExampleTable, examples, mark_tokens
from saestore.errors import InvalidInputError, NotFoundError, StoreWriteError, check_at_least
from saestore.formats.explanations import EXPLANATION
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.reader import Level, SetReader
from saestore.query.results import ResultTable
from saestore.query.set_table import SetTable
from saestore.scoring.metrics import evaluate
from saestore.storage import save_file, write_errors

Array = np.ndarray[Any, Any]

SCORE_COLUMNS = {"detection": "detection_score", "fuzzing": "fuzz_score"}  # as Delphi's scorers are named
_SPARE = 4  # times as many silent samples are drawn, because a window around one may have active tokens
_MARKED = 0.3  # share of a window's largest activation above which a training example marks a token, as in Delphi


@dataclass(frozen=True, repr=False, eq=False)
class Trials(ResultTable):
    """Questions about an explanation, each with the right answer: feature by feature, in random order.

    Attributes
    ----------
    trial
        Number of the question, int64 (n,).
    feature
        int64 (n,).
    task
        ``detection``: does the explanation fit the text? ``fuzzing``: does it fit the tokens between ``<<`` and ``>>``?
    text
        What to show.
    expected
        The right answer, bool (n,).
    kind, quantile, sample
        Where the example is from, as in `ExampleTable`.
    """

    trial: Array
    feature: Array
    task: Array
    text: Array
    expected: Array
    kind: Array
    quantile: Array
    sample: Array


@dataclass(frozen=True, repr=False, eq=False)
class ExplanationScores(ResultTable):
    """How well answers fit, one row for each feature and task.

    Attributes
    ----------
    feature, n
        int64: the feature, and its answered trials.
    task
        ``detection`` or ``fuzzing``.
    accuracy, balanced_accuracy, f1, precision, recall
        float64; NaN where they are not defined.
    """

    feature: Array
    task: Array
    n: Array
    accuracy: Array
    balanced_accuracy: Array
    f1: Array
    precision: Array
    recall: Array

    def to_columns(self) -> dict[str, dict[int, float]]:
        """Balanced accuracies as columns of the features, for `SetTable.annotate`."""
        columns: dict[str, dict[int, float]] = {}
        for row in self:
            columns.setdefault(SCORE_COLUMNS[row["task"]], {})[row["feature"]] = row["balanced_accuracy"]
        return columns


@dataclass(frozen=True, repr=False, eq=False)
class ExplanationSets:
    """What a language model is shown to explain features, and the trials that score what it wrote.

    Attributes
    ----------
    train
        Examples to explain from.
    trials
        Questions with answers, of other samples than `train`.
    """

    train: ExampleTable
    trials: Trials

    def __repr__(self) -> str:
        n = len(np.unique(np.append(self.train.feature, self.trials.feature)))
        return f"<ExplanationSets of {n:,} features: {len(self.train):,} examples, {len(self.trials):,} trials>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one JSON object per feature and line: ``feature``, ``train`` and ``trials``, and return the path."""
        lines = []
        for feature in np.unique(np.append(self.train.feature, self.trials.feature)).tolist():
            train = self.train[self.train.feature == feature]
            shown = []
            for i, row in enumerate(train):
                row["marked"] = train.marked(i, _MARKED * max(row["activations"], default=0))
                shown.append({name: value for name, value in row.items() if name != "text"})
            trials = list(self.trials[self.trials.feature == feature])
            lines.append(json.dumps({"feature": feature, "train": shown, "trials": trials}, ensure_ascii=False) + "\n")
        return save_file(path, "".join(lines).encode("utf-8", "replace"))

    def score(self, answers: Mapping[int, bool] | Sequence[bool]) -> ExplanationScores:
        """Score the answers to the trials.

        Parameters
        ----------
        answers
            True or False for each trial, in order, or by the number of the trial; trials without an answer are left
            out.

        Raises
        ------
        InvalidInputError
            A number is not a trial, or there are more or fewer answers than trials.
        """
        trials = self.trials
        given: Any = answers
        if not isinstance(given, Mapping | Sequence | np.ndarray):
            message = f"the answers are a {type(given).__name__}; give True or False for each trial, or a mapping."
            raise InvalidInputError(message, code="bad-answer")
        if not isinstance(given, Mapping) and len(given) != len(trials):
            message = f"there are {len(given):,} answers and {len(trials):,} trials; give one each, or a mapping."
            raise InvalidInputError(message, code="wrong-length")
        given = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
        for number, answer in given.items():
            if number not in range(len(trials)) or not (isinstance(answer, bool | np.bool_ | int) and answer in {0, 1}):
                message = f"answer {number!r}: {answer!r}; give True or False by a trial's number, of {len(trials):,}."
                raise InvalidInputError(message, code="bad-answer")
        answered = np.array([number in given for number in range(len(trials))], bool)
        said = np.array([bool(given.get(number, False)) for number in range(len(trials))], bool)
        rows = []
        for feature in dict.fromkeys(trials.feature.tolist()):
            for task in SCORE_COLUMNS:
                mask = answered & (trials.feature == feature) & (trials.task == task)
                if mask.any():
                    found = evaluate(said[mask].astype(np.float64), trials.expected[mask].astype(bool), 0.5)
                    balanced = (found["tpr"] + found["tnr"]) / 2
                    rows.append((feature, task, int(mask.sum()), found["accuracy"], balanced,
                                 found["f1"], found["precision"], found["recall"]))  # fmt: skip
        columns = list(zip(*rows, strict=True)) or [()] * 8
        dtypes = (np.int64, object, np.int64, *[np.float64] * 5)
        return ExplanationScores(*(np.array(c, d) for c, d in zip(columns, dtypes, strict=True)))

    def save_scores(
        self,
        folder: str | os.PathLike[str],
        answers: Mapping[int, bool] | Sequence[bool],
        acts: SetReader,
        explanations: Mapping[int, str],
    ) -> Path:
        """Write the answered trials and the explanations as a folder of Delphi's results, and return its path."""
        given = dict(answers) if isinstance(answers, Mapping) else dict(enumerate(answers))
        judged: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in self.trials:
            if row["trial"] in given:
                scorer = SCORE_COLUMNS[row["task"]].removesuffix("_score")
                judged.setdefault((scorer, row["feature"]), []).append(
                    {
                        "str_tokens": [row["text"]],
                        "activations": [],
                        "distance": row["quantile"] + 1 if row["quantile"] >= 0 else -1,
                        "activating": bool(row["expected"]),
                        "prediction": bool(given[row["trial"]]),
                        "probability": None,
                        "correct": bool(given[row["trial"]]) == bool(row["expected"]),
                    }
                )
        from saestore.formats.explanation_files import delphi_hookpoint, write_delphi  # its package imports xarray

        with write_errors(str(folder)):
            write_delphi(Path(folder), delphi_hookpoint(acts), explanations, judged)
        return Path(folder)


@retry_on_stale_snapshot
def explanation_sets(
    acts: SetReader,
    feature: Any,
    *,
    train: int = 40,
    test: int = 50,
    non_activating: int = 50,
    near_misses: int = 0,
    quantiles: int = 10,
    context: int = 16,
    level: Level = "sample",
    where: Any = None,
    seed: int = 0,
) -> ExplanationSets:
    """The sets of automatic interpretation as Delphi makes them: examples to explain, and trials to score by.

    Parameters
    ----------
    feature
        One feature or many, in one pass over the store.
    train, test
        Active examples, the same number from each of `quantiles` parts of the range; no sample is in both.
    non_activating
        Silent examples at random, without an active token in their windows.
    near_misses
        Silent examples on which the companions of the feature are active, in addition; see `examples`.
    quantiles, context, level, where, seed
        As for `examples`.

    Returns
    -------
    ExplanationSets
        ``save("sets.jsonl")`` writes it for a language model, ``score(answers)`` scores its answers.

    Raises
    ------
    NotFoundError
        The set does not store the texts of its tokens.

    Notes
    -----
    A detection trial shows the window of each test example and of each silent one. A fuzzing trial marks tokens: the
    active ones of a test example, and as many at random of a silent one as are active in the mean test example, as
    Delphi's scorers do. Memory: as `examples`.
    """
    counts = {"train": train, "test": test, "non_activating": non_activating, "near_misses": near_misses, "seed": seed}
    for name, value in counts.items():
        check_at_least(name, value, 0)
    check_at_least("quantiles", quantiles, 1)
    each = -(-train // quantiles), -(-test // quantiles)
    table = examples(
        acts, feature, quantiles=quantiles, n=sum(each), random=_SPARE * non_activating,
        near_misses=_SPARE * near_misses, context=context, level=level, where=where, seed=seed,
    )  # fmt: skip
    if len(table) and table.tokens[0] is None:
        raise NotFoundError(
            f"{acts.path} does not store the texts of its tokens, which a language model would read; "
            "acts.examples() gives keys and positions.",
            code="no-tokens",
        )
    in_train, in_test = _split(table, each, (train, test), seed)
    silent = np.zeros(len(table), bool)
    for kind, limit in (("silent", non_activating), ("near-miss", near_misses)):
        silent |= _all_silent(table, kind, limit)
    shown, trials = table[in_train], []
    for f in dict.fromkeys(table.feature.tolist()):
        of = table.feature == f
        trials.append(_trials_of(table[of & in_test], table[of & silent], np.random.default_rng([seed, f, 1])))
    joined = Trials.concat(trials) if trials else Trials(*(np.empty(0, object) for _ in range(8)))
    return ExplanationSets(shown, replace(joined, trial=np.arange(len(joined))))


def _split(table: ExampleTable, each: tuple[int, int], most: tuple[int, int], seed: int) -> tuple[Array, Array]:
    """Which rows are for training and which for testing: of each quantile some, and no more than asked for."""
    masks = np.zeros((2, len(table)), bool)
    for f in np.unique(table.feature):
        for q in range(int(table.quantile.max(initial=-1)) + 1):
            rows = np.flatnonzero((table.feature == f) & (table.quantile == q))
            rows = np.random.default_rng([seed, int(f), q]).permutation(rows)
            n_train = -(-len(rows) * each[0] // max(1, sum(each)))
            masks[0, rows[:n_train]], masks[1, rows[n_train:]] = True, True
        for mask, limit in zip(masks, most, strict=True):
            rows = np.flatnonzero(mask & (table.feature == f))
            mask[rows[np.linspace(0, len(rows) - 1, max(0, len(rows) - limit)).astype(int)]] = False
    return masks[0], masks[1]


def _all_silent(table: ExampleTable, kind: str, limit: int) -> Array:
    """The first examples of a kind, of each feature up to `limit`, in whose windows nothing is active."""
    quiet: Array = np.array([not any(values) for values in table.activations], bool) & (table.kind == kind)
    for f in np.unique(table.feature):
        quiet[np.flatnonzero(quiet & (table.feature == f))[limit:]] = False
    return quiet


def _trials_of(active: ExampleTable, silent: ExampleTable, rng: np.random.Generator) -> Trials:
    """Detection and fuzzing trials of one feature."""
    n_marked = -(-sum(np.count_nonzero(values) for values in active.activations) // max(1, len(active)))
    rows: list[tuple[Any, ...]] = []
    for source, true in ((active, True), (silent, False)):
        for i, row in enumerate(source):
            about = true, row["kind"], row["quantile"], row["sample"]
            rows.append((row["feature"], "detection", "".join(row["tokens"]), *about))
            marked = np.asarray(row["activations"]) != 0
            if not true:
                marked = np.zeros(len(row["tokens"]), bool)
                marked[rng.permutation(len(marked))[:n_marked]] = True
            rows.append((row["feature"], "fuzzing", mark_tokens(source.tokens[i], marked), *about))
    rows = [rows[i] for i in rng.permutation(len(rows))]
    columns = list(zip(*rows, strict=True)) or [()] * 7
    dtypes = (np.int64, object, object, bool, object, np.int64, np.int64)
    arrays = [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    return Trials(np.zeros(len(rows), np.int64), *arrays)


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
