"""One gradient step: exact on networks that can be worked out by hand, and never outside the box."""

from __future__ import annotations

import pytest
import torch

from equilip import nn
from equilip.attack import Box, Target
from equilip.errors import InputError
from equilip.form import affine
from equilip.paper.fast_gradient import errors
from equilip.train import evaluation

#: y_1 - y_0 = x_1 + x_2 - 1: the boundary is a line, at |x_1 + x_2 - 1| / √2 from each point.
LINE = Target.of(affine(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.0, -1.0])))
X = torch.tensor([[0.4, 0.4], [0.2, 0.2], [0.9, 0.0]])
ZERO = torch.zeros(3, dtype=torch.long)


def test_a_linear_network_changes_its_mind_at_the_distance_of_the_line() -> None:
    distances = ((1 - X.double().sum(1)) / 2**0.5).tolist()
    shares = errors(
        LINE, X, ZERO, sorted([d * (1 - 1e-6) for d in distances] + [d * (1 + 1e-6) for d in distances]), None
    )
    assert shares == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])


def test_what_leaves_the_box_is_cut_off() -> None:
    # From (0.9, 0) along (1, 1)/√2 the first pixel stops at 1, so that the second has to do the rest.
    assert errors(LINE, X[2:], ZERO[2:], [0.08, 0.2], Box(0.0, 1.0)) == (1.0, 1.0)
    assert errors(LINE, X[:1] * 0, ZERO[:1], [0.70], Box(0.0, 0.49)) == (0.0,)
    assert errors(LINE, X[:1] * 0, ZERO[:1], [100.0], Box(0.0, 0.49)) == (0.0,)
    assert errors(LINE, X[:1] * 0, ZERO[:1], [100.0], Box(0.0, 0.51)) == (1.0,)


def test_without_a_gradient_there_is_no_step() -> None:
    flat = Target.of(affine(torch.zeros(2, 2), torch.tensor([1.0, 0.0])))
    assert errors(flat, X, ZERO, [1.0, 5.0], None) == (0.0, 0.0)


def test_points_without_equilibrium_are_errors() -> None:
    model = nn.Unconstrained(1, 1, 2, dtype=torch.float64)
    with torch.no_grad():
        model.W.fill_(3.0)
        model.U.fill_(1.0)
        model.b.zero_()
    target = Target.of(model, require_well_posed=False)
    x = torch.tensor([[-1.0], [1.0]])
    label = torch.tensor([int(model.c.argmax())] * 2)
    assert errors(target, x, label, [1e-3], None) == (0.5,)


@pytest.mark.parametrize("sizes", [[], [0.0], [-1.0], [float("nan")]])
def test_refuses(sizes: list[float]) -> None:
    with pytest.raises(InputError):
        errors(LINE, X, ZERO, sizes, None)


def test_few_points_at_a_time_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.LBEN(6, 5, 3, 2.0, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.c.zero_()
    target = Target.of(model)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    label = target.judge(x).predicted
    sizes = [0.1, 1.0, 10.0]
    whole = errors(target, x, label, sizes, None)
    assert 0.0 < whole[1] < whole[2]
    monkeypatch.setattr(evaluation, "NUMBERS", 5 * 7)
    assert errors(target, x, label, sizes, None) == whole
