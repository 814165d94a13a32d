"""The certificate file: what it says is what was proved, and the stand-alone checker agrees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from certify_networks import KINDS, lben, random_form, some_activation, tensor

from equilip import activations
from equilip.certify import lipschitz
from equilip.checker import check
from equilip.form import Form, Standardisation, affine


def certify(form: Form, folder: Path) -> Path:
    form.save(folder / "form.safetensors")
    path = folder / "certificate.json"
    lipschitz(form).save(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", range(6))
def test_the_checker_accepts_what_is_proved(kind: str, activation: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(activation)
    form = replace(random_form(rng, kind, 7, 5, 3), activation=some_activation(activation))
    std = np.exp(rng.standard_normal(5)) if activation % 2 else np.full(5, 0.3081)
    form = replace(form, standardisation=Standardisation(tensor(np.zeros(5)), tensor(std)))
    form = form.to(torch.float32) if activation in (0, 3) else form
    verdict = check(certify(form, tmp_path))
    assert verdict.valid, verdict.reason
    assert [claim.units for claim in verdict.claims] == ["standardised", "raw"]


def test_blocks_and_forms_without_neurons(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mixed = activations.join([(activations.ReLU(), 3), (activations.Tanh(), 2), (activations.LeakyReLU(0.1), 2)])
    for index, form in enumerate(
        (
            replace(random_form(rng, "monotone", 7, 4, 2), activation=mixed),
            affine(tensor(rng.standard_normal((3, 4))), tensor(np.zeros(3))),
            random_form(rng, "layers", 1, 1, 1),
        )
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        verdict = check(certify(form, folder))
        assert verdict.valid, verdict.reason


def test_the_file_says_what_was_proved(tmp_path: Path) -> None:
    form = replace(
        lben(np.random.default_rng(1), 6, 4, 3),
        standardisation=Standardisation(torch.zeros(4).double(), torch.full((4,), 0.5).double()),
    )
    bound = lipschitz(form)
    bound.save(tmp_path / "certificate.json", form_file="other.safetensors")
    stated = json.loads((tmp_path / "certificate.json").read_text())
    assert stated["format"] == "equilip.certificate/1"
    assert stated["form"] == {"file": "other.safetensors", "sha256": form.sha256}
    first, second = stated["claims"]
    assert float.fromhex(first["bound"]) == bound.value
    assert float.fromhex(second["bound"]) == bound.value_raw >= 2 * bound.value
    assert [float.fromhex(m) for m in first["multipliers"]] == bound.multipliers.tolist()
    assert [p.name for p in tmp_path.iterdir()] == ["certificate.json"]


def test_a_smaller_claim_is_not_accepted(tmp_path: Path) -> None:
    form = lben(np.random.default_rng(2), 6, 4, 3)
    path = certify(form, tmp_path)
    stated = json.loads(path.read_text())
    for claim in stated["claims"]:
        claim["bound"] = (float.fromhex(claim["bound"]) * (1 - 1e-5)).hex()
    path.write_text(json.dumps(stated))
    assert not check(path).valid


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    bound = lipschitz(lben(np.random.default_rng(3), 4, 3, 2))
    (tmp_path / "certificate.json").mkdir()
    with pytest.raises(OSError, match="certificate"):
        bound.save(tmp_path / "certificate.json")
    assert [p.name for p in tmp_path.iterdir()] == ["certificate.json"]
