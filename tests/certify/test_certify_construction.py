"""Bounds of convolutional networks by construction: held against dense matrices, the checker, tampering and attack."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from equilip import certify, wiring
from equilip import form as forms
from equilip.certify.construction import Constructed, by_construction, facts, head_square, input_square
from equilip.checker import check
from equilip.checker import convolution as checked_convolution
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form, Standardisation
from equilip.nn import ChannelMetric, FullMetric, IdentityMetric, ImageMetric, LBENConv, PixelMetric
from equilip.operators import Circular, Conv2d, InputLayer, Padding, Plain, Product, Weighted, Zeros
from equilip.operators.convolution import co_gram_kernel

METRICS = [FullMetric(), ChannelMetric(), ImageMetric(), IdentityMetric()]


def make(
    metric: PixelMetric = METRICS[0],
    padding: Padding | None = None,
    layer: type[InputLayer] = Weighted,
    gamma: float | None = 0.8,
    *,
    k: int = 3,
    pool: int = 2,
    size: int = 4,
    seed: int = 0,
    epsilon: float = 0.1,
    dtype: torch.dtype = torch.float64,
    raw: bool = False,
) -> LBENConv:
    generator = torch.Generator().manual_seed(seed)
    p = size * size
    standardisation = Standardisation(torch.zeros(p), torch.linspace(0.25, 0.5, p)) if raw else None
    model = LBENConv(
        (1, size, size), 2, 3, gamma, kernel_size=k, metric=metric, padding=padding, pool=pool,
        pool_padding=1 if pool == 3 else 0, epsilon=epsilon, input_layer=layer, dtype=dtype,
        standardisation=standardisation, generator=generator,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("psi", "log_a", "log_u", "log_g"):
                parameter.add_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model.eval()


def slack(form: Form, bound: Constructed) -> float:
    """The smallest eigenvalue of the inequality of mathematics 1.2 for a dense twin, at the bound's own multipliers."""
    form = form.to(torch.float64)
    lam = torch.diag(torch.from_numpy(bound.multipliers) / bound.value)
    W, U, C = form.W.dense(), lam @ form.U.dense(), form.C.dense()
    S = 2 * lam - lam @ W - W.mT @ lam - (C.mT @ C + U @ U.mT) / bound.value
    return float(torch.linalg.eigvalsh(0.5 * (S + S.mT))[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("padding", [Zeros(0), Circular(0)])
@pytest.mark.parametrize(("layer", "gamma"), [(Weighted, 0.8), (Plain, 3.0), (Weighted, None)])
@pytest.mark.parametrize(("k", "pool", "dtype"), [(3, 2, torch.float64), (1, 3, torch.float32)])
def test_the_bound_the_matrices_and_the_checker_agree(
    tmp_path: Path,
    metric: PixelMetric,
    padding: Padding,
    layer: type[InputLayer],
    gamma: float | None,
    k: int,
    pool: int,
    dtype: torch.dtype,
) -> None:
    model = make(metric, padding, layer, gamma, k=k, pool=pool, dtype=dtype, raw=k == 3)
    form = model.form().detach()
    bound = certify.lipschitz(form)
    assert isinstance(bound, Constructed)
    assert gamma is None or bound.value <= gamma
    assert slack(form, bound) >= -1e-6
    if gamma is not None:
        assert slack(form, replace(bound, value=gamma, multipliers=form.lam.double().numpy() * gamma)) >= 0.2 - 1e-5  # type: ignore[union-attr]
    assert bound.value_raw >= bound.value * (4 if k == 3 else 1) * (1 - 1e-12)
    form.save(tmp_path / "form.safetensors")
    bound.save(tmp_path / "certificate.json")
    verdict = check(tmp_path / "certificate.json")
    assert verdict.valid, verdict.reason
    assert [claim.bound for claim in verdict.claims] == [bound.value, bound.value_raw]
    certify.check_guarantee(form, model.guarantee(), bound=bound)
    certify.check_guarantee(form, model.guarantee())


def test_large_networks_are_proved_without_matrices(tmp_path: Path) -> None:
    model = LBENConv((3, 32, 32), 16, 10, 1.0, pool=2, dtype=torch.float32)
    form = model.form().detach()
    bound = certify.lipschitz(form)
    assert bound.value <= 1.0
    assert certify.prove(form, 1.0).value == 1.0
    form.save(tmp_path / "form.safetensors")
    bound.save(tmp_path / "certificate.json")
    assert check(tmp_path / "certificate.json").valid
    with pytest.raises(ProofError):
        certify.prove(form, 1e-3)


def test_the_scale_matters() -> None:
    """Where the head is loud and the input quiet, other multipliers prove less than gamma."""
    model = make(epsilon=0.5)
    with torch.no_grad():
        assert model.log_u is not None
        model.log_u.fill_(math.log(0.01))
    bound = by_construction(model.form().detach())
    assert bound.value < 0.5 * 0.8
    assert slack(model.form().detach(), bound) >= -1e-9
    known = facts(model.form().detach())
    C, U = model.form().C.dense().detach(), model.form().lam.diag() @ model.form().U.dense()  # type: ignore[union-attr]
    assert float(torch.linalg.matrix_norm(C, 2)) ** 2 <= head_square(known)
    assert float(torch.linalg.matrix_norm(U.detach(), 2)) ** 2 <= float(input_square(known))


def certificate(folder: Path, model: LBENConv) -> tuple[Path, dict[str, object]]:
    form = model.form().detach()
    form.save(folder / "form.safetensors")
    certify.lipschitz(form).save(folder / "certificate.json")
    return folder / "certificate.json", json.loads((folder / "certificate.json").read_text())


def smaller(text: object, share: float = 0.99) -> str:
    return (float.fromhex(str(text)) * share).hex()


@pytest.mark.parametrize("gamma", [0.8, None])
def test_changed_claims_are_refused(tmp_path: Path, gamma: float | None) -> None:
    file, content = certificate(tmp_path, make(gamma=gamma, raw=True))
    assert check(file).valid
    for index in range(2):
        for key, change in (
            ("bound", smaller),
            ("scale", lambda text: smaller(text, 3.0)),
            ("scale", lambda text: smaller(text, -1.0)),
            ("head", lambda text: smaller(text, 0.5)),
            ("head", lambda _: "0x0.0p+0"),
            ("units", lambda text: "raw" if text == "standardised" else "pixels"),
            ("well_posed", lambda _: False),
            ("norm", lambda _: "linf"),
            ("kind", lambda _: "reachable"),
        ):
            if (key, gamma) == ("head", 0.8) and content["claims"][index]["scale"] == (1.0).hex():  # type: ignore[index]
                continue  # a claim of gamma itself needs no norms
            altered = json.loads(json.dumps(content))
            altered["claims"][index][key] = change(altered["claims"][index][key])
            file.write_text(json.dumps(altered))
            assert not check(file).valid, (index, key)
        altered = json.loads(json.dumps(content))
        altered["claims"][index]["more"] = 1
        file.write_text(json.dumps(altered))
        assert not check(file).valid


@pytest.mark.parametrize("gamma", [0.8, None])
def test_a_bound_is_read_back_where_it_is_true(tmp_path: Path, gamma: float | None) -> None:
    model = make(gamma=gamma, raw=True)
    form = model.form().detach()
    file, content = certificate(tmp_path, model)
    again, bound = certify.recall(file, form), certify.lipschitz(form)
    assert again is not None
    assert (again.value, again.value_raw) == (bound.value, bound.value_raw)
    assert np.array_equal(again.multipliers, bound.multipliers)
    assert certify.recall(file, make(gamma=gamma, raw=True, seed=1).form().detach()) is None
    for index in range(2):
        for change in (lambda text: smaller(text), lambda text: smaller(text, -1.0), lambda _: "0x0.0p+0", str.upper):
            altered = json.loads(json.dumps(content))
            altered["claims"][index]["bound"] = change(altered["claims"][index]["bound"])
            file.write_text(json.dumps(altered))
            assert certify.recall(file, form) is None, (index, altered["claims"][index]["bound"])
        altered = json.loads(json.dumps(content))
        altered["claims"][index]["bound"] = smaller(content["claims"][index]["bound"], 1.5)  # type: ignore[index]
        file.write_text(json.dumps(altered))
        # What is looser than the truth is true in standardised units only if the raw one is as loose.
        assert (certify.recall(file, form) is None) == (index == 0)


def tampered(folder: Path, change: object) -> str:
    """The reason for which a form with this change is refused, its digest corrected; empty where it is not."""
    file, content = certificate(folder, make())
    path = folder / "form.safetensors"
    with safetensors.safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        text = opened.metadata()["equilip"]
    text, tensors = change(text, tensors)  # type: ignore[operator]
    safetensors.torch.save_file(tensors, path, metadata={"equilip": text})
    import hashlib

    content["form"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[index]
    file.write_text(json.dumps(content))
    verdict = check(file)
    return "" if verdict.valid else verdict.reason


def test_changed_forms_are_refused(tmp_path: Path) -> None:
    assert tampered(tmp_path, lambda text, t: (text, t)) == ""
    for change in (
        lambda text, t: (text.replace((0.8).hex(), (-0.8).hex()), t),
        lambda text, t: (text.replace((0.1).hex(), (-0.1).hex()), t),
        lambda text, t: (text.replace((0.1).hex(), "0x0.0p+0"), t),
        lambda text, t: (text.replace('"zeros"', '"reflect"'), t),
        lambda text, t: (text.replace('"pool":2', '"pool":3'), t),
        lambda text, t: (text.replace('"pool":2', '"pool":1'), t),
        lambda text, t: (text.replace("[2,4,4]", "[2,4,8]"), t),
        lambda text, t: (text.replace('"relu"', '"gelu"'), t),
        lambda text, t: (text.replace("form/2", "form/1"), t),
        lambda text, t: (text.replace("form/2", "form/3"), t),
        lambda text, t: (text, {**t, "lam": -t["lam"]}),
        lambda text, t: (text, {**t, "lam": 0 * t["lam"]}),
        lambda text, t: (text, {**t, "C": 30 * t["C"]}),
        lambda text, t: (text, {**t, "A": t["A"][:, :1].contiguous()}),
        lambda text, t: (text, {**t, "A": t["A"][:, :, :2, :2].contiguous()}),
        lambda text, t: (text, {**t, "U": t["U"][:1].clone()}),
        lambda text, t: (text, {**t, "D": t["A"].clone()}),
        lambda text, t: (text, {k: v for k, v in t.items() if k != "B"}),
    ):
        reason = tampered(tmp_path, change)
        # A louder head is another network: refused where the claim rests on its norm.
        assert reason


def test_radii_survive_attack() -> None:
    model = make(gamma=1.0, seed=3, raw=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 16, generator=generator, dtype=torch.float64)
    form = model.form().detach()
    labels = model(x).argmax(1)
    radius = certify.radius(form, x, labels)
    assert float(radius.max()) > 0
    directions = torch.randn(200, 20, 16, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=2, keepdim=True) * radius[:, None] * 0.999
    moved = (x + directions).flatten(0, 1)
    assert torch.equal(model(moved).argmax(1).view(200, 20), labels.expand(200, 20))
    wrong = (labels + 1) % 3
    assert not bool(certify.radius(form, x, wrong).any())


def unsound(ring: bool, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K of the published code, the input layer of a wiring that it does not cover, and the worst head for them.

    ``ring``: kernels of 5 pixels on an image with a ring of 1; else circular padding of an image without a ring.
    """
    generator = torch.Generator().manual_seed(seed)
    k, size = (5, 6) if ring else (3, 4)
    kernel = torch.rand(1, 1, k, k, generator=generator, dtype=torch.float64)
    K = Conv2d(co_gram_kernel(kernel), (1, size, size), Zeros(k - 1)).dense()
    U = Conv2d(kernel, (1, size, size), Circular(k // 2)).dense()
    if ring:
        inner = torch.zeros(6, 6, dtype=torch.bool)
        inner[1:-1, 1:-1] = True
        U = U[:, inner.flatten()]
    direction = torch.linalg.eigh(K - U @ U.mT)[1][:, :1].mT
    return K.numpy(), U.numpy(), direction.numpy()


@pytest.mark.parametrize("ring", [False, True])
def test_unsound_wirings_break_the_bound_and_are_refused(ring: bool) -> None:
    """Two rows of mathematics 1.4's table: the promise of slope 1 fails, and nothing certifies it."""
    worst, found = 0.0, None
    for seed in range(20):
        K, U, direction = unsound(ring, seed)
        for loud in (0.3, 1.0, 3.0):
            C = loud * direction
            X = 1e-3 * np.eye(len(K)) + 0.5 * (C.T @ C + K)
            # Every neuron active: z = X⁻¹ (U x + b), y = C z.
            gain = float(np.linalg.norm(C @ np.linalg.solve(X, U), 2))
            if gain > worst:
                worst, found = gain, (X, U, C)
    assert worst > 1.05
    assert found is not None
    X, U, C = (torch.from_numpy(np.ascontiguousarray(part)) for part in found)
    n = len(X)
    ones = torch.ones(n, dtype=torch.float64)
    form = forms.dense(torch.eye(n, dtype=torch.float64) - X, U, 50 * ones, C, ones[:1], lam=ones)
    with pytest.raises(ProofError):
        certify.prove(form, 1.0)
    assert certify.lipschitz(form, method="scale").value >= worst * (1 - 1e-9)


def test_the_unsound_wiring_cannot_be_saved_or_certified() -> None:
    form = make(padding=Zeros(0)).form().detach()
    circular = make(padding=Circular(0)).form().detach()
    for U in (circular.U, Product(form.C.transpose(), form.C)):
        if U.in_size != form.in_size:
            U = Conv2d(wiring.parts(form).U, (1, 4, 4), Circular(1))
        wrong = replace(form, U=U)
        for attempt in (certify.lipschitz, lambda f: f.to_bytes(), lambda f: certify.prove(f, 0.8)):
            with pytest.raises(InputError):
                attempt(wrong)


def test_the_wrong_crop_is_not_even_well_posed() -> None:
    """The third row: an "adjoint" that crops at the wrong place, so that AᵀA is no square and P loses its sign."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(1, 1, 3, 3, generator=generator, dtype=torch.float64)
    n = 5
    A = Conv2d(kernel, (1, n, n), Circular(1))
    grown = torch.nn.functional.conv_transpose2d(
        torch.nn.functional.pad(A.dense().mT.reshape(n * n, 1, n, n), (1, 1, 1, 1), mode="circular"), kernel
    )
    cropped = grown[:, :, :n, :n].flatten(1).mT  # at the corner, where it has to be in the middle
    X = 1e-3 * torch.eye(n * n, dtype=torch.float64) + cropped
    assert float(torch.linalg.eigvalsh(X + X.mT)[0]) < -0.1
    ones = torch.ones(n * n, dtype=torch.float64)
    form = forms.dense(torch.eye(n * n, dtype=torch.float64) - X, X, ones, ones[None], ones[:1], lam=ones)
    with pytest.raises((ProofError, IllPosedError)):
        certify.prove(form, 1.0)


def test_the_checkers_matrices_are_those_of_the_operators() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)
    for padding in (Zeros(1), Zeros(2), Zeros(0), Circular(1)):
        own = Conv2d(kernel, (3, 4, 5), padding).dense().numpy()
        theirs = checked_convolution.correlation(kernel.numpy(), (4, 5), padding.width, isinstance(padding, Circular))
        assert np.array_equal(own, theirs)
