"""losslab: what does the loss function do to each class's precision and recall?

Letters used in all docstrings: N images, C classes; logits z (N, C), probabilities p = softmax(z), labels t (N,).
"""

__version__ = "0.1.0"
