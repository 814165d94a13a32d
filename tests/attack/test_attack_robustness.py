"""Certified against attacked: the order that must hold, and what happens when it does not."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_networks import digits, linear, randn

from equilip import certify
from equilip.attack import PGD, Attacked, Box, FastGradient, Linf, Minimal, Target, robustness
from equilip.errors import IllPosedError, InputError
from equilip.form import dense

EPS = (0.1, 0.3, 0.6, 1.0, 2.0)


@pytest.mark.parametrize("kind", ["lben", "feedforward"])
def test_attacked_lies_between_certified_and_clean(kind: str) -> None:
    model, x, label = digits(kind)
    bound = certify.lipschitz(model)
    found = robustness(model, x, label, EPS, box=Box(), bound=bound)
    assert len(found.violations) == 0
    assert torch.equal(found.radius, certify.radius(model, x, label, bound=bound))
    assert (found.attacked.size >= found.radius).all()
    previous = found.rows[0].clean_accuracy
    for eps, row in zip(EPS, found.rows, strict=True):
        assert row.eps == eps
        assert row.n == len(x)
        assert row.certified_accuracy <= row.attacked_accuracy <= row.clean_accuracy
        assert row.attacked_accuracy <= previous
        previous = row.attacked_accuracy
    assert found.rows[0].certified_accuracy > 0.3
    assert found.form_sha256 == bound.form_sha256
    # The joined attacks find at least what each finds alone.
    for alone in (Minimal(box=Box()), PGD(box=Box(), restarts=2)):
        weaker = alone(model, x, label, EPS).accuracy
        assert all(row.attacked_accuracy <= w for row, w in zip(found.rows, weaker, strict=True))


def test_on_a_linear_network_the_two_meet() -> None:
    form, x = linear(3), randn(9, 200, 6)
    label = form.output(x.new_zeros(200, 0), x).argmax(dim=1)
    bound = certify.lipschitz(form)
    pairs = certify.rows(form, bound)
    radius = certify.radius(form, x, label, bound=bound, pairs=pairs)
    found = robustness(form, x, label, EPS, radius=radius)
    assert len(found.violations) == 0
    for row in found.rows:
        assert row.attacked_accuracy - row.certified_accuracy <= 0.01


def test_a_falsified_radius_is_found_out(tmp_path: Path) -> None:
    model, x, label = digits("lben")
    radius = certify.radius(model, x, label)
    chosen = [3, 17, 40]
    honest = Minimal(box=Box())(model, x, label, EPS)
    assert (honest.size[chosen] > 0).all()
    radius[chosen] = honest.size[chosen] * 1.001
    found = robustness(model, x, label, EPS, box=Box(), radius=radius)
    assert found.violations.index.tolist() == chosen
    path = tmp_path / "bug.npz"
    found.violations.save(path)
    with np.load(path, allow_pickle=False) as stored:
        assert str(stored["form_sha256"]) == model.form().sha256
        assert stored["label"].tolist() == label[chosen].tolist()
        assert np.array_equal(stored["x"], x[chosen].double().numpy())
        assert np.array_equal(stored["radius"], radius[chosen].numpy())
        # All that is needed to see it again is in the file.
        moved = np.linalg.norm(stored["adversarial"] - stored["x"], axis=1)
        assert (moved < stored["radius"]).all()
        with torch.no_grad():
            y = model.double()(torch.from_numpy(stored["adversarial"]))
            model.float()
        assert y.argmax(dim=1).tolist() == stored["predicted"].tolist()
        assert (stored["predicted"] != stored["label"]).all()
    assert [file.name for file in tmp_path.iterdir()] == ["bug.npz"]


def test_parts_are_announced_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, label = digits("lben")
    attacks = [FastGradient(box=Box())]
    radius = torch.zeros(len(x))
    whole = robustness(model, x, label, [0.5], attacks=attacks, radius=radius)
    monkeypatch.setattr(importlib.import_module("equilip.attack.robustness"), "PART", 30)
    heard: list[tuple[int, int]] = []

    def hear(so_far: Attacked, n: int) -> None:
        heard.append((len(so_far.size), n))

    parts = robustness(model, x, label, [0.5], attacks=attacks, radius=radius, on_part=hear)
    assert heard == [(30, 100), (60, 100), (90, 100), (100, 100)]
    assert torch.allclose(parts.attacked.size, whole.attacked.size)
    assert parts.rows == whole.rows


def test_what_cannot_be_compared_is_refused() -> None:
    model, x, label = digits("lben")
    with pytest.raises(InputError, match="l2 radii"):
        robustness(model, x, label, [0.5], attacks=[PGD(norm=Linf())])
    with pytest.raises(InputError, match="same box"):
        robustness(model, x, label, [0.5], attacks=[PGD(box=Box()), PGD()])
    with pytest.raises(InputError, match="radii"):
        robustness(model, x, label, [0.5], radius=torch.ones(3))
    with pytest.raises(InputError, match="radii"):
        robustness(model, x, label, [0.5], radius=torch.full((100,), torch.nan))
    with pytest.raises(InputError, match="no sample"):
        robustness(model, x[:0], label[:0], [0.5])
    with pytest.raises(InputError, match="perturbation size"):
        robustness(model, x, label, [0.0])


def test_without_a_proof_nothing_is_certified() -> None:
    eye, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    form = dense(3.0 * eye, eye, zero, eye, zero)
    x, label = torch.full((3, 2), -1.0, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    with pytest.raises(IllPosedError):
        robustness(form, x, label, [0.1])
    found = robustness(Target.of(form, require_well_posed=False), x, label, [0.1])
    assert found.rows[0].certified_accuracy == 0.0
