"""Multi-tier monotone networks: their triangle, their one equilibrium, gradients, and what is proved of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from nn_ascent import Networks, climb
from nn_memory import kept

from equilip import activations, certify
from equilip import form as forms
from equilip.checker import check
from equilip.errors import FormatError, InputError, ProofError
from equilip.form import Standardisation
from equilip.nn import MultiTierMonotone
from equilip.operators import Circular, Conv2d, Padding, Tiers, Zeros
from equilip.solve import (
    Anderson,
    PeacemanRachford,
    Phantom,
    Settings,
    TierByTier,
    Unrolled,
    equilibrium,
)

PADDINGS = [Zeros(0), Circular(0)]
EXACT = Settings(tolerance=1e-12)


def make(
    padding: Padding = PADDINGS[0],
    *,
    size: tuple[int, int] = (5, 6),
    channels: tuple[int, ...] = (2, 3),
    k: int = 3,
    m: float = 0.3,
    pool: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    settings: Settings = EXACT,
    activation: activations.Activation | None = None,
    standardisation: Standardisation | None = None,
) -> MultiTierMonotone:
    """A tiny network whose parameters are all random."""
    generator = torch.Generator().manual_seed(seed)
    model = MultiTierMonotone(
        (1, *size), channels, 3, m=m, kernel_size=k, padding=padding, pool=pool, settings=settings, dtype=dtype,
        generator=generator, activation=activation, standardisation=standardisation,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("log_a", "log_k", "beta", "b"):
                parameter.add_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def inputs(model: MultiTierMonotone, count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, model.in_features, generator=generator, dtype=model.b.dtype)


def dense_twin(model: MultiTierMonotone) -> forms.Form:
    """The same network as matrices."""
    form = model.form().detach()
    return forms.dense(
        form.W.dense(), form.U.dense(), form.b, form.C.dense(), form.c, lam=form.lam, activation=form.activation
    )


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("k", "size"), [(1, (5, 6)), (3, (5, 6)), (3, (8, 8)), (5, (9, 7)), (7, (12, 11))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_matrices_confirm_the_construction(
    padding: Padding, k: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    channels = (2, 1) if k == 7 else (2, 3) if k == 5 else (2, 3, 1)
    if isinstance(padding, Circular) and k == 3:
        size = (9, 8)
    model = make(padding, k=k, size=size, channels=channels, dtype=dtype, seed=k)
    form = model.form().detach().to(torch.float64)
    X = torch.eye(model.hidden_features, dtype=torch.float64) - form.W.dense()
    assert float(torch.linalg.eigvalsh(0.5 * (X + X.mT))[0]) >= model.m - 1e-12
    edges = [0]
    for c, h, w in model.hidden_shapes:
        edges.append(edges[-1] + c * h * w)
    for start, stop in pairwise(edges):
        assert not bool(X[start:stop, stop:].any())
    # The input enters the first tier, the output reads the last.
    assert not bool(form.U.dense()[edges[1] :].any())
    assert not bool(form.C.dense()[:, : edges[-2]].any())
    assert bool(X[edges[1] : edges[2], : edges[1]].any())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("activation", [activations.ReLU(), activations.Tanh()])
def test_solutions_are_those_of_the_dense_network(padding: Padding, activation: activations.Activation) -> None:
    model = make(padding, size=(9, 8), channels=(2, 3, 2), activation=activation).eval()
    x = inputs(model, 3)
    expected = equilibrium(dense_twin(model), x, replace(EXACT, solver=PeacemanRachford()))
    for solver in (TierByTier(), EXACT.solver):
        found = model.solve(x, replace(EXACT, solver=solver))
        assert bool(found.converged.all())
        assert torch.allclose(found.z, expected.z, rtol=1e-9, atol=1e-9)
        assert bool(((found.z - expected.z).detach().norm(dim=1) <= found.error + expected.error).all())
        assert float(found.error.max()) <= 1e-7
    again = model.solve(x, EXACT, start=found.z.detach())
    assert torch.allclose(again.z, found.z, atol=1e-10)
    found = model.solve(x, replace(EXACT, tolerance=0.3))
    assert bool(found.converged.all())
    assert bool(((found.z - expected.z).detach().norm(dim=1) <= found.error + expected.error).all())
    assert torch.allclose(model(x.unflatten(1, model.shape)), expected.y, atol=1e-8)
    assert model.solve(x[:0]).y.shape == (0, 3)


def test_batches_float32_and_mixed_activations() -> None:
    model = make(size=(8, 8), channels=(3, 3, 3), dtype=torch.float32, settings=Settings()).eval()
    x = inputs(model, 40)
    found = model.solve(x)
    expected = equilibrium(dense_twin(model).to(torch.float64), x.double(), EXACT)
    assert bool(((found.z - expected.z).detach().double().norm(dim=1) <= found.error + expected.error).all())
    # Different activations in one network, whose groups do not end where tiers do.
    model = make().eval()
    form = model.form().detach()
    n = model.hidden_features
    mixed = activations.join([(activations.ReLU(), 70), (activations.Tanh(), n - 70)])
    x = inputs(model, 3)
    twin = replace(dense_twin(model), activation=mixed)
    own = equilibrium(replace(form, activation=mixed), x, replace(EXACT, max_iterations=100_000, tolerance=1e-9))
    assert torch.allclose(own.z, equilibrium(twin, x, EXACT).z, atol=1e-7)


@pytest.mark.parametrize(
    ("padding", "channels", "size"), [(Zeros(0), (1, 2, 1), (3, 4)), (Circular(0), (1, 2), (4, 3))]
)
def test_derivatives(padding: Padding, channels: tuple[int, ...], size: tuple[int, int]) -> None:
    model = make(padding, size=size, channels=channels)
    x = inputs(model, 1)
    names = [name for name, _ in model.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in model.parameters())

    def output(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    checked = {"atol": 1e-5, "rtol": 1e-4, "fast_mode": True}
    assert torch.autograd.gradcheck(output, (x.requires_grad_(), *values), **checked)
    assert torch.autograd.gradgradcheck(output, (x, *values), **checked)


def test_memory_of_training_does_not_grow_with_the_iterations() -> None:
    model = make()
    x = inputs(model, 4)
    rough, few = kept(model, x, 1e-2)
    fine, many = kept(model, x, 1e-12)
    assert many > 2 * few
    assert rough == fine > 0


@pytest.mark.parametrize("padding", PADDINGS)
def test_training_lowers_the_loss_and_repeats_itself(padding: Padding) -> None:
    def losses() -> list[float]:
        model = make(padding, size=(8, 8), channels=(4, 6), pool=2, dtype=torch.float32, settings=Settings())
        x, labels = inputs(model, 16), torch.arange(16) % 3
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        found = []
        for _ in range(15):
            loss = torch.nn.functional.cross_entropy(model(x), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(float(loss.detach()))
        W = model.double().form().W.dense().detach()
        assert float(torch.linalg.eigvalsh(2 * torch.eye(len(W), dtype=W.dtype) - W - W.mT)[0]) >= 2 * model.m - 1e-9
        return found

    first = losses()
    assert first[-1] < first[0] - 0.03
    if isinstance(padding, Zeros):
        assert losses() == first


def test_gradients_by_other_ways() -> None:
    model = make()
    x = inputs(model, 2)
    model.settings = replace(EXACT, gradient=Phantom(steps=3))
    model(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    for settings in (replace(EXACT, gradient=Unrolled(), solver=TierByTier()), replace(EXACT, solver=Anderson())):
        model.settings = settings
        if isinstance(settings.gradient, Unrolled):
            with pytest.raises(InputError, match="unroll another solver"):
                model(x)
        else:
            assert torch.allclose(model(x), equilibrium(dense_twin(model), x, EXACT).y, atol=1e-8)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_are_proved_checked_and_never_beaten(tmp_path: Path, padding: Padding, dtype: torch.dtype) -> None:
    std = Standardisation(torch.zeros(30, dtype=dtype), torch.linspace(0.25, 0.5, 30, dtype=dtype))
    model = make(padding, dtype=dtype, standardisation=std).eval()
    with torch.no_grad():
        model.b.add_(1.0)  # so that neurons of the last tier are active
    form = model.form().detach()
    bound = certify.lipschitz(model)
    assert model.guarantee().bound is None
    certify.check_guarantee(form, model.guarantee())
    certify.check_guarantee(form, model.guarantee(), bound=bound)
    exact = form.to(torch.float64)
    W, U, C = exact.W.dense(), exact.U.dense(), exact.C.dense()
    # ‖C‖ ‖U‖ / 2m: C and U meet different tiers.
    sharp = float(torch.linalg.matrix_norm(C, 2) * torch.linalg.matrix_norm(U, 2)) / (2 * model.m)
    assert sharp <= bound.value <= 3 * sharp
    lam = torch.diag(torch.from_numpy(bound.multipliers) / bound.value)
    S = 2 * lam - lam @ W - W.mT @ lam - (C.mT @ C + lam @ U @ U.mT @ lam) / bound.value
    assert float(torch.linalg.eigvalsh(S)[0]) >= -1e-9
    form.save(tmp_path / "form.safetensors")
    bound.save(tmp_path / "certificate.json")
    verdict = check(tmp_path / "certificate.json")
    assert verdict.valid, verdict.reason
    assert [claim.bound for claim in verdict.claims] == [bound.value, bound.value_raw]
    again = certify.recall(tmp_path / "certificate.json", form)
    assert again is not None
    assert again.value == bound.value
    found = climb(Networks.of([replace(exact, standardisation=None)]), 100)
    assert 0 < float(found) <= bound.value
    # A tenth less than what is proved is refused, by the library and by the checker.
    with pytest.raises(ProofError):
        certify.prove(form, 0.9 * bound.value)


def test_kernels_that_wrap_onto_themselves_have_certificates_too(tmp_path: Path) -> None:
    model = make(Circular(0), size=(8, 8), channels=(1, 1, 1))
    assert model.hidden_features + 3 <= 128
    form = model.form().detach()
    form.save(tmp_path / "form.safetensors")
    certify.lipschitz(form).save(tmp_path / "certificate.json")
    verdict = check(tmp_path / "certificate.json")
    assert verdict.valid, verdict.reason


def test_radii_survive_attack() -> None:
    model = make(size=(4, 4), m=2.0).eval()
    x = inputs(model, 20)
    labels = model(x).argmax(1)
    radius = certify.radius(model.form().detach(), x, labels)
    assert float(radius.max()) > 0
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(200, 20, 16, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=2, keepdim=True) * radius[:, None] * 0.999
    assert torch.equal(model((x + directions).flatten(0, 1)).argmax(1).view(200, 20), labels.expand(200, 20))


def test_files_the_frozen_twin_and_stale_forms(tmp_path: Path) -> None:
    model = make(Circular(0), size=(8, 6)).eval()
    x = inputs(model, 2)
    y = model(x)
    form = model.form().detach()
    form.save(tmp_path / "form.safetensors")
    loaded = forms.load(tmp_path / "form.safetensors")
    assert loaded.sha256 == form.sha256
    assert torch.equal(equilibrium(loaded, x, EXACT).y, equilibrium(form, x, EXACT).y)
    frozen = model.freeze()
    assert torch.equal(frozen(x), y)
    assert not list(frozen.parameters())
    other = make(Circular(0), size=(8, 6), seed=5).eval()
    assert not torch.allclose(other(x), y)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), y)
    with torch.no_grad():
        model.K[0].mul_(-1.0)
    assert not torch.allclose(model(x), y)
    assert torch.equal(frozen(x), y)


def test_forms_of_other_wirings_are_not_saved() -> None:
    form = make().form().detach()
    assert isinstance(form.W, Tiers)
    elsewhere = Conv2d(torch.ones(2, 1, 3, 3, dtype=torch.float64), (1, 5, 6), Zeros(1))
    for wrong in (
        replace(form, U=replace(form.U, left=replace(form.U.left.base, start=1, stop=61).transpose())),  # type: ignore[attr-defined]
        replace(form, U=replace(form.U, right=replace(elsewhere, padding=Circular(1)))),
    ):
        for attempt in (lambda f: f.to_bytes(), certify.lipschitz):
            with pytest.raises(InputError):
                attempt(wrong)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"padding":"zeros"', '"padding":"reflect"'),
        ('"pool":1', '"pool":0'),
        ('"pool":1', '"pool":2'),
        ("[3,3,3]", "[3,3,4]"),
        ("[3,3,3]", "[2,3,3]"),
        ('"tiers"', '"towers"'),
        ('"first"', '"fist"'),
        ((0.3).hex(), (-0.3).hex()),
        ("[2,5,6]", "[2,5]"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, old: str, new: str) -> None:
    content = make().form().detach().to_bytes()
    length = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + length].decode(), content[8 + length :]
    old, new = old.replace('"', '\\"'), new.replace('"', '\\"')
    assert old in header
    header = header.replace(old, new)
    path = tmp_path / "form.safetensors"
    path.write_bytes(len(header.encode()).to_bytes(8, "little") + header.encode() + rest)
    with pytest.raises(FormatError):
        forms.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"m": 0.0},
        {"m": float("nan")},
        {"kernel_size": 2},
        {"kernel_size": 9},
        {"pool": 3},
        {"shape": (1, 8)},
        {"shape": (0, 8, 8)},
        {"channels": (2,)},
        {"channels": (2, 0)},
        {"channels": ()},
        {"out_features": 0},
        {"padding": Circular(0), "kernel_size": 7},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object]) -> None:
    sizes = {"shape": (1, 8, 8), "channels": (2, 2), "out_features": 3, "pool": 2}
    with pytest.raises(InputError):
        MultiTierMonotone(**{**sizes, **change})  # type: ignore[arg-type]
