"""Attacks on chains: what they find is verified, never beats what is certified, and is not far from it."""

from __future__ import annotations

import pytest
import torch

from equilip import attack, certify, nn
from equilip.attack.linf import robustness_linf
from equilip.chain import Chain
from equilip.errors import InputError
from equilip.form import Standardisation
from equilip.links import Linear
from equilip.operators import Dense


def network(seed: int, dtype: torch.dtype = torch.float32) -> Chain:
    own = {"dtype": dtype, "generator": torch.Generator().manual_seed(seed)}
    units = Standardisation(torch.full((16,), 0.2, dtype=dtype), torch.linspace(0.4, 0.6, 16, dtype=dtype))
    stack = nn.Stack([
        nn.SLLConv(1, 4, 3, padding=1, image_size=4, **own), nn.SpaceToDepth(1, 2, image_size=4),
        nn.CayleyConv(4, 4, 2, image_size=2, **own), nn.MaxMin(4, image_size=2), nn.Spectral(16, 3, **own),
    ], gamma=3.0, standardisation=units)  # fmt: skip
    return stack.chain().detach()


def test_robustness_and_slopes_stay_within_what_is_certified() -> None:
    for seed in range(2):
        chain = network(seed)
        bound = certify.lipschitz(chain)
        target = attack.Target.of(chain, bound=bound)
        x = torch.rand(24, 16, generator=torch.Generator().manual_seed(seed))
        label = target.judge(x).y.argmax(1)
        found = attack.robustness(target, x, label, (0.02, 0.1, 0.5), box=attack.Box(0.0, 1.0), bound=bound)
        assert not len(found.violations)
        assert found.rows[0].clean_accuracy == 1.0
        assert any(row.attacked_accuracy < 1.0 for row in found.rows)
        slope = attack.largest_slope(target, x, starts=8, rounds=1)
        assert not slope.contradicts(bound)
        assert slope.value >= 0.3 * bound.value


def test_an_affine_chain_gives_away_its_bound() -> None:
    A = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    slope = attack.largest_slope(Chain((Linear(Dense(A), None),)))
    assert 5.0 * (1 - 1e-6) <= slope.value <= 5.0


def test_only_l2() -> None:
    chain = network(3)
    x, label = torch.rand(2, 16), torch.tensor([0, 1])
    with pytest.raises(InputError, match="attacked in l2 only"):
        attack.largest_slope_linf(chain)
    with pytest.raises(InputError, match="attacked in l2 only"):
        robustness_linf(chain, x, label, (0.1,))
    with pytest.raises(InputError, match="another network"):
        attack.Target.of(chain, bound=certify.lipschitz(network(4)))
