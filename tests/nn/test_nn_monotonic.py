"""Constrained matrices keep their norms whatever their weights, and no input is found where a chosen output falls."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

from equilip import certify, nn
from equilip.activations import ReLU, Tanh
from equilip.errors import InputError, ProofError
from equilip.form import Standardisation
from equilip.solve import Settings, equilibrium

P, Q = 5, 3
S = torch.tensor([[1, 0, -1, 0, 1], [0, 1, -1, 1, 0], [0, 0, 0, 0, 0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standardisation(dtype: torch.dtype = torch.float64) -> Standardisation:
    return Standardisation(torch.full((P,), 0.2, dtype=dtype), torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0], dtype=dtype))


def rows(dtype: torch.dtype = torch.float64) -> nn.SumBounded:
    own = {"dtype": dtype, "generator": seeded(1)}
    layers = [nn.Entries(P, 8, **own), nn.Pointwise(ReLU(), 8), nn.RowSums(8, 6, **own), nn.Pointwise(ReLU(), 6)]
    return nn.SumBounded([*layers, nn.RowSums(6, Q, **own)], 1.5, standardisation=standardisation(dtype))


def columns(dtype: torch.dtype = torch.float64) -> nn.SumBounded:
    own = {"dtype": dtype, "generator": seeded(2)}
    layers = [nn.ColumnSums(P, 8, **own), nn.Pointwise(Tanh(), 8), nn.Entries(8, 6, **own), nn.Pointwise(Tanh(), 6)]
    return nn.SumBounded([*layers, nn.RowSums(6, Q, **own)], 0.7, standardisation=standardisation(dtype))


def stack(dtype: torch.dtype = torch.float64) -> nn.Stack:
    own = {"dtype": dtype, "generator": seeded(3)}
    return nn.Stack([nn.CPL(P, 6, **own), nn.Sandwich(P, 7, **own), nn.SandwichLinear(7, Q, **own)], 2.0)


def lben(dtype: torch.dtype = torch.float64) -> nn.LBEN:
    return nn.LBEN(P, 7, Q, gamma=1.2, epsilon=0.1, feedthrough=True, dtype=dtype, generator=seeded(4))


def learning_rows(dtype: torch.dtype = torch.float64) -> nn.SumBounded:
    own = {"dtype": dtype, "generator": seeded(1)}
    layers = [nn.Entries(P, 4, **own), nn.Pointwise(Tanh(), 4), nn.RowSums(4, Q, **own)]
    return nn.SumBounded(layers, 1.5, learn_gamma=True, standardisation=standardisation(dtype))


def learning_stack(dtype: torch.dtype = torch.float64) -> nn.Stack:
    own = {"dtype": dtype, "generator": seeded(3)}
    return nn.Stack([nn.CPL(P, 6, activation=Tanh(), **own), nn.SandwichLinear(P, Q, **own)], 2.0, learn_gamma=True)


def learning_lben(dtype: torch.dtype = torch.float64) -> nn.LBEN:
    settings = Settings(tolerance=1e-11 if dtype == torch.float64 else None)
    own = {"activation": Tanh(), "settings": settings, "dtype": dtype, "generator": seeded(4)}
    return nn.LBEN(P, 4, Q, gamma=1.2, epsilon=0.3, learn_gamma=True, **own)


Made = Callable[[torch.dtype], nn.SumBounded | nn.Stack | nn.LBEN]
NETWORKS: list[Made] = [rows, columns, stack, lben]
LEARNING: list[Made] = [learning_rows, learning_stack, learning_lben]


def spoil(model: torch.nn.Module, scale: float, seed: int) -> None:
    """Weights of any scale, with rows of zeros and single entries far from the others."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "psi" not in name:
                parameter.normal_(generator=generator).mul_(scale)
                parameter[0] = 0.0
                parameter[-1, 0] = 100 * scale


def steepest_fall(model: nn.MonotonicWrapper, seed: int) -> float:
    """The least S_kj ∂y_k/∂ξ_j / λ found, in float64 of the stored numbers, over points of many sizes."""
    form = model.form().detach().to(torch.float64)
    scale = 10.0 ** torch.linspace(-3, 3, 60, dtype=torch.float64)
    x = scale.repeat(5)[:, None] * torch.randn(300, P, dtype=torch.float64, generator=seeded(seed))
    x.requires_grad_()
    std = 1.0 if form.standardisation is None else form.standardisation.std
    y = equilibrium(form, x, Settings(tolerance=1e-9, max_iterations=20000)).y
    least = torch.inf
    for k in range(Q):
        (slope,) = torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)
        least = min(least, float((model.directions[k] * slope * std).min()))
    return least / model.slope


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("made", NETWORKS)
def test_no_input_is_found_where_it_falls(made: Made, dtype: torch.dtype) -> None:
    for seed, scale in enumerate((1.0, 30.0, 1e-4) if made is not lben else (0.1, 0.2, 1e-2)):
        network = made(dtype)
        spoil(network, scale, seed)
        model = nn.MonotonicWrapper(network, S)
        assert steepest_fall(model, seed) >= -1e-7


