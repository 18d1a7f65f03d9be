"""Numbers about predictions: what a model does to each class. Knows nothing of Lightning modules and losses.

classification: precision and recall of each class, F1, accuracy, calibration
mistakes: misclassified images, the most confident first
"""

from losslab.metrics.classification import ECE_BINS, better_direction, classification_metrics, is_share, metric_keys
from losslab.metrics.mistakes import Mistake, find_mistakes

__all__ = [
    "ECE_BINS",
    "Mistake",
    "better_direction",
    "classification_metrics",
    "find_mistakes",
    "is_share",
    "metric_keys",
]
