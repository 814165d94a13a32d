"""Modules are modules like torch's own: copied, cast, loaded and called functionally, and in eval() never stale."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equilip import certify
from equilip import form as forms
from equilip.errors import InputError
from equilip.form import Standardisation
from equilip.nn import LBEN, Explicit, FeedForward, MonotoneNetwork, Residual, Standardise, sequential_form
from equilip.nn.module import EquilibriumModule
from equilip.solve import Settings

P, N, Q = 4, 6, 3
TIGHT = Settings(tolerance=1e-12)

Make = Callable[..., EquilibriumModule]


def explicit(*, dtype: torch.dtype = torch.float64, settings: Settings | None = None, seed: int = 0) -> Explicit:
    generator = torch.Generator().manual_seed(seed)
    form = LBEN(P, N, Q, 1.0, dtype=dtype, generator=generator).form().detach()
    return Explicit(form, settings=settings)


def of(kind: type[EquilibriumModule], *more: float | None, **options: object) -> Make:
    def make(
        *, dtype: torch.dtype = torch.float64, settings: Settings | None = None, seed: int = 0
    ) -> EquilibriumModule:
        std = Standardisation(torch.full((P,), 0.3, dtype=dtype), torch.full((P,), 2.0, dtype=dtype))
        generator = torch.Generator().manual_seed(seed)
        made = kind(P, N, Q, *more, dtype=dtype, settings=settings, standardisation=std, generator=generator, **options)
        assert isinstance(made, EquilibriumModule)
        return made

    return make


KINDS: dict[str, Make] = {
    "lben": of(LBEN, 1.5),
    "unbounded": of(LBEN),
    "learnt": of(LBEN, 1.5, learn_gamma=True, feedthrough=True),
    "monotone": of(MonotoneNetwork),
    "explicit": explicit,
}

every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def inputs(dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(5, P, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def gradients(model: torch.nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), [p for p in model.parameters() if p.requires_grad]))


def same(one: list[Tensor], other: list[Tensor], tolerance: float = 1e-9) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_kind
def test_a_deep_copy_is_a_network_of_its_own(make: Make) -> None:
    model, x = make(settings=TIGHT).eval(), inputs()
    before = model(x).detach()  # the copy is made with the form already there
    other = copy.deepcopy(model)
    assert torch.equal(other(x), before)
    same(gradients(other, x), gradients(model, x))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(other(x), before)
    assert torch.equal(model(x), before)
    trained = copy.deepcopy(model).train()
    torch.testing.assert_close(trained(x), before, rtol=1e-9, atol=1e-9)
    trained(x).sum().backward()
    torch.testing.assert_close(copy.deepcopy(trained)(x), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["lben", "unbounded", "learnt", "monotone"])
def test_nothing_that_is_kept_keeps_a_graph_alive(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = KINDS[kind]().eval(), inputs()
    made: list[weakref.ref[Tensor]] = []
    form = model.form

    def watched() -> forms.Form:
        found = form()
        made.append(weakref.ref(found.W.dense()))
        return found

    monkeypatch.setattr(model, "form", watched)
    for _ in range(2):
        model(x).sum().backward()
    gc.collect()
    assert made
    assert not any(W() is not None for W in made), "a W with its history is still there"


@every_kind
def test_float32_is_float64_rounded(make: Make) -> None:
    exact, x = make(settings=TIGHT), inputs()
    single = copy.deepcopy(exact).float()
    single.settings = Settings(tolerance=1e-6)
    for train in (True, False):
        y = single.train(train)(x.float())
        assert y.dtype == torch.float32
        assert {p.dtype for p in single.parameters()} | {b.dtype for b in single.buffers()} == {torch.float32}
        torch.testing.assert_close(y.double(), exact.train(train)(x), rtol=1e-4, atol=1e-4)
        same([g.double() for g in gradients(single, x.float())], gradients(exact, x), 1e-3)
    with pytest.raises(InputError, match=r"the inputs are torch\.float64 and the network is torch\.float32; convert"):
        single(x)
    back = single.double()
    back.settings = TIGHT
    torch.testing.assert_close(back(x), exact(x), rtol=1e-5, atol=1e-5)


@every_kind
def test_constructors_take_what_torchs_own_take(make: Make) -> None:
    for dtype in (torch.float32, torch.float64):
        model = make(dtype=dtype)
        assert {tensor.dtype for tensor in (*model.parameters(), *model.buffers())} == {dtype}
        assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    one, same_seed, other_seed = make(seed=3), make(seed=3), make(seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same_seed.parameters(), strict=True))
    assert not torch.equal(one.U, other_seed.U)


def test_a_module_on_another_device() -> None:
    model = LBEN(P, N, Q, 1.0, device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    model = model.to_empty(device="cpu")
    donor = LBEN(P, N, Q, 1.0)
    model.load_state_dict(donor.state_dict())
    x = inputs(torch.float32)
    assert torch.equal(model.eval()(x), donor.eval()(x))


@every_kind
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_functional_calls_are_calls_with_these_parameters(make: Make, train: bool) -> None:
    model, other, x = make(settings=TIGHT).train(train), make(settings=TIGHT, seed=5).train(train), inputs()
    own = model(x).detach()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    y = torch.func.functional_call(model, parameters, (x,))
    torch.testing.assert_close(y, other(x), rtol=1e-9, atol=1e-9)
    found = torch.autograd.grad(y.square().sum(), list(parameters.values()))
    same(list(found), gradients(other, x))

    def loss(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, values, (x,)).square().sum()

    plain = {name: value.detach() for name, value in parameters.items()}
    mapped = torch.func.grad(loss)(plain)
    same([mapped[name] for name in parameters], list(found))
    torch.testing.assert_close(model(x).detach(), own, rtol=1e-9, atol=1e-9)


def in_place(model: EquilibriumModule, donor: EquilibriumModule) -> None:
    with torch.no_grad():
        for own, value in zip(model.parameters(), donor.parameters(), strict=True):
            own.copy_(value)


def through_data(model: EquilibriumModule, donor: EquilibriumModule) -> None:
    for own, value in zip(model.parameters(), donor.parameters(), strict=True):
        own.data.copy_(value.data)


def new_data(model: EquilibriumModule, donor: EquilibriumModule) -> None:
    for own, value in zip(model.parameters(), donor.parameters(), strict=True):
        own.data = value.data.clone()


def loaded(model: EquilibriumModule, donor: EquilibriumModule) -> None:
    model.load_state_dict(donor.state_dict())


def assigned(model: EquilibriumModule, donor: EquilibriumModule) -> None:
    model.load_state_dict(donor.state_dict(), assign=True)


def replaced(model: EquilibriumModule, donor: EquilibriumModule) -> None:
    for name, _ in list(model.named_parameters()):
        setattr(model, name, torch.nn.Parameter(getattr(donor, name).detach().clone()))


def there_and_back(model: EquilibriumModule, donor: EquilibriumModule) -> None:
    model.float()
    model(inputs(torch.float32))
    in_place(model.double(), donor)


@every_kind
@pytest.mark.parametrize("change", [in_place, through_data, new_data, loaded, assigned, replaced, there_and_back])
def test_eval_sees_every_change(make: Make, change: Callable[[EquilibriumModule, EquilibriumModule], None]) -> None:
    model, donor, x = make().eval(), make(seed=7).eval(), inputs()
    before = model(x)
    assert torch.equal(model(x), before)
    change(model, donor)
    assert torch.equal(model(x), donor(x))
    assert not torch.equal(model(x), before)
    assert model.solve(x).error.max() < 1e-5, "the proof is of the present weights too"


def test_eval_sees_a_new_standardisation_and_new_settings() -> None:
    model, x = KINDS["lben"](), inputs()
    before = model.eval()(x)
    assert model.input is not None
    model.input.mean.add_(1.0)
    torch.testing.assert_close(model(x + 1.0), before, rtol=1e-6, atol=1e-6)
    model.settings = Settings(tolerance=1e-3)
    assert model.solve(x).tolerance == 1e-3


@every_kind
def test_eval_sees_an_optimiser_that_trains_in_eval_mode(make: Make) -> None:
    model, x = make(settings=TIGHT).eval(), inputs()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        found = gradients(model, x)
        same(found, gradients(copy.deepcopy(model).train(), x), 1e-7)
        for parameter, gradient in zip((p for p in model.parameters() if p.requires_grad), found, strict=True):
            parameter.grad = gradient
        optimiser.step()


@every_kind
def test_what_inference_mode_leaves_behind_can_be_differentiated(make: Make) -> None:
    model, x = make(settings=TIGHT).eval(), inputs()
    with torch.inference_mode():
        before = model(x).clone()
    same(gradients(model, x), gradients(make(settings=TIGHT).train(), x), 1e-7)
    torch.testing.assert_close(model(x), before.clone(), rtol=1e-9, atol=1e-9)


def test_a_learnt_bound_is_differentiated_kept_and_proved() -> None:
    model, x = LBEN(P, N, Q, 0.5, learn_gamma=True, settings=TIGHT, dtype=torch.float64), inputs()
    assert model.gamma == pytest.approx(0.5)
    assert model.log_gamma is not None
    (slope,) = torch.autograd.grad(model(x).square().sum(), model.log_gamma)
    ends = []
    for step in (1e-5, -1e-5):
        moved = copy.deepcopy(model)
        assert moved.log_gamma is not None
        moved.log_gamma.data += step
        ends.append(moved(x).detach().square().sum().item())
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)

    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        (-model(x).square().sum()).backward()
        optimiser.step()
    gamma = model.gamma
    assert gamma is not None
    assert gamma > 0.6, "larger outputs ask for a larger bound"
    assert model.guarantee().bound == gamma
    assert certify.lipschitz(model).value <= gamma * (1 + 1e-9)
    certify.check_guarantee(model.form(), model.guarantee())
    again = LBEN(P, N, Q, 3.0, learn_gamma=True, settings=TIGHT, dtype=torch.float64)
    again.load_state_dict(model.state_dict())
    assert again.gamma == gamma
    assert torch.equal(again.eval()(x), model.eval()(x))
    plain = LBEN(P, N, Q, 3.0, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="log_gamma"):
        plain.load_state_dict(model.state_dict())


@every_kind
def test_a_batch_of_any_shape(make: Make) -> None:
    model = make().eval()
    x = inputs()
    assert model(x[0]).shape == (Q,)
    torch.testing.assert_close(model(x[0]), model(x)[0], rtol=1e-6, atol=1e-6)
    assert model(x.expand(2, 5, P)).shape == (2, 5, Q)
    assert model(x[:0]).shape == (0, Q)
    assert model.train()(x[:0]).shape == (0, Q)


# Mistakes, each named


def test_forms_that_cannot_be_realised() -> None:
    D = torch.ones(Q, P, dtype=torch.float64)
    form = explicit().form().detach()
    own = (form.W.dense(), form.U.dense(), form.b, form.C.dense(), form.c)
    lam = torch.ones(N, dtype=torch.float64)
    with pytest.raises(InputError, match=r"from_form takes forms without feed-through \(D = 0\)"):
        LBEN.from_form(forms.dense(*own, D=D), lam, 1.0)
    with pytest.raises(InputError, match=r"from_form takes forms without feed-through \(D = 0\)"):
        MonotoneNetwork.from_form(forms.dense(*own, D=D))
    loose = forms.dense(2 * torch.eye(N, dtype=torch.float64), *own[1:])
    with pytest.raises(InputError, match=r"multipliers do not prove the bound 1\.0: .* has eigenvalue -"):
        LBEN.from_form(loose, lam, 1.0)
    with pytest.raises(InputError, match="I - W is not strongly monotone: its symmetric part has eigenvalue -1"):
        MonotoneNetwork.from_form(loose)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LBEN(P, N, Q, 0.0), "gamma, the bound on the slope, must be positive, got 0"),
        (lambda: LBEN(P, N, Q, float("nan")), "must be positive, got nan"),
        (lambda: LBEN(P, N, Q, 1.0, epsilon=float("inf")), "epsilon must be positive, got inf"),
        (lambda: LBEN(P, N, Q, learn_gamma=True), "feedthrough and learn_gamma need a bound: give gamma"),
        (lambda: LBEN(P, 0, Q), "hidden_features must be a positive whole number, got 0"),
        (lambda: LBEN(P, N, 2.5), r"out_features must be a positive whole number, got 2\.5"),
        (lambda: MonotoneNetwork(P, N, Q, m=-1.0), r"m must be positive, got -1\.0"),
        (lambda: FeedForward(P, (N, 0), Q), "hidden must be a positive whole number, got 0"),
    ],
)
def test_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


class Doubling(torch.nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "the network has no layers"),
        ([torch.nn.Flatten()], "the network has no layers"),
        ([torch.nn.ReLU(), torch.nn.Linear(P, Q)], r"must begin with a Linear \(or Residual\), not with ReLU"),
        ([Doubling(P, Q)], "Doubling has a forward of its own, so that its form is not known"),
        (
            [torch.nn.Linear(P, Q), Standardise(torch.zeros(Q), torch.ones(Q))],
            "a Standardise must be the first module of the network",
        ),
        (
            [Standardise(torch.zeros(Q), torch.ones(Q)), torch.nn.Linear(P, Q)],
            f"the standardisation is for {Q} inputs, not {P}",
        ),
        ([Residual(torch.nn.Linear(P, Q))], f"needs as many outputs as inputs, not {Q} and {P}"),
    ],
)
def test_sequences_without_a_form(modules: list[torch.nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sequential_form(torch.nn.Sequential(*modules))
