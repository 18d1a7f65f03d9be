"""What the proofs are made of: sympy's zero, random points, and torch's gradient of losslab's own losses.

Letters: z logits, y or p probabilities, t target, g gamma.
"""

from collections.abc import Callable, Sequence

import numpy as np
import sympy
import torch
from sympy import Expr, Symbol
from torch import Tensor

POINTS = 100
GAMMAS = (0.5, 1, 2, 3.25, 5)  # exact in float32, in which a loss keeps its gamma


def prove(left: Expr, right: Expr | float = 0) -> None:
    """Assert that two expressions are the same function: sympy reduces their difference to 0.

    First (1 - p)^(g - 1) becomes (1 - p)^g / (1 - p), which is right wherever 1 - p is not 0.
    """
    every_rule_but_powers = dict.fromkeys(("mul", "log", "multinomial", "basic", "power_base"), False)
    difference = sympy.expand(sympy.sympify(left) - right, force=True, **every_rule_but_powers)
    rest = sympy.simplify(sympy.cancel(sympy.together(difference)))
    assert rest == 0, f"not proven: what is left is {rest}"


def softmax(z: Sequence[Expr]) -> list[Expr]:
    """y_i = e^(z_i) / sum_j e^(z_j)."""
    return [sympy.exp(z_i) / sum(sympy.exp(z_j) for z_j in z) for z_i in z]


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    """Normal, with a standard deviation of 2, in float64."""
    return 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_probabilities(*shape: int, seed: int = 1) -> Tensor:
    """Rows that sum to 1, in float64."""
    return random_logits(*shape, seed=seed).softmax(dim=-1)


def gradient(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """What autograd says of the sum of the loss's values: the shape of the logits."""
    z = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(z, target).sum(), z)[0]


def agree(formula: Expr, at: dict[Symbol, Tensor | float], expected: Tensor) -> None:
    """Assert that a formula, evaluated in float64 at many points at once, gives the expected numbers, to 1e-10."""
    values = sympy.lambdify(list(at), formula, "numpy")(*(np.asarray(value) for value in at.values()))
    values = torch.as_tensor(values, dtype=torch.float64).expand_as(expected)
    torch.testing.assert_close(values, expected.detach(), rtol=1e-10, atol=1e-10)
