"""Given slopes, and different activations for groups of neurons."""

from __future__ import annotations

import pytest
import torch
from activation_kinds import (
    mixed,
)

from equilip.activations import (
    Activation,
    Blockwise,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Slopes,
    Tanh,
    blocks,
    join,
    slope_bounds,
)
from equilip.errors import InputError

# ---------------------------------------------------------------- slopes of the adjoint


def test_slopes_are_linear_with_given_slopes() -> None:
    j = torch.tensor([[0.0, 0.25, 1.0], [1e-300, 0.5, 0.0]], dtype=torch.float64)
    s = torch.tensor([[3.0, -2.0, 1e9], [-1e200, 4.0, -5.0]], dtype=torch.float64)
    sigma = Slopes(j)
    assert torch.equal(sigma.value(s), j * s)
    assert torch.equal(sigma.slope(s), j)
    for alpha in (1e-3, 0.4, 1.0, 1e3):
        z = sigma.prox(s, alpha)
        assert bool(z.isfinite().all())
        assert bool((z[j == 0] == 0).all())
        # (1 - α) j t + α t = v and z = j t.
        t = s / ((1 - alpha) * j + alpha)
        assert torch.allclose(z, j * t, rtol=1e-14, atol=0)
        assert torch.allclose(sigma.reflection(alpha)(s), 2 * z - s, rtol=1e-14, atol=1e-300)


def test_gradients_of_slopes_are_free_of_nan_at_inactive_neurons() -> None:
    j = torch.tensor([[0.0, 1.0, 0.3]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    for alpha in (0.01, 1.0, 50.0):
        grads = torch.autograd.grad(Slopes(j).prox(v, alpha).sum(), (j, v))
        assert all(bool(g.isfinite().all()) for g in grads)
    inner = torch.tensor([[0.1, 0.9, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a, b: Slopes(a).prox(b, 3.0), (inner, v))


def test_slopes_follow_rows_and_formats() -> None:
    j = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(Slopes(j).rows(torch.tensor([3, 1])).j, j[[3, 1]])
    assert torch.equal(Slopes(j).rows(slice(1, 3)).j, j[1:3])
    assert Slopes(j).to(torch.float32).j.dtype == torch.float32


# ---------------------------------------------------------------- several activations in one layer


def test_blockwise_acts_as_its_parts() -> None:
    sigma, s = mixed(), torch.randn(4, 6, dtype=torch.float64)
    groups = ((Tanh(), slice(0, 2)), (ReLU(), slice(2, 3)), (LeakyReLU(0.2), slice(3, 6)))
    alpha = torch.linspace(0.1, 5, 6, dtype=torch.float64)
    for own, group in groups:
        assert torch.equal(sigma.value(s)[:, group], own.value(s[:, group]))
        assert torch.equal(sigma.slope(s)[:, group], own.slope(s[:, group]))
        assert torch.equal(sigma.prox(s, 0.3)[:, group], own.prox(s[:, group], 0.3))
        assert torch.equal(sigma.prox(s, alpha)[:, group], own.prox(s[:, group], alpha[group]))
        assert torch.allclose(sigma.reflection(0.3)(s)[:, group], own.reflection(0.3)(s[:, group]), rtol=1e-14)
    assert sigma.interval == (0.0, 1.0)
    assert sigma.rounding == 4.0


def test_blocks_cover_every_neuron_or_are_refused() -> None:
    assert blocks(mixed(), 6) == mixed().blocks
    assert blocks(ReLU(), 4) == ((ReLU(), 4),)
    with pytest.raises(InputError, match="cover 6 neurons, not 5"):
        blocks(mixed(), 5)


def test_join_merges_equal_neighbours_and_flattens() -> None:
    assert join([(ReLU(), 2), (ReLU(), 3)]) == ReLU()
    assert join([(ReLU(), 2), (Tanh(), 0), (ReLU(), 3)]) == ReLU()
    assert join([(mixed(), 6), (LeakyReLU(0.2), 1)]) == Blockwise(((Tanh(), 2), (ReLU(), 1), (LeakyReLU(0.2), 4)))
    assert join([(LeakyReLU(0.2), 1), (LeakyReLU(0.3), 1)]) == Blockwise(((LeakyReLU(0.2), 1), (LeakyReLU(0.3), 1)))


@pytest.mark.parametrize("parts", [[(ReLU(), 0)], [(ReLU(), 0), (Tanh(), 0)], []])
def test_no_neurons_are_still_an_activation(parts: list[tuple[Activation, int]]) -> None:
    """Affine maps have no neurons, and everything still works on them."""
    sigma = join(parts)
    empty = torch.zeros(4, 0)
    assert sigma.value(empty).shape == sigma.slope(empty).shape == sigma.prox(empty, 0.5).shape == (4, 0)
    lower, upper = sigma.interval
    assert 0 <= lower <= upper <= 1
    assert sigma.rounding >= 0
    assert join([(sigma, 0), (Tanh(), 2)]) == Tanh()


def test_slope_bounds_are_those_of_every_neuron() -> None:
    sigma = Blockwise(((Sigmoid(), 1), (LeakyReLU(0.2), 2), (Identity(), 1)))
    lower, upper = slope_bounds(sigma, 4)
    assert lower.tolist() == [0.0, 0.2, 0.2, 1.0]
    assert upper.tolist() == [0.25, 1.0, 1.0, 1.0]
    assert lower.dtype == torch.float64
