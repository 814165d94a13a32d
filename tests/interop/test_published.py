"""Published checkpoints give the numbers that their authors published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from equilip import data, interop, nn
from equilip.errors import FormatError, IllPosedError, InputError
from equilip.interop.runs import import_run
from equilip.solve import PeacemanRachford, Settings
from equilip.train import evaluate, load_run

SHARED = Path(__file__).parents[2].parent / "shared"
REFERENCE = SHARED / "reference"

needs_shared = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"{REFERENCE} is not there")

CHECKPOINTS = [
    ("lben/mnist_fc_lip0.2_w80.params", "lben-fc", 0.2, 7.41),
    ("lben/mnist_fc_lip0.5_w80.params", "lben-fc", 0.5, 3.52),
    ("lben/mnist_fc_lip1.0_w80.params", "lben-fc", 1.0, 2.36),
    ("lben/mnist_fc_lip5.0_w80.params", "lben-fc", 5.0, 1.81),
    ("lben/mnist_mon_w80.params", "mondeq-fc", None, 2.04),
    ("lben/mnist_ode_w80.params", "lben-ode-fc", None, 2.03),
    ("lben/mnist_lmt_c10_w80.mat", "lmt-fc", None, 2.14),
    ("lben/mnist_lmt_c100_w80.mat", "lmt-fc", None, 3.40),
    ("mondeq/mnist_fc_model_trained.pt", "mondeq-fc", None, 1.81),
]


@pytest.fixture(scope="module")
def mnist() -> data.Dataset:
    return data.load("mnist", SHARED / "data")


@needs_shared
@pytest.mark.parametrize(("file", "kind", "gamma", "published"), CHECKPOINTS)
def test_published_test_error(mnist: data.Dataset, file: str, kind: str, gamma: float | None, published: float) -> None:
    model = interop.load(REFERENCE / file, kind, gamma=gamma)
    found = evaluate(model.form().detach(), mnist.test_x, mnist.test_y)
    assert abs(found.test_error_percent - published) <= 0.01 + 1e-9
    assert found.n == 10000
    assert found.unconverged == 0
    assert found.max_residual is not None
    assert found.max_residual < 1e-6
    assert found.max_error_bound is not None
    assert found.max_error_bound < 1e-3


@needs_shared
def test_the_published_errors_are_those_of_the_authors() -> None:
    table = json.loads((REFERENCE / "lben" / "published.json").read_text())
    for file, _, _, published in CHECKPOINTS:
        name = Path(file).stem if file.endswith(".mat") else Path(file).name.removesuffix(".params")
        if name in table:
            assert table[name]["test_error_percent"] == published


@needs_shared
def test_nothing_guarantees_the_unconstrained_network(mnist: data.Dataset) -> None:
    model = interop.load(REFERENCE / "lben/mnist_uncon_w80.params", "unconstrained-fc")
    assert isinstance(model, nn.Explicit)
    assert model.guarantee() is None
    form = model.form().detach()
    with pytest.raises(IllPosedError):
        evaluate(form, mnist.test_x[:100], mnist.test_y[:100])
    # Peaceman-Rachford on its own finds no equilibrium for some images: these are counted, and are errors.
    plain = Settings(require_well_posed=False, solver=PeacemanRachford(), max_iterations=300)
    found = evaluate(form, mnist.test_x, mnist.test_y, plain)
    assert found.unconverged > 0
    assert found.max_error_bound is None
    assert found.test_error_percent >= 100 * found.unconverged / found.n
    # The default ends with Newton steps, which find one for (nearly) each.
    best = evaluate(form, mnist.test_x[:2000], mnist.test_y[:2000], Settings(require_well_posed=False))
    assert best.unconverged < found.unconverged
    assert best.max_error_bound is None, "converged is not the same as unique"


@needs_shared
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_imported_run_is_the_same_network(tmp_path: Path, dtype: str) -> None:
    file = REFERENCE / "lben/mnist_fc_lip1.0_w80.params"
    path, config, digest = import_run(file, "lben-fc", out=tmp_path / "run", gamma=1.0, dtype=dtype)
    read, model = load_run(path)
    assert isinstance(model, nn.LBEN)
    assert read == config
    assert read.data == "mnist"
    assert model.form().detach().sha256 == digest
    assert model.form().dtype == getattr(torch, dtype)


@needs_shared
@pytest.mark.parametrize(("file", "kind", "gamma", "published"), CHECKPOINTS)
def test_every_kind_survives_its_run_directory(
    tmp_path: Path, file: str, kind: str, gamma: float | None, published: float
) -> None:
    path, _, digest = import_run(REFERENCE / file, kind, out=tmp_path / "run", gamma=gamma)
    assert load_run(path)[1].form().detach().sha256 == digest


@needs_shared
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "lben"}, "unknown kind 'lben'"),
        ({}, "needs its gamma"),
        ({"gamma": -1.0}, "gamma must be a positive number, got -1"),
        ({"gamma": 1.0, "epsilon": 0.0}, "epsilon must be a positive number, got 0"),
        ({"gamma": 1.0, "data_name": "digits"}, "takes 784 numbers, digits has 64"),
        ({"gamma": 1.0, "data_name": "minst"}, "unknown data set 'minst'"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    file = REFERENCE / "lben/mnist_fc_lip1.0_w80.params"
    with pytest.raises(InputError, match=message):
        interop.load(file, **{"kind": "lben-fc", **arguments})


def test_gamma_means_nothing_to_others(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gamma means nothing to a checkpoint of kind mondeq-fc"):
        interop.load(tmp_path / "x", "mondeq-fc", gamma=1.0)
    with pytest.raises(InputError, match="epsilon means nothing to a checkpoint of kind lmt-fc"):
        interop.load(tmp_path / "x", "lmt-fc", epsilon=1.0)


def small_ode(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "Lambda": torch.rand(4) + 0.5,
        "U.weight": torch.randn(4, 3),
        "U.bias": torch.randn(4),
        "V.weight": torch.randn(4, 4),
        "S.weight": torch.randn(4, 4),
        "Wout.weight": torch.randn(2, 4),
        "Wout.bias": torch.randn(2),
        **changes,
    }


def test_ode_kind_is_its_formula(tmp_path: Path) -> None:
    t = small_ode()
    torch.save(t, tmp_path / "x")
    form = interop.load(tmp_path / "x", "lben-ode-fc", epsilon=0.3).form()
    V, S = t["V.weight"].double(), t["S.weight"].double()
    eye = torch.eye(4, dtype=torch.float64)
    W = eye - t["Lambda"].double().diag() @ (V.mT @ V + 0.3 * eye + S.mT - S)
    assert torch.allclose(form.W.dense(), W, atol=1e-12)
    assert form.standardisation is None, "three inputs are no known data set"


def test_ode_kind_needs_a_positive_metric(tmp_path: Path) -> None:
    torch.save(small_ode(Lambda=torch.tensor([1.0, -1.0, 1.0, 1.0])), tmp_path / "x")
    with pytest.raises(FormatError, match="Lambda must be positive; its smallest entry is -1"):
        interop.load(tmp_path / "x", "lben-ode-fc")