@pytest.mark.parametrize("made", [rows, columns])
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_extreme_weights_are_proved_too(made: Made, scale: float) -> None:
    for dtype in (torch.float32, torch.float64):
        network = made(dtype)
        spoil(network, scale, 7)
        model = nn.MonotonicWrapper(network, S)
        assert certify.monotone(model).method == "comparison"
        assert steepest_fall(model, 1) >= -1e-9


@pytest.mark.parametrize("made", NETWORKS)
def test_the_network_alone_falls_and_the_linear_term_is_not_too_large(made: Made) -> None:
    network = made(torch.float64)
    if made is not lben:
        spoil(network, 0.3, 5)
    if isinstance(network, nn.SumBounded):
        # One path of full strength: the bound is reached, so that a smaller linear term would not do.
        with torch.no_grad():
            for layer in network.layers:
                if isinstance(layer, nn.ConstrainedLinear):
                    layer.weight.zero_()
                    layer.weight[0, 0] = 1.0
                    layer.bias.zero_()
            network.layers[-1].weight[0, 0] = -1.0
    model = nn.MonotonicWrapper(network, torch.tensor([1, 0, 0, 0, 0]))
    x = torch.randn(400, P, dtype=torch.float64, generator=seeded(3)).requires_grad_()
    std = 1.0 if network.input is None else network.input.std[0]
    slopes = [torch.autograd.grad(network(x)[:, k].sum(), x)[0][:, 0] * std for k in range(Q)]
    assert float(torch.stack(slopes).min()) < -0.005 * model.slope
    if isinstance(network, nn.SumBounded):
        assert float(torch.stack(slopes).min()) < -0.999 * network.gamma if made is rows else True


@pytest.mark.parametrize("made", NETWORKS)
def test_the_form_gives_the_same_outputs(made: Made) -> None:
    model = nn.MonotonicWrapper(made(torch.float64), S).eval()
    x = torch.randn(20, P, dtype=torch.float64, generator=seeded())
    with torch.no_grad():
        y = equilibrium(model.form(), x, Settings(tolerance=1e-13)).y
        alone = model.network(x)
        # LBEN solves to its own tolerance.
        assert torch.allclose(model(x), y, rtol=0, atol=1e-12 if not isinstance(model.network, nn.LBEN) else 1e-6)
    xi = x if model.network.input is None else model.network.input(x)
    assert torch.equal(model(x[None])[0].detach(), model(x).detach())
    assert torch.allclose(y - alone, model.slope * xi @ S.double().T, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.Entries, nn.RowSums, nn.ColumnSums])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sizes_are_at_most_one_exactly(kind: type[nn.ConstrainedLinear], dtype: torch.dtype) -> None:
    for seed, (rows_, columns_) in enumerate([(1, 1), (3, 40), (41, 2), (17, 17)]):
        for scale in (1e-8, 1.0, 1e8):
            layer = kind(columns_, rows_, dtype=dtype)
            with torch.no_grad():
                layer.weight.normal_(generator=seeded(seed)).mul_(scale)
                layer.weight[0, :] = 0.0 if seed == 1 else scale / 3
            exact = [[Fraction(float(entry)) for entry in row] for row in layer.matrix().detach()]
            if kind is nn.RowSums:
                sizes = [sum(map(abs, row)) for row in exact]
            elif kind is nn.ColumnSums:
                sizes = [sum(map(abs, column)) for column in zip(*exact, strict=True)]
            else:
                sizes = [abs(entry) for row in exact for entry in row]
            assert max(sizes) <= 1
            assert scale < 1e8 or max(sizes) > 1 - 1e-5
            assert layer.guarantee().bound >= float(torch.linalg.matrix_norm(layer.matrix().detach().double(), 2))


