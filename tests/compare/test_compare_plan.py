"""Families of equal size: what is planned has the parameters asked for, and every family can be configured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from equilip import data
from equilip.compare import plan
from equilip.compare.families import FAMILIES, NAMES, Family
from equilip.compare.settings import KNOWN, Settings, settings
from equilip.errors import ConfigError, FormatError

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
