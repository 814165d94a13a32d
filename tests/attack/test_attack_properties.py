"""What holds for every attack on every network: verified results, order in eps, and an untouched model."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from attack_networks import dense_newton, digits, equilibrium_form, linear, randn, standardised

from equilip import nn
from equilip.activations import LeakyReLU, Tanh
from equilip.attack import L2, PGD, Attack, Box, CrossEntropy, FastGradient, Linf, Minimal, Target
from equilip.errors import IllPosedError, InputError
from equilip.form import Form, dense

EPS = (0.2, 0.5, 1.0, 2.0)
ATTACKS: tuple[Attack, ...] = (
    FastGradient(box=Box()),
    FastGradient(norm=Linf(), box=Box(), loss=CrossEntropy()),
    PGD(box=Box(), restarts=2),
    PGD(norm=Linf(), box=Box()),
    Minimal(box=Box(), steps=8),
    Minimal(),
)


@pytest.mark.parametrize("kind", ["lben", "feedforward"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{type(a).__name__}-{a.norm.name}")
def test_results_are_what_they_say(kind: str, attack: Attack) -> None:
    model, x, label = digits(kind)
    before = copy.deepcopy(model.state_dict())
    model.train()
    found = attack(model, x, label, EPS)
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())

    with torch.no_grad():
        form = model.form().detach().to(torch.float64)
    clean = dense_newton(form, x).argmax(dim=1) == label
    there = dense_newton(form, found.adversarial)
    broken = found.size.isfinite()
    assert (there.argmax(dim=1) != label)[broken].all(), "an independent solver agrees"
    assert torch.equal(there.argmax(dim=1)[broken], found.predicted[broken])
    exact = attack.norm.size(found.adversarial - x.double())
    assert (found.size[broken] >= exact[broken]).all()
    assert torch.allclose(found.size[broken], exact[broken], rtol=1e-8)
    assert torch.equal(found.size == 0, ~clean)
    assert torch.equal(found.adversarial[~broken], x.double()[~broken])
    assert (found.predicted[~broken] == -1).all()
    if attack.box is not None:
        assert ((found.adversarial >= 0) & (found.adversarial <= 1)).all()
    assert found.success.shape == (len(EPS), len(x))
    accuracy = (float(clean.double().mean()), *found.accuracy)
    assert all(a >= b for a, b in pairwise(accuracy)), "attacked accuracy falls with eps"
    again = attack(model, x, label, EPS)
    assert torch.equal(again.adversarial, found.adversarial)
    assert torch.equal(again.size, found.size)


def test_stronger_attacks_find_more() -> None:
    model, x, label = digits("lben")
    target = Target.of(model)
    fast, slow = FastGradient(box=Box()), PGD(box=Box())
    restarted, minimal = PGD(box=Box(), restarts=5), Minimal(box=Box())
    accuracies = [attack(target, x, label, EPS).accuracy for attack in (fast, slow, restarted)]
    for weaker, stronger in pairwise(accuracies):
        assert all(b <= a for a, b in zip(weaker, stronger, strict=True))
    assert sum(accuracies[1]) < sum(accuracies[0])
    found = minimal(target, x, label, EPS)
    assert all(a <= b + 0.011 for a, b in zip(found.accuracy, accuracies[2], strict=True))
    joined = found.better(restarted(target, x, label, EPS))
    assert (joined.size <= found.size).all()
    assert joined.median == pytest.approx(found.median, rel=0.02)


def test_momentum_and_seed_matter_only_where_they_should() -> None:
    model, x, label = digits("lben")
    once = PGD(seed=1)(model, x, label, [0.5])
    assert torch.equal(once.size, PGD(seed=2)(model, x, label, [0.5]).size), "the first start is the sample itself"
    assert PGD(momentum=0.0)(model, x, label, [0.5]).accuracy[0] <= once.accuracy[0] + 0.02


@pytest.mark.parametrize("sigma", [LeakyReLU(0.1), Tanh()], ids=lambda sigma: sigma.kind)
@pytest.mark.parametrize("single", [False, True])
def test_other_activations_units_and_formats(sigma: object, single: bool) -> None:
    form = standardised(equilibrium_form(8, 6, 4, 2, activation=sigma, through=True), 3)  # type: ignore[arg-type]
    form = form.to(torch.float32) if single else form
    x = randn(5, 20, 6).to(form.dtype)
    target = Target.of(form)
    label = target.judge(x).predicted
    found = Minimal()(target, x, label, [1.0])
    pgd = PGD(restarts=2)(target, x, label, [float(found.size.median()) * 1.02])
    assert found.size.isfinite().float().mean() > 0.8
    assert (target.judge(found.adversarial).predicted != label)[found.size.isfinite()].all()
    assert pgd.accuracy[0] <= 0.6


def test_a_form_that_float32_cannot_resolve_is_searched_in_float64() -> None:
    form = equilibrium_form(6, 5, 3, 4)
    stiff = replace(form, W=type(form.W)(form.W.dense() - 2e5 * torch.eye(6).double()), lam=None)  # type: ignore[call-arg]
    assert Target.of(form).fast.dtype == torch.float32
    assert Target.of(stiff).fast.dtype == torch.float64


def test_a_vague_answer_does_not_count() -> None:
    # Two classes that tie exactly: no error bound can say which one wins, so neither is an adversarial of the other.
    form = replace(linear(2), D=type(linear(2).D)(torch.zeros(2, 6).double()), c=torch.ones(2).double())  # type: ignore[call-arg]
    judgement = Target.of(form).judge(randn(1, 5, 6))
    assert not judgement.misses(torch.zeros(5, dtype=torch.long)).any()
    assert not judgement.misses(torch.ones(5, dtype=torch.long)).any()
    assert PGD()(form, randn(1, 5, 6), torch.zeros(5, dtype=torch.long), [1.0]).accuracy == (1.0,)


def ill_posed() -> Form:
    zero = torch.zeros(2, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    return dense(3.0 * eye, eye, zero, eye, zero)


def test_ill_posed_networks_are_refused_unless_the_proof_is_waived() -> None:
    x, label = torch.full((4, 2), -1.0, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    with pytest.raises(IllPosedError):
        PGD()(ill_posed(), x, label, [0.1])
    target = Target.of(ill_posed(), require_well_posed=False)
    assert not target.proved
    found = PGD()(target, x, label, [0.1])
    assert found.accuracy == (1.0,)
    assert (PGD()(target, -x, label, [0.1]).predicted == -1).all(), "no equilibrium there: wrong as it is"


def test_unusable_arguments_are_named() -> None:
    form, x = linear(3), 0.5 * torch.ones(2, 6, dtype=torch.float64)
    label = torch.tensor([0, 2])
    attack = PGD(box=Box())
    for eps in ([], [0.0], [-1.0], [float("nan")], [float("inf")]):
        with pytest.raises(InputError, match="perturbation size"):
            attack(form, x, label, eps)
    with pytest.raises(InputError, match="label 3 is out of range"):
        attack(form, x, torch.tensor([0, 3]), [1.0])
    with pytest.raises(InputError, match="label -1"):
        attack(form, x, torch.tensor([-1, 0]), [1.0])
    with pytest.raises(InputError, match="integer labels"):
        attack(form, x, label[:1], [1.0])
    with pytest.raises(InputError, match="NaN"):
        attack(form, torch.where(x > 0, torch.nan, x), label, [1.0])
    with pytest.raises(InputError, match="outside the box"):
        attack(form, 3 * x, label, [1.0])
    with pytest.raises(InputError, match=r"\(batch, 6\)"):
        attack(form, x[:, :5], label, [1.0])
    with pytest.raises(InputError, match="single output"):
        attack(linear(1), x, torch.zeros(2, dtype=torch.long), [1.0])
    with pytest.raises(InputError, match="form"):
        attack("no model", x, label, [1.0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one step"):
        PGD(steps=0)
    with pytest.raises(InputError, match="momentum"):
        PGD(momentum=1.0)
    with pytest.raises(InputError, match="searches in l2"):
        Minimal(norm=Linf())
    with pytest.raises(InputError, match="at least one step"):
        Minimal(classes=0)
    assert attack(form, x[:0], label[:0], [1.0]).success.shape == (1, 0)
    assert attack(form, x, label, [2.0, 1.0, 2.0]).eps == (1.0, 2.0)


def test_images_keep_their_shape_out_of_it() -> None:
    model, x, label = digits("lben")
    flat = FastGradient(norm=L2(), box=Box())(model, x[:10], label[:10], [1.0])
    assert torch.equal(FastGradient(box=Box())(model, x[:10].reshape(10, 1, 8, 8), label[:10], [1.0]).size, flat.size)
    assert isinstance(model, nn.LBEN)


def test_classes_that_the_box_does_not_reach() -> None:
    # Three classes, so that the two rivals are both followed, and in most of these boxes one of them is never ahead.
    reached = 0
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        model = nn.LBEN(6, 8, 3, gamma=2.0, dtype=torch.float64, generator=generator).eval()
        x = torch.rand(40, 6, generator=generator, dtype=torch.float64)
        anywhere = torch.rand(20_000, 6, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            label, there = model(x).argmax(dim=1), model(anywhere).argmax(dim=1)
        found = Minimal(box=Box())(model, x, label, EPS)
        for row in range(len(x)):
            nearest = torch.linalg.vector_norm(anywhere[there != label[row]] - x[row], dim=1)
            if len(nearest):
                reached += 1
                assert found.size[row] <= nearest.min(), "no random point of another class is nearer"
    assert reached > 0
