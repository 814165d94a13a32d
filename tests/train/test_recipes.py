"""The recipes are configurations that this version of the library accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from equilip.cli import main
from equilip.train import TrainConfig, load_run, toml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_configuration(recipe: Path, tmp_path: Path) -> None:
    config = toml.build(TrainConfig, toml.read(recipe), recipe.name)
    assert config.data == "mnist"
    small = ["--data", "digits", "--limit", "40", "--width", "8", "--epochs", "1"]
    assert main(["train", "--config", str(recipe), *small, "--out", str(tmp_path / "run")]) == 0
    assert getattr(load_run(tmp_path / "run")[1], "gamma", None) == config.gamma


def test_there_are_recipes() -> None:
    assert RECIPES
