"""Question 8, which the report leaves open, for dice (S29), from its derivative over a batch (question 3).

Images come in bins; eta is the probability that an image of the bin is of the class, w the bin's size, p what is
predicted. Averaged over labels, D = 2 sum w p eta / S with S = sum w p + sum w eta; L = 1 - D.
"""

from itertools import product

import pytest
import torch
from course_report.proof import POINTS, agree, gradient, prove, random_logits
from sympy import diff, symbols

from losslab.losses import DiceLoss, dice_threshold

BINS = 3
p, eta, w = (symbols(f"{name}1:{BINS + 1}", positive=True) for name in ("p", "eta", "w"))
OVERLAP = sum(w_i * p_i * eta_i for w_i, p_i, eta_i in zip(w, p, eta, strict=True))
SIZE = sum(w_i * (p_i + eta_i) for w_i, p_i, eta_i in zip(w, p, eta, strict=True))
DICE = 2 * OVERLAP / SIZE
RARE = (0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 0.35, 0.45, 0.6, 0.8)  # eta of a class that is seldom certain


def of_class_0(logit, eta):
    """DiceLoss of one class against the rest, with its probabilities as soft targets."""
    logits = torch.stack([logit, torch.zeros_like(logit)], dim=1)
    return DiceLoss(reduction="none")(logits, torch.stack([eta, 1 - eta], dim=1))[0]


def best(eta):
    """D* and the p in {0, 1}^N that has it, found by trying all."""
    corners = torch.tensor(list(product((0.0, 1.0), repeat=len(eta))), dtype=torch.float64)
    dice = 2 * (corners @ eta) / (corners.sum(dim=1) + eta.sum())
    return dice.max(), corners[dice.argmax()]


def test_the_gradient_has_the_sign_of_d_minus_2_eta():
    """dL/dp_i = w_i (D - 2 eta_i) / S; (D - 2 eta_i) S does not hold p_i, so L is monotone in it: p is 0 or 1.

    At the optimum, p_i = 1 where eta_i > D*/2 and 0 where it is below: F1's threshold (Lipton et al. 2014).
    """
    for p_i, eta_i, w_i in zip(p, eta, w, strict=True):
        prove(diff(1 - DICE, p_i), w_i * (DICE - 2 * eta_i) / SIZE)
        prove(diff((DICE - 2 * eta_i) * SIZE, p_i), 0)


def test_the_gradient_is_that_of_losslab():
    """dL/dz = dL/dp p (1 - p), against autograd of DiceLoss with eta as soft targets."""
    logits, probability = random_logits(POINTS, BINS), random_logits(POINTS, BINS, seed=1).sigmoid()
    at = dict(zip(p + eta, [*logits.sigmoid().T, *probability.T], strict=True))
    pairs = zip(logits, probability, strict=True)
    actual = torch.stack([gradient(of_class_0, logit, target) for logit, target in pairs])
    for i in range(BINS):
        derivative = diff(1 - DICE, p[i]).subs(dict.fromkeys(w, 1)) * p[i] * (1 - p[i])
        agree(derivative, at, actual[:, i])


def test_the_threshold_is_at_most_one_half():
    """D* <= 1, as p + eta - 2 p eta = p (1 - eta) + eta (1 - p) >= 0: at least as many positives as cross-entropy."""
    prove(p[0] + eta[0] - 2 * p[0] * eta[0], p[0] * (1 - eta[0]) + eta[0] * (1 - p[0]))


def test_of_all_predictions_the_best_is_the_one_of_that_threshold():
    """100 random sets of eight bins: of 256 ways to say yes or no, {eta > D*/2} has the highest D."""
    for probability in random_logits(POINTS, 8).sigmoid():
        highest, corner = best(probability)
        assert torch.equal(corner == 1, probability > highest / 2)
        assert float(highest) == pytest.approx(dice_threshold(probability).dice, rel=1e-12)
        assert highest <= 1


def test_training_with_losslabs_dice_ends_there():
    """From p = 1/2 in every bin, p goes to 0 or 1 as eta is below or above D*/2, which is far below 1/2 here."""
    probability = torch.tensor(RARE, dtype=torch.float64)
    logit = torch.zeros(len(RARE), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logit], lr=0.1)
    for _ in range(1000):
        optimizer.zero_grad()
        of_class_0(logit, probability).backward()
        optimizer.step()
    highest, corner = best(probability)
    torch.testing.assert_close(logit.detach().sigmoid(), corner, rtol=0, atol=0.02)
    assert highest / 2 < 0.35


def test_against_cross_entropys_argmax_recall_goes_up_and_precision_down():
    """Cross-entropy says yes where eta > 1/2, dice where eta > D*/2; F1 is D, which dice has the more of."""
    probability = torch.tensor(RARE, dtype=torch.float64)
    measures = {}
    for name, threshold in (("cross-entropy", 0.5), ("dice", float(best(probability)[0]) / 2)):
        yes = probability > threshold
        precision, recall = probability[yes].mean(), probability[yes].sum() / probability.sum()
        measures[name] = precision, recall, 2 * precision * recall / (precision + recall)
        print(f"\n{name}, yes above {threshold:.3f}: precision {precision:.3f}, recall {recall:.3f}", end="")
    assert measures["dice"][0] < measures["cross-entropy"][0]
    assert measures["dice"][1] > measures["cross-entropy"][1]
    assert measures["dice"][2] > measures["cross-entropy"][2]
