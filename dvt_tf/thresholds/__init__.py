"""Choosing thresholds from stored results, for a budget or with a guarantee. Nothing here runs a model.

Confidences (N, K) and whether each exit was right, correct (N, K), are those of every exit on held-out images
(`dvt_tf.results`); gmacs (K,) is the cost of leaving at each.
"""

from dvt_tf.thresholds.choice import METHODS, cheapest_within, choose, clamp_budget, describe_method
from dvt_tf.thresholds.guarantee import RISKS, Certificate, certify, least_images, losses_of, safest_first
from dvt_tf.thresholds.operating import Operating, operate
from dvt_tf.thresholds.published import published_settings

__all__ = [
    "METHODS",
    "RISKS",
    "Certificate",
    "Operating",
    "certify",
    "cheapest_within",
    "choose",
    "clamp_budget",
    "describe_method",
    "least_images",
    "losses_of",
    "operate",
    "published_settings",
    "safest_first",
]
