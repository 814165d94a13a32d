"""attack.npz: what was found comes back, and nothing else is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from equilip import attack, nn
from equilip.attack.outcome import EXAMPLES, Outcome, load
from equilip.errors import FormatError


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    generator = torch.Generator().manual_seed(0)
    model = nn.LBEN(6, 8, 3, gamma=2.0, dtype=torch.float64, generator=generator).eval()
    x = torch.rand(40, 6, generator=generator, dtype=torch.float64)
    # Mostly what the network says, so that every class has samples that are right, and some that are wrong.
    label = model(x).argmax(1)
    label[:5] = (label[:5] + 1) % 3
    found = attack.robustness(model, x, label, [0.1, 0.5], box=attack.Box(0, 1))
    return Outcome.of(found, x, label, (1, 2, 3))


def test_the_examples_are_the_first_right_ones_of_each_class(outcome: Outcome) -> None:
    for row, number in enumerate(outcome.index.tolist()):
        assert outcome.size[number] > 0
        same = (outcome.label == outcome.label[number]) & (outcome.size > 0)
        assert number == int(same.nonzero()[0])
        distance = (outcome.adversarial[row] - outcome.x[row]).norm()
        if torch.isfinite(outcome.size[number]):
            assert distance == pytest.approx(float(outcome.size[number]), rel=1e-6)
            assert distance > outcome.radius[number]
            assert outcome.predicted[row] != outcome.label[number]
        else:
            assert (distance, outcome.predicted[row]) == (0, -1)
    assert len(outcome.index) == len(outcome.label[outcome.size > 0].unique()) <= EXAMPLES


def test_accuracies_are_those_of_the_rows(outcome: Outcome) -> None:
    assert outcome.attacked_accuracy(0.0) == 35 / 40
    assert 0 <= outcome.certified_accuracy(0.3) <= outcome.attacked_accuracy(0.3) <= 35 / 40


def test_what_is_written_comes_back(outcome: Outcome, tmp_path: Path) -> None:
    outcome.save(tmp_path / "attack.npz")
    found = load(tmp_path / "attack.npz")
    for name in ("radius", "size", "label", "index", "x", "adversarial", "predicted"):
        assert (getattr(found, name) == getattr(outcome, name)).all(), name
    assert (found.shape, found.form_sha256) == (outcome.shape, outcome.form_sha256)


def test_nothing_else_is_read(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "attack.npz"
    outcome.save(path)
    whole = path.read_bytes()
    with np.load(path) as stored:
        arrays = dict(stored)

    def refused() -> str:
        with pytest.raises(FormatError) as caught:
            load(path)
        return str(caught.value)

    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        assert "damaged" in refused()
    path.unlink()
    assert "attack.npz" in refused()
    for name in arrays:
        np.savez(path, **{key: value for key, value in arrays.items() if key != name})
        assert "damaged" in refused()
    np.savez(path, **{**arrays, "format": np.array("equilip.samples/9")})
    assert "reads 'equilip.samples/1'" in refused()
    np.savez(path, **{**arrays, "x": arrays["x"][:, :-1]})
    assert "x has shape" in refused()
    np.savez(path, **{**arrays, "index": arrays["index"] + 40})
    assert "the examples are none of them" in refused()
    np.savez(path, **{**arrays, "label": np.array([object()], dtype=object)})
    assert "damaged" in refused()
