"""Question 8, which the report leaves open, for cross-entropy (S29), from question 2's dL/dz_i = y_i - t_i."""

import pytest
import torch
import torch.nn.functional as F
from course_report.proof import POINTS, agree, prove, random_logits, softmax
from sympy import diff, log, symbols

from losslab.losses import CrossEntropyLoss

COUNTS = (400, 100, 8)  # images of each class
INVERSE_FREQUENCY = (1, 4, 50)
WEIGHTED_SUM = CrossEntropyLoss("sum", INVERSE_FREQUENCY)


def test_at_a_fitted_bias_predicted_and_true_counts_agree():
    """Logits z_ik = a_ik + b_k: d/db_k sum_i w_i L_i = sum_i w_i (p_ik - t_ik), which is 0 at the optimum.

    So per class sum w p = sum w t, and soft precision sum w p t / sum w p equals soft recall sum w p t / sum w t. Here
    of two images with labels 1 and 3, w_i being the class weight of the label.
    """
    bias, weights, labels = symbols("b1:4"), symbols("w1:4"), (0, 2)
    scores = [symbols(f"a_{i}_1:4") for i in (1, 2)]
    y = [softmax([a + b for a, b in zip(row, bias, strict=True)]) for row in scores]
    loss = sum(-weights[label] * log(y_i[label]) for y_i, label in zip(y, labels, strict=True))
    logits = random_logits(POINTS, 2, 3)
    of_logits = torch.func.vmap(lambda row: torch.func.grad(WEIGHTED_SUM)(row, torch.tensor(labels)))(logits)
    at = dict(zip(scores[0] + scores[1], logits.flatten(1).T, strict=True))
    at |= dict.fromkeys(bias, 0.0) | dict(zip(weights, INVERSE_FREQUENCY, strict=True))
    for k in range(3):
        errors = [weights[label] * (y_i[k] - (1 if label == k else 0)) for y_i, label in zip(y, labels, strict=True)]
        prove(diff(loss, bias[k]), sum(errors))
        agree(diff(loss, bias[k]), at, of_logits.sum(dim=1)[:, k])


@pytest.fixture(scope="module")
def data():
    """Three overlapping clouds of points in the plane, and their labels."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    centres = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
    noise = torch.randn(len(labels), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return centres[labels] + noise, labels


def fitted(loss, features, labels):
    """The probabilities of softmax regression at the optimum of the loss."""
    w, b = torch.zeros(2, 3, dtype=torch.float64).requires_grad_(), torch.zeros(3, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [w, b], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def step():
        optimizer.zero_grad()
        value = loss(features @ w + b, labels)
        value.backward()
        return value

    optimizer.step(step)
    return (features @ w + b).softmax(dim=1).detach()


def soft_precision_and_recall(p, labels, weights=(1, 1, 1)):
    t = F.one_hot(labels, 3).double()
    w = torch.as_tensor(weights, dtype=torch.float64)[labels][:, None]
    return (w * p * t).sum(0) / (w * p).sum(0), (w * p * t).sum(0) / (w * t).sum(0)


def test_soft_precision_equals_soft_recall_for_each_class(data):
    """Whatever the imbalance: cross-entropy predicts, softly, as many of each class as there are."""
    precision, recall = soft_precision_and_recall(fitted(CrossEntropyLoss(), *data), data[1])
    assert (precision - recall).abs().max() < 1e-5
    assert precision[0] - precision[2] > 0.4  # the classes are not alike at all


def test_class_weights_keep_the_identity_in_weighted_counts_and_buy_recall_with_precision(data):
    """With inverse-frequency weights the rarest class gains recall and loses precision."""
    weighted = fitted(CrossEntropyLoss(class_weights=INVERSE_FREQUENCY), *data)
    plain = fitted(CrossEntropyLoss(), *data)
    precision, recall = soft_precision_and_recall(weighted, data[1], INVERSE_FREQUENCY)
    assert (precision - recall).abs().max() < 1e-5
    before, after = (soft_precision_and_recall(p, data[1]) for p in (plain, weighted))
    print(f"\nrarest class, soft precision / recall: {before[0][2]:.3f} / {before[1][2]:.3f}", end=" without, ")
    print(f"{after[0][2]:.3f} / {after[1][2]:.3f} with inverse-frequency weights")
    assert after[1][2] > 2 * before[1][2]
    assert after[0][2] < before[0][2] / 2


def test_at_argmax_the_rare_class_has_more_precision_than_recall(data):
    """It is predicted only where it is the most probable class, which a rare class seldom is."""
    predicted, rare = fitted(CrossEntropyLoss(), *data).argmax(dim=1) == 2, data[1] == 2
    hits = (predicted & rare).sum()
    assert 0 < hits / rare.sum() < hits / predicted.sum()
