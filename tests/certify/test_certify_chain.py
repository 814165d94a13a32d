"""Chains: the product of what is proved of their layers is never beaten, is checked, and carries radii."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from certify_stacks import STACKS, images, scattered
from torch import Tensor

from equilip import certify, chain, checker, nn
from equilip.activations import ReLU
from equilip.certify.chained import outputs
from equilip.chain import Chain
from equilip.errors import InputError, ProofError
from equilip.form import Standardisation
from equilip.links import Linear, Potential, Sandwich, spread
from equilip.operators import Dense

DTYPES = [torch.float32, torch.float64]


def steepest(network: Chain, x: Tensor) -> float:
    """The largest slope along gradient ascent on pairs of inputs, in standardised units and in float64."""
    exact = network.to(torch.float64)
    exact = Chain(exact.links)
    generator = torch.Generator().manual_seed(1)
    ends = torch.cat([x, x + torch.randn(x.shape, generator=generator, dtype=x.dtype) * 0.1]).requires_grad_()
    best, rate = 0.0, 0.1
    optimiser = torch.optim.Adam([ends], lr=rate)
    for _ in range(40):
        first, second = ends.chunk(2)
        rise = (exact.apply(first) - exact.apply(second)).norm(dim=1)
        slope = rise / (first - second).norm(dim=1).clamp(min=1e-9)
        best = max(best, float(slope.detach().max()))
        optimiser.zero_grad()
        (-slope.sum()).backward()
        optimiser.step()
    return best


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_slope_is_above_the_product(name: str, seed: int) -> None:
    stack = STACKS[name](torch.float64, seed)
    for scatter in (False, True):
        own = scattered(stack, seed) if scatter else stack
        network = own.chain().detach()
        bound = certify.lipschitz(network)
        x = torch.randn(8, network.in_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = steepest(network, x)
        assert found <= bound.value
        assert found >= 0.01 * bound.value or scatter


def test_a_linear_chain_reaches_its_product() -> None:
    """Two steps that turn on all their neurons far from zero: slopes as large as claimed, and a bound that is tight."""
    W, T = torch.tensor([[3.0, 4.0], [-4.0, 3.0]], dtype=torch.float64), torch.full((2,), 20.0, dtype=torch.float64)
    steps = [Potential(Dense(W), T, torch.full((2,), size, dtype=torch.float64), ReLU()) for size in (1e2, 1e4)]
    network = Chain(tuple(steps))
    bound = certify.lipschitz(network)
    assert bound.factors == pytest.approx((1.5, 1.5), rel=1e-6)
    x = torch.zeros(1, 2, dtype=torch.float64)
    other = x + torch.tensor([[0.01, 0.02]], dtype=torch.float64)
    slope = float((network.apply(x) - network.apply(other)).norm() / (x - other).norm())
    assert bound.value * (1 - 1e-6) <= slope <= bound.value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STACKS)
def test_the_certificate_is_checked(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    network = STACKS[name](dtype, 3).chain()
    digest = network.save(tmp_path / "form.safetensors")
    bound = certify.lipschitz(network)
    assert bound.form_sha256 == digest
    bound.save(tmp_path / "certificate.json")
    verdict = checker.check(tmp_path / "certificate.json")
    assert verdict.valid, verdict.reason
    assert {claim.units: claim.bound for claim in verdict.claims} == {
        "standardised": bound.value, "raw": bound.value_raw,
    }  # fmt: skip
    again = certify.recall(tmp_path / "certificate.json", network)
    assert again is not None
    assert (again.value, again.value_raw) == (bound.value, bound.value_raw)
    other = STACKS[name](dtype, 4).chain()
    assert certify.recall(tmp_path / "certificate.json", other) is None
    text = (tmp_path / "certificate.json").read_text()
    (tmp_path / "certificate.json").write_text(text.replace(bound.value.hex(), (bound.value * 0.9).hex()))
    assert certify.recall(tmp_path / "certificate.json", network) is None
    assert not checker.check(tmp_path / "certificate.json").valid


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STACKS)
def test_the_product_is_within_a_thousandth_of_what_the_layers_promise(name: str, dtype: torch.dtype) -> None:
    stack = STACKS[name](dtype, 5)
    bound = certify.lipschitz(stack.chain())
    assert bound.value <= stack.gamma * 1.001
    assert bound.value <= stack.proved_bound() * (1 + 1e-5)
    certify.check_guarantee(stack.chain(), stack.guarantee(), bound=bound)


def test_the_raw_bound_is_for_the_smallest_std() -> None:
    network = images(torch.float64, 6).chain()
    bound = certify.lipschitz(network)
    assert bound.value / 0.3 <= bound.value_raw <= bound.value / 0.3 * (1 + 1e-12)


def dense_matrix(link: Linear | Potential | Sandwich, back: bool = False) -> np.ndarray:
    operator = link.back if back and isinstance(link, Sandwich) else link.map
    return operator.dense().detach().double().numpy().astype(np.longdouble)


def slowly(network: Chain, x: Tensor) -> np.ndarray:
    """The network in numbers of 64 bits' precision, layer by layer with matrices; relu and sorting are exact."""
    y = x.double().numpy().astype(np.longdouble)
    units = network.standardisation
    if units is not None:
        y = (y - units.mean.double().numpy()) / units.std.double().numpy().astype(np.longdouble)
    for link in network.links:
        match link:
            case Linear():
                y = y @ dense_matrix(link).T
                if link.bias is not None:
                    y = y + spread(link.bias, link.map).detach().double().numpy()
            case Potential() | Sandwich():
                s = y @ dense_matrix(link).T + spread(link.bias, link.map).detach().double().numpy()
                z = np.maximum(s, 0)
                if isinstance(link, Sandwich):
                    y = z @ dense_matrix(link, back=True).T
                else:
                    T = spread(link.metric, link.map).detach().double().numpy().astype(np.longdouble)
                    y = y - (2 * z / T) @ dense_matrix(link)
            case _ if link.kind in ("pool", "scale"):
                identity = torch.eye(link.in_size, dtype=torch.float64)
                # Entries are ±powers of two times small numbers here: exact in float64.
                y = y @ link.apply(identity).numpy().astype(np.longdouble)
            case _:
                y = link.apply(torch.from_numpy(y.astype(np.float64))).numpy().astype(np.longdouble) + 0 * y.sum()
    return y


