"""The four published convolutional networks: proven equilibria, and the test errors that their authors published."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from equilip import data, interop
from equilip.report.numbers import error_bound
from equilip.train import evaluate

SHARED = Path(__file__).parents[2].parent / "shared"
REFERENCE = SHARED / "reference" / "lben"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"{REFERENCE} is not there"),
]

#: CPU seconds for 1,000 images of CIFAR-10: five minutes of two cores.
SECONDS = 600.0


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 in its standard form; the copy is the one that shared/data/README.md describes."""
    script = SHARED / "data" / "cifar10" / "unpack.py"
    if not script.is_file():
        pytest.skip(f"{script} is not there")
    pytest.importorskip("PIL")
    folder = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


def held_against(name: str, kind: str, gamma: float | None, dataset: data.Dataset, count: int, percent: float) -> float:
    """Evaluate a network in float64, hold it against its published error, and say how many CPU seconds that took."""
    form = interop.load(REFERENCE / f"{name}.params", kind, gamma=gamma).form().detach()
    start = time.process_time()
    found = evaluate(form, dataset.test_x[:count], dataset.test_y[:count])
    seconds = time.process_time() - start
    assert found.n == count
    assert found.unconverged == 0
    assert found.max_error_bound is not None
    assert found.max_error_bound < 1e-4
    # Two standard deviations of the share of errors among so many images.
    share = percent / 100
    room = 200 * math.sqrt(share * (1 - share) / count)
    sys.stdout.write(
        f"{name}: {found.test_error_percent:.2f} % ({percent} % published), "
        f"z within {error_bound(found.max_error_bound)}, {seconds:.0f} CPU s\n"
    )
    assert abs(found.test_error_percent - percent) <= room
    return seconds


@pytest.mark.parametrize(
    ("name", "kind", "gamma", "percent"),
    [
        ("cifar_conv_full_w81_lip1.0", "lben-conv-lip", 1.0, 36.22),
        ("cifar_conv_identity_w81_lip5.0", "lben-conv-lip", 5.0, 30.26),
        ("cifar_conv_full_w81", "lben-conv", None, 31.14),
    ],
)
def test_cifar(cifar: Path, name: str, kind: str, gamma: float | None, percent: float) -> None:
    assert held_against(name, kind, gamma, data.load("cifar10", cifar), 1000, percent) <= SECONDS


def test_mnist() -> None:
    held_against("mnist_conv_full_w54", "lben-conv", None, data.load("mnist", SHARED / "data"), 10_000, 0.89)
