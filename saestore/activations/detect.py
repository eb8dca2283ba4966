"""Questions for detectors: which feature knows a concept, at which threshold, and how well on items kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.activations.opened import OpenSet, on_snapshot
from saestore.activations.scores import Scores
from saestore.errors import InvalidInputError

if TYPE_CHECKING:
    from saestore.detection.inputs import Inputs
    from saestore.detection.results import Detection

Level = Literal["item", "sample"]


class Detect(Scores, OpenSet):
    """`detect`."""

    @on_snapshot
    def detect(
        self,
        level: Level = "item",
        *,
        concepts: Sequence[str] | str | None = None,
        score: str = "max",
        p: Sequence[float] | None = None,
        min_active: int | None = None,
        max_fraction: float | None = None,
        weak_percentile: float | None = None,
        n: int = 5,
        combine: int = 0,
        probe: bool = False,
        localise: bool = True,
        baselines: bool = False,
        embeddings: Any = None,
        cls_embeddings: Any = None,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Detection:
        """Find for each concept the feature and threshold that detect it, and say how well they do on test.

        All is chosen on the items whose ``split`` is ``cal``; those of ``test`` are looked at once, for the results.

        Parameters
        ----------
        level
            ``"item"`` detects concepts of items by the `score` of their samples, ``"sample"`` those of samples.
        concepts
            Names; by default all of the level.
        score
            Of an item: ``"max"``, ``"mean"`` or ``"top-N"``, the mean of its N strongest samples; samples that are not
            active count 0.
        p
            Thresholds let through these shares of the concept's positive calibration samples on which the feature is
            above 0: they are their exact ``1 - p`` quantiles. By default 0.02, 0.05, 0.1, 0.2 … 0.9, 0.95. The positive
            samples are those labelled so, or where only items have the concept, all samples of its items. With a
            `score` that is a mean, thresholds are quantiles of the positive items' scores instead.
        min_active, max_fraction, weak_percentile
            Features are left out that are above 0 on fewer calibration samples, or on a larger share of them, or whose
            99th percentile of activations above 0 is below this percentile of all features'. By default 2, or one in
            10,000 samples; the far-out fence of the features' shares; 5. ``1``, ``1.0`` and ``0`` leave out the dead
            only.
        n
            Candidates that are listed for each concept.
        combine
            Also combine up to so many of the best features, by OR and by their mean.
        probe
            Also fit a sparse (L1) logistic probe to the scores of all features, on ``train``: an upper bound. Needs
            scikit-learn.
        localise
            Where samples have a concept, also tell which samples of detected items are the concept's, at a second
            threshold that is chosen on ``cal`` too.
        baselines
            Also ask the ways before SAEs, made from the embeddings on ``train``: difference of means, linear separators
            (logistic, SVM), k-means clusters. Needs torch and scikit-learn.
        embeddings
            Those that the set was built from, as `saestore.build` takes them; by default where the set says. Given,
            `baselines` need not be.
        cls_embeddings
            One embedding of each item, that of its CLS token: also ask the difference of their means. Of items only.
        confidence, resamples, seed
            Of the intervals, by the bootstrap over items.

        Returns
        -------
        Detection
            A row for each concept that a feature fires on.

        Raises
        ------
        NotFoundError
            There is no such concept, no column ``split``, or a split without items.

        Notes
        -----
        A concept with no positive in ``cal`` has no threshold; one with none in ``test`` has NaN where positives are
        needed. ``detection.skipped`` names both.

        Memory: the labels, some 20 bytes a sample, 16 bytes a feature, and a few hundred MB for a block of lists.
        """
        from saestore.detection.embedded import Embedded
        from saestore.detection.prune import WEAK_PERCENTILE, Cuts
        from saestore.detection.run import Options, detect
        from saestore.detection.thresholds import SHARES

        weakest = WEAK_PERCENTILE if weak_percentile is None else weak_percentile
        options = Options(
            p=SHARES if p is None else p,
            cuts=Cuts(min_active, max_fraction, weakest),
            n=n,
            combine=combine,
            probe=probe,
            localise=localise,
            baselines=baselines or embeddings is not None,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
        if cls_embeddings is not None and level != "item":
            raise InvalidInputError("cls_embeddings= are of items; they say nothing of samples. Use level='item'.")
        inputs = self._detection_inputs(level, concepts, score)
        source = self.attributes.source
        return detect(
            inputs,
            options,
            self._about(),
            lambda: Embedded(embeddings, source, self.shape[0], self.path),
            None if cls_embeddings is None else lambda: Embedded(cls_embeddings, {}, self.n_items, self.path, "items"),
        )

    def _detection_inputs(self, level: Level, concepts: Sequence[str] | str | None, score: str) -> Inputs:
        import scipy.sparse as sp

        from saestore.detection.inputs import Inputs, check_splits
        from saestore.detection.pooling import Pooling

        names, labels = self._labels(level, concepts)
        split = check_splits(self.items.column("split") if "split" in self.items.names() else None, self.path)
        stored = self._labels_of_all_samples() if level == "sample" or self._stored_labels("sample") else None
        known = [] if stored is None else list(stored.names)
        of_samples = None
        if stored is not None and level == "item" and set(known) & set(names):
            # The columns of concepts that samples have, others empty.
            place = {name: i for i, name in enumerate(known)}
            there = [(place[name], i) for i, name in enumerate(names) if name in place]
            rows, columns = map(list, zip(*there, strict=True))
            chooser = sp.csr_array((np.ones(len(there), bool), (rows, columns)), shape=(len(known), len(names)))
            of_samples = sp.csr_array(stored.matrix().tocsr() @ chooser)
        elif level == "item":
            of_samples = sp.csr_array((self.shape[0], len(names)), dtype=bool)
        return Inputs(
            path=self.path,
            level=level,
            pooling=Pooling.of(score),
            names=names,
            labels=sp.csr_array(labels),
            sample_labels=of_samples,
            from_samples=np.array([level == "sample" or name in known for name in names]),
            split=split,
            index=self._index,
            segments=self._segments,
            shape=self.shape,
            dtype=self.dtype,
        )

    def _about(self) -> dict[str, Any]:
        a = self.attributes
        return {
            "set": self.path,
            "n_samples": self.shape[0],
            "n_features": self.shape[1],
            "n_items": self.n_items,
            "nnz": self.nnz,
            "sae": dict(a.sae),
            "source": dict(a.source),
            "dropped": None if a.dropped is None else dict(a.dropped),
            "segments": {segment.name: segment.digest for segment in a.segments},
            "labels": {level: info.digest for level, info in a.concepts.items()},
        }