@pytest.mark.parametrize("kind", [nn.Entries, nn.RowSums, nn.ColumnSums])
def test_gradients_of_the_layers(kind: type[nn.ConstrainedLinear]) -> None:
    layer = kind(4, 3, dtype=torch.float64, generator=seeded(1))
    with torch.no_grad():
        layer.weight.mul_(3.0)
    x = torch.randn(2, 4, dtype=torch.float64, generator=seeded(2))

    def output(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(output, (layer.weight, layer.bias))


@pytest.mark.parametrize("made", LEARNING)
def test_gradients_where_gamma_is_learnt(made: Made) -> None:
    model = nn.MonotonicWrapper(made(torch.float64), S)
    names, values = zip(*model.named_parameters(), strict=True)
    assert "network.log_gamma" in names
    x = torch.randn(3, P, dtype=torch.float64, generator=seeded(2)).requires_grad_()

    def output(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    inputs = (x, *(value.detach().clone().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(output, inputs, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("made", LEARNING)
def test_gamma_s_gradient_is_that_of_the_linear_term_too(made: Made) -> None:
    """d/dlog γ of y = f(x) + λ S ξ: f's own, and λ S ξ."""
    model = nn.MonotonicWrapper(made(torch.float64), S)
    x = torch.randn(6, P, dtype=torch.float64, generator=seeded(2))
    whole, own = (torch.autograd.grad(f(x).sum(), model.network.log_gamma)[0] for f in (model, model.network))
    xi = x if model.network.input is None else model.network.input(x)
    assert torch.allclose(whole - own, model.slope * (xi @ S.double().T).sum(), rtol=1e-9)
    form = model.form()
    (through,) = torch.autograd.grad(form.D.dense().sum(), model.network.log_gamma, allow_unused=True)
    linear = model.slope * S.double().sum()
    rest = 0.0 if isinstance(model.network, nn.LBEN) else float(model.network.form().D.dense().detach().sum())
    assert float(through) == pytest.approx(float(linear) + rest, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("made", LEARNING)
def test_what_is_proved_follows_a_learnt_gamma(made: Made, dtype: torch.dtype) -> None:
    model = nn.MonotonicWrapper(made(dtype), S)
    start = model.slope
    x = 2 * torch.randn(40, P, dtype=dtype, generator=seeded(2))
    target = -3 * x @ S.to(dtype).T
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(12):
        optimiser.zero_grad()
        (model(x) - target).square().mean().backward()
        optimiser.step()
    assert not 0.9 < model.slope / start < 1.1
    assert model.slope >= model.gamma
    found = certify.monotone(model)
    assert found.bound == model.slope
    assert steepest_fall(model, 3) >= -1e-7
    with torch.no_grad():
        model.network.log_gamma.add_(1.0)
    assert model.slope == pytest.approx(found.bound * torch.e, rel=1e-6)
    assert certify.monotone(model).bound == model.slope


def test_state_dicts_round_trip_and_parameters_are_there_from_the_start() -> None:
    one, other = (nn.MonotonicWrapper(made(torch.float64), S) for made in (rows, rows))
    names = [name for name, _ in one.named_parameters()]
    spoil(one, 2.0, 1)
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, P, dtype=torch.float64, generator=seeded())
    assert torch.equal(one(x), other(x))
    assert names == [name for name, _ in one.named_parameters()]
    single = one.float()
    assert single(x.float()).dtype == torch.float32


def test_what_cannot_be_wrapped_is_refused() -> None:
    with pytest.raises(InputError, match="no bound"):
        nn.MonotonicWrapper(nn.LBEN(P, 4, Q), S)
    with pytest.raises(InputError, match="SumBounded"):
        nn.MonotonicWrapper(nn.FeedForward(P, (4,), Q), S)
    for odd in ([1] * (P + 1), [2] + [0] * (P - 1), [0.5] * P, [float("nan")] * P):
        with pytest.raises(InputError, match="directions"):
            nn.MonotonicWrapper(rows(), torch.tensor(odd))
    with pytest.raises(InputError, match="RowSums"):
        nn.SumBounded([nn.Entries(3, 3), nn.ColumnSums(3, 3)])
    with pytest.raises(InputError, match="last layer"):
        nn.SumBounded([nn.Entries(3, 3), nn.Pointwise(ReLU(), 3)])
    with pytest.raises(InputError, match="takes 4"):
        nn.SumBounded([nn.Entries(3, 3), nn.RowSums(4, 3)])
    with pytest.raises(InputError, match="no constrained matrix"):
        nn.SumBounded([nn.AOL(3, 3), nn.RowSums(3, 3)])
    with pytest.raises(InputError, match="positive"):
        nn.SumBounded([nn.Entries(3, 3)], 0.0)


def test_layers_in_the_wrong_order_would_break_the_bound() -> None:
    """Why sums may not follow largest entries: ten entries of 1 add up to ten."""
    first, second = nn.Entries(1, 10, bias=False), nn.Entries(10, 1, bias=False)
    with torch.no_grad():
        first.weight.fill_(1.0)
        second.weight.fill_(1.0)
    assert float(second(first(torch.ones(1, 1))).detach()) > 9
    with pytest.raises(InputError):
        nn.SumBounded([first, second])
    model = torch.nn.Sequential(first, second)
    with pytest.raises(ProofError):
        certify.monotone(nn.sequential_form(model), [1], bound=1.0)
