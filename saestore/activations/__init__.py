"""The query API of one activation set."""

from saestore.activations.activationset import ActivationSet
from saestore.activations.neighbours import FeatureMatches, SimilarFeatures
from saestore.activations.tables import Histogram, TopFeatures, TopSamples

__all__ = ["ActivationSet", "FeatureMatches", "Histogram", "SimilarFeatures", "TopFeatures", "TopSamples"]
