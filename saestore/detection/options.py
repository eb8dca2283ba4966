"""What can be set in a detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from saestore.errors import InvalidInputError, did_you_mean
from saestore.scoring.bootstrap import check_bootstrap, is_number
from saestore.scoring.pooling import Pooling
from saestore.scoring.thresholds import TARGET_RECALLS, check_recalls


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Options of `ActivationSet.detect`.

    Attributes
    ----------
    score
        Score of an item: ``"max"``, ``"mean"`` or ``"top-N"``, the mean of its N strongest samples; inactive samples
        count as 0.
    target_recalls
        A threshold is reached by this share of the concept's positive calibration samples on which the feature is above
        0: it is their exact ``1 - recall`` quantile. The positive samples are those labelled so or, where only items
        have the concept, all samples of its items. With a `score` that is a mean, thresholds are quantiles of the
        positive items' scores instead.
    min_active
        Leave out features that are above 0 on fewer calibration samples; by default 2, or one in 10,000.
    max_fraction
        Leave out features that are above 0 on a larger share of them; by default the far-out fence of all shares.
    min_p99_percentile
        Leave out features whose 99th percentile of activations above 0 is below this percentile of all features'.
    n
        Candidates that are listed for each concept.
    max_features
        From 2 on, also combine up to this many of the best features, by OR and by their mean.
    probe
        Also fit a sparse (L1) logistic probe to the scores of all features on ``train``. Needs scikit-learn.
    localise
        Where samples have a concept, also predict which samples of detected items have it.
    baselines
        Also evaluate difference of means, linear separators and k-means clusters of the embeddings, made on ``train``.
        Needs torch and scikit-learn.
    confidence_level, n_resamples, seed
        Of the intervals, by the bootstrap over items.

    Raises
    ------
    InvalidInputError
        A value is outside of what it may be.
    """

    score: str = "max"
    target_recalls: Sequence[float] = TARGET_RECALLS
    min_active: int | None = None
    max_fraction: float | None = None
    min_p99_percentile: float = 5.0
    n: int = 5
    max_features: int = 1
    probe: bool = False
    localise: bool = True
    baselines: bool = False
    confidence_level: float = 0.95
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        Pooling.of(self.score)
        object.__setattr__(self, "target_recalls", tuple(check_recalls(self.target_recalls).tolist()))
        check_bootstrap(self.confidence_level, self.n_resamples, self.seed)
        allowed = {
            "min_active": (self.min_active is None or _is_count(self.min_active), "a whole number, 1 or more"),
            "max_fraction": (
                self.max_fraction is None or (_is_within(self.max_fraction, 1) and self.max_fraction > 0),
                "a share above 0, up to 1",
            ),
            "min_p99_percentile": (_is_within(self.min_p99_percentile, 100), "a percentile from 0 to 100"),
            "n": (_is_count(self.n), "a whole number, 1 or more"),
            "max_features": (_is_count(self.max_features), "1 for single features, or more to combine them"),
        }
        for name, (valid, what) in allowed.items():
            if not valid:
                raise InvalidInputError(f"{name}={getattr(self, name)!r}: use {what}.", code="bad-option")

    @classmethod
    def of(cls, options: DetectionOptions | None, settings: Mapping[str, Any]) -> DetectionOptions:
        """These options, or the defaults, with some set otherwise."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise InvalidInputError(
                    f"detect() has no option {name!r}. {did_you_mean(name, known)}There are {', '.join(known)}.",
                    code="unknown-option",
                )
        if not isinstance(options, DetectionOptions | None):
            raise InvalidInputError(f"options={options!r}: give DetectionOptions(…).", code="bad-option")
        return replace(options or cls(), **settings)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON takes them."""
        return {**asdict(self), "target_recalls": list(self.target_recalls)}


def _is_count(value: Any) -> bool:
    return is_number(value, whole=True) and value >= 1


def _is_within(value: Any, most: float) -> bool:
    return is_number(value) and 0 <= value <= most
