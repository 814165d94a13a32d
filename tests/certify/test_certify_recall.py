"""A certificate that is read back gives the bound that was proved, and nothing that cannot be proved again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from certify_networks import KINDS, lben, random_form, some_activation, tensor

from equilip.certify import lipschitz, recall, rows
from equilip.form import Form, Standardisation


def standardised(form: Form, rng: np.random.Generator, uniform: bool) -> Form:
    std = np.full(form.in_size, 0.3081) if uniform else np.exp(rng.standard_normal(form.in_size))
    return replace(form, standardisation=Standardisation(tensor(np.zeros(form.in_size)), tensor(std)))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize(("activation", "kind"), list(enumerate(KINDS)))
def test_what_was_proved_comes_back(kind: str, activation: int, uniform: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(activation)
    form = standardised(random_form(rng, kind, 7, 5, 3), rng, uniform)
    form = replace(form, activation=some_activation(activation))
    form = form.to(torch.float32) if activation in (0, 3) else form
    bound = lipschitz(form)
    bound.save(tmp_path / "certificate.json")
    found = recall(tmp_path / "certificate.json", form)
    assert found is not None
    for name in ("value", "value_raw", "method", "inflation", "note", "form_sha256", "norm"):
        assert getattr(found, name) == getattr(bound, name), name
    assert (found.multipliers == bound.multipliers).all()
    assert (found.multipliers_raw == bound.multipliers_raw).all()
    assert (rows(form, found).pairs_raw == rows(form, bound).pairs_raw).all()


def lower(unit: int) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        claim = record["claims"][unit]
        claim["bound"] = (float.fromhex(claim["bound"]) * (1 - 1e-6)).hex()

    return change


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        del record[path[-1]]

    return change


def negative(record: dict[str, Any]) -> None:
    record["claims"][0]["multipliers"][0] = (-1.0).hex()


def random(record: dict[str, Any]) -> None:
    for claim in record["claims"]:
        claim["multipliers"] = [float(x).hex() for x in np.random.default_rng(0).uniform(0.1, 9, 6)]


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize(
    "change",
    [lower(0), lower(1), drop("claims", 0), drop("claims", 1), drop("claims", 1, "multipliers", 0), negative, random],
)
def test_what_cannot_be_proved_does_not(
    change: Callable[[dict[str, Any]], None], uniform: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    form = standardised(lben(rng, 6, 4, 3), rng, uniform)
    path = tmp_path / "certificate.json"
    lipschitz(form).save(path)
    assert recall(path, form) is not None
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    assert recall(path, form) is None


def test_nor_another_forms_nor_what_is_no_certificate(tmp_path: Path) -> None:
    form, other = (lben(np.random.default_rng(seed), 6, 4, 3) for seed in (1, 2))
    path = tmp_path / "certificate.json"
    assert recall(path, form) is None
    lipschitz(form).save(path)
    assert recall(path, other) is None
    path.write_text("{")
    assert recall(path, form) is None
    path.write_text("[]")
    assert recall(path, form) is None