def test_errors_of_outputs_are_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        own = {"dtype": dtype, "generator": generator}
        stack = nn.Stack([
            nn.SLLConv(2, 3, 3, 2, 1, image_size=4, **own), nn.CayleyConv(2, 3, 3, image_size=4, **own),
            nn.SandwichConv(3, 2, 2, image_size=4, **own), nn.ScaledAveragePool2d(2, 2, image_size=4),
            nn.CPL(8, 5, **own), nn.AOL(8, 3, **own),
        ], gamma=2.0, standardisation=Standardisation(torch.full((32,), 0.3, dtype=dtype),
                                                     torch.full((32,), 0.7, dtype=dtype)))  # fmt: skip
        network = stack.chain().detach()
        bound = certify.lipschitz(network)
        x = torch.rand(20, 32, generator=generator, dtype=torch.float64) * 3
        found = outputs(network, x, bound)
        true = slowly(network, x)
        off = np.sqrt(((found.y.numpy().astype(np.longdouble) - true) ** 2).sum(axis=1)).astype(np.float64)
        assert (off <= found.error.numpy()).all()
        assert float(found.error.max()) < 1e-11
        assert torch.allclose(found.y, network.to(torch.float64).apply(x), atol=1e-12)


def test_radii_hold_and_use_the_last_layer() -> None:
    stack = images(torch.float64, 7)
    network = stack.chain().detach()
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(30, 64, generator=generator, dtype=torch.float64)
    label = network.apply(x).argmax(1)
    bound = certify.lipschitz(network)
    pairs = certify.rows(network, bound)
    assert (pairs.pairs_raw <= math.sqrt(2) * bound.value_raw * (1 + 1e-12)).all()
    assert (pairs.pairs_raw == pairs.pairs_raw.T).all()
    assert not pairs.pairs_raw.diagonal().any()
    radius = certify.radius(network, x, label)
    assert (radius > 0).all()
    assert torch.equal(radius, certify.radius(network, x, label, bound=bound, pairs=pairs))
    wrong = (label + 1) % 3
    assert not certify.radius(network, x, wrong).any()
    # Straight towards the nearest other class, and at random, just inside the radius.
    point = x.clone().requires_grad_()
    y = network.apply(point)
    lead = y.gather(1, label[:, None])[:, 0] - y.scatter(1, label[:, None], -torch.inf).amax(1)
    (direction,) = torch.autograd.grad(lead.sum(), point)
    for move in (-direction, torch.randn(x.shape, generator=generator, dtype=torch.float64)):
        step = move / move.norm(dim=1, keepdim=True) * radius[:, None] * (1 - 1e-9)
        assert torch.equal(network.apply(x + step).argmax(1), label)


