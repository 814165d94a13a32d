"""Families of equal size: what is planned has the parameters asked for, and every family can be configured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from equilip import data
from equilip.compare import plan
from equilip.compare.families import CONVOLUTIONAL, FAMILIES, NAMES, Family
from equilip.compare.settings import KNOWN, Settings, settings
from equilip.errors import ConfigError, FormatError
from equilip.train import EpochMetrics, TrainConfig

DIGITS = data.load("digits", limit=40)


@pytest.mark.parametrize("family", FAMILIES[:-1], ids=lambda family: family.name)
def test_the_width_gives_the_parameters_asked_for(family: Family) -> None:
    for asked in (1_000, 6_000):
        own = settings("digits", parameters=asked)
        width = plan.width(family, own, DIGITS)

        def count(neurons: int, own: Settings = own) -> int:
            return plan.parameters(plan.config(family, own, DIGITS, 0, neurons, 1), DIGITS)

        off = abs(count(width) - asked)
        assert off <= abs(count(width + 1) - asked)
        assert width == 1 or off <= abs(count(width - 1) - asked)
        assert off < 0.1 * asked


@pytest.mark.parametrize("family", CONVOLUTIONAL, ids=lambda family: family.name)
def test_convolutional_families_have_the_parameters_asked_for_and_small_hidden_images(family: Family) -> None:
    own = settings("digits")
    assert plan.absent(family, own, DIGITS) is None
    width = plan.width(family, own, DIGITS)
    config = plan.config(family, own, DIGITS, 3, width, 2)
    assert abs(plan.parameters(config, DIGITS) - own.parameters) < 0.1 * own.parameters
    assert (config.gamma is not None) is family.bounded
    assert config.loss == ("lipschitz-margin" if family.bounded else "cross-entropy")
    assert config.patch == (1 if family.kind == "equilibrium" else 2)


def test_stacks_grow_no_wider_than_certificates_are_checked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    (family,) = (family for family in CONVOLUTIONAL if family.name == "aol-conv")
    monkeypatch.setattr("equilip.train.image_stacks.MAX_INPUTS", 100)
    own = settings("digits")
    width = plan.width(family, own, DIGITS)
    assert plan.parameters(plan.config(family, own, DIGITS, 0, width, 1), DIGITS) < own.parameters
    with pytest.raises(ConfigError, match="certificates"):
        plan.parameters(plan.config(family, own, DIGITS, 0, width + 1, 1), DIGITS)


@pytest.mark.parametrize(("shape", "patch"), [((1, 28, 28), 4), ((3, 32, 32), 8), ((1, 8, 8), 2), ((1, 5, 7), 1)])
def test_hidden_images_of_stacks_are_small(shape: tuple[int, int, int], patch: int) -> None:
    (family,) = (family for family in CONVOLUTIONAL if family.name == "cpl-conv")
    images = data.Dataset(
        "images", *2 * (torch.zeros(2, math.prod(shape)), torch.zeros(2, dtype=torch.int64)), classes=2, shape=shape
    )
    assert plan.config(family, settings("mnist"), images, 0, 3, 1).patch == patch


def test_convolutional_families_need_images_and_are_not_compared_unasked() -> None:
    table = data.from_arrays(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2)
    for family in CONVOLUTIONAL:
        assert "holds tables" in (plan.absent(family, Settings("npz:x"), table) or "")
        assert family not in settings("mnist").chosen
        assert settings("mnist", families=(family.name,)).chosen == (family,)
    narrow = replace(DIGITS, shape=(1, 2, 32))
    (circular,) = (family for family in CONVOLUTIONAL if family.name == "cayley-conv")
    assert "kernel of 3" in (plan.absent(circular, settings("digits"), narrow) or "")


def test_a_pilot_does_not_take_the_whole_of_a_slow_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (family,) = (family for family in FAMILIES if family.name == "plain")
    seen: list[tuple[int, int]] = []

    def slow(model: object, dataset: data.Dataset, of: TrainConfig) -> list[EpochMetrics]:
        seen.append((len(dataset.train_y), of.epochs))
        each = EpochMetrics(1, 0.0, 0.0, 0.0, 0, 0, None, 0.01, 0.0, processor_seconds=0.1 * len(dataset.train_y))
        return [each] * of.epochs

    monkeypatch.setattr(plan, "fit", slow)
    n = len(data.load("digits").train_y)
    whole = 0.1 * n
    half = math.ceil(0.5 * n)
    for seconds, expected in (
        (0.1 * whole, [(256, 1)]),
        (2 * whole, [(256, 1), (half, 1)]),
        (12 * whole, [(256, 1), (n, 1), (n, 3)]),
    ):
        seen.clear()
        plan.make(settings("digits", seconds=seconds), tmp_path, None, family, lambda text: None)
        found = plan.read(tmp_path, family)
        assert found is not None
        assert seen == expected
        assert found.seconds_per_epoch == pytest.approx(whole)
        assert found.epochs == max(1, round(seconds / whole))


def test_bounded_families_have_the_same_bound_in_raw_units() -> None:
    own = settings("digits")
    for family in own.chosen:
        if plan.absent(family, own, DIGITS) is None:
            config = plan.config(family, own, DIGITS, 3, 10, 2)
            assert config.seed == 3
            assert (config.gamma is not None) is family.bounded
            assert config.loss == ("lipschitz-margin" if family.bounded or family.margin else "cross-entropy")
            if family.bounded:
                assert config.gamma == pytest.approx(float(DIGITS.standardisation.std.min()))


def test_the_monotonic_family_needs_inputs(tmp_path: Path) -> None:
    (family,) = (family for family in FAMILIES if family.name == "monotonic")
    assert "increasing" in (plan.absent(family, settings("digits"), DIGITS) or "")
    assert plan.absent(family, settings("digits", increasing=(0,)), DIGITS) is None
    two = data.from_arrays(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2)
    assert "increasing" in (plan.absent(family, Settings("npz:x"), two) or "")
    assert plan.absent(family, Settings("npz:x", increasing=(0,)), two) is None


def test_plans_are_made_and_read_back(tmp_path: Path) -> None:
    (family,) = (family for family in FAMILIES if family.name == "plain")
    said: list[str] = []
    own = settings("digits", limit=64, seconds=0.1, parameters=800)
    plan.make(own, tmp_path, None, family, said.append)
    found = plan.read(tmp_path, family)
    assert found is not None
    assert found.epochs >= 1
    assert abs(found.parameters - 800) < 80
    assert str(found.epochs) in said[0]
    (tmp_path / "plan" / "plain.json").write_text("{")
    with pytest.raises(FormatError, match="remove it"):
        plan.read(tmp_path, family)
    assert plan.read(tmp_path, replace(family, name="other")) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"families": ("lbn",)}, "did you mean 'lben'"),
        ({"families": ()}, "each family"),
        ({"families": ("lben", "lben")}, "once"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"eps": ()}, "eps"),
        ({"eps": (-0.1,)}, "eps"),
        ({"runs": 0}, "runs"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings("digits", **changes)


def test_known_settings_are_sound() -> None:
    assert all(len(own.eps) == 4 for own in KNOWN.values())
    assert all(name == own.data for name, own in KNOWN.items())
    assert settings("npz:mine.npz").families == NAMES
