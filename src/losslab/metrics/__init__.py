"""Numbers about predictions: what a model does to each class. Knows nothing of Lightning modules and losses."""

from losslab.metrics.classification import classification_metrics, metric_keys

__all__ = ["classification_metrics", "metric_keys"]