def test_pair_bounds_are_never_beaten() -> None:
    network = images(torch.float64, 8).chain().detach()
    bound = certify.lipschitz(network)
    pairs = certify.rows(network, bound)
    x = torch.randn(40, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    y = network.apply(x)
    for i in range(3):
        for j in range(3):
            if i != j:
                (gradient,) = torch.autograd.grad((y[:, i] - y[:, j]).sum(), x, retain_graph=True)
                assert float(gradient.norm(dim=1).max()) <= pairs.pairs_raw[i, j]
        (gradient,) = torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)
        assert float(gradient.norm(dim=1).max()) <= pairs.outputs_raw[i]


def test_what_does_not_belong_together_is_refused() -> None:
    one, other = (images(torch.float64, seed).chain().detach() for seed in (9, 10))
    bound = certify.lipschitz(other)
    x, label = torch.rand(2, 64, dtype=torch.float64), torch.tensor([0, 1])
    with pytest.raises(InputError, match="another network"):
        certify.radius(one, x, label, bound=bound)
    with pytest.raises(InputError, match="another network"):
        certify.radius(one, x, label, pairs=certify.rows(other, bound))
    with pytest.raises(InputError, match="local bounds"):
        certify.radius(one, x, label, local=True)
    with pytest.raises(InputError, match="expected inputs of shape"):
        certify.radius(one, x[:, :5], label)


def test_a_broken_promise_is_said() -> None:
    stack = images(torch.float64, 11)
    longer = stack.chain()
    links = tuple(
        Potential(link.map, link.metric / 4, link.bias, link.activation) if isinstance(link, Potential) else link
        for link in longer.links
    )
    with pytest.raises(ProofError, match=r"promises the bound 1\.7, and the product"):
        certify.check_guarantee(Chain(links, longer.standardisation), stack.guarantee())


def test_numbers_beyond_all_range_are_refused() -> None:
    own = {"dtype": torch.float64}
    far = torch.tensor([[1e300, 0.0], [0.0, 1e-300]], **own)
    with pytest.raises(ProofError, match="the range of magnitudes"):
        certify.lipschitz(Chain((Linear(Dense(far), None),)))
    with pytest.raises(InputError, match="NaN"):
        certify.lipschitz(Chain((Linear(Dense(torch.full((1, 1), math.nan, **own)), None),)))
    assert certify.lipschitz(Chain((Linear(Dense(torch.zeros(1, 1, **own)), None),))).value > 0


def test_files_are_read_back(tmp_path: Path) -> None:
    network = images(torch.float32, 12).chain().detach()
    network.save(tmp_path / "chain.safetensors")
    found = chain.load(tmp_path / "chain.safetensors")
    assert isinstance(found, Chain)
    assert found.sha256 == network.sha256
    x = torch.rand(3, 64)
    assert torch.equal(found.apply(x), network.apply(x))
