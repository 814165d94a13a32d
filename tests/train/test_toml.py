"""TOML: everything that is written is read back the same; every wrong key and type is named."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equilip.errors import ConfigError
from equilip.train import toml

plain = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(min_value=-(2**63), max_value=2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=("Cs",))),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
tables = st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), plain, max_size=5)


@given(top=tables, table=tables)
def test_round_trip(top: dict, table: dict) -> None:
    top.pop("table", None)
    text = toml.write({**top, "table": table})
    assert tomllib.loads(text) == {**top, "table": table}


def test_nothing_is_left_out_but_none() -> None:
    assert toml.write({"a": None, "b": {"c": None, "d": 1}}) == "[b]\nd = 1\n"


def test_what_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match="complex"):
        toml.write({"a": 1j})  # type: ignore[dict-item]


@dataclass(frozen=True)
class Sample:
    name: str
    size: int = 1
    rate: float | None = None
    deep: bool = False
    widths: tuple[int, ...] = ()


def test_build_casts_what_may_be_cast() -> None:
    made = toml.build(Sample, {"name": "a", "rate": 1, "widths": [1, 2]}, "x.toml")
    assert made == Sample("a", rate=1.0, widths=(1, 2))
    assert isinstance(made.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "szie": 2}, r"x\.toml: unknown key 'szie'; did you mean 'size'\?"),
        ({"name": "a", "zzzzzz": 2}, r"unknown key 'zzzzzz'; known: deep, name"),
        ({"size": 2}, "lacks name$"),
        ({"name": 3}, "name is 3; expected a text"),
        ({"name": "a", "size": 2.5}, "size is 2.5; expected a whole number"),
        ({"name": "a", "size": True}, "size is True; expected a whole number"),
        ({"name": "a", "rate": "fast"}, "rate is 'fast'; expected a number"),
        ({"name": "a", "deep": 1}, "deep is 1; expected true or false"),
        ({"name": "a", "widths": 3}, "widths is 3; expected a list"),
    ],
)
def test_build_names_what_is_wrong(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toml.build(Sample, values, "x.toml")


def test_read_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        toml.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        toml.read(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        toml.read(tmp_path / "binary.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        toml.read(tmp_path)
