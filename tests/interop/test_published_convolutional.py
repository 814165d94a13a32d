"""Published convolutional networks: the same function as the published formula, and their published numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from equilip import interop
from equilip.errors import FormatError, InputError
from equilip.nn import FullMetric, IdentityMetric, LBENConv
from equilip.operators import Recurrence
from equilip.solve import Settings

PREFIX = "mon.linear_module."


def checkpoint(path: Path, *, lip: bool, identity: bool = False, k: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random file with 2 channels for MNIST, laid out as the published ones."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    own = {
        "psi": torch.zeros(1, 1, 1, 1, dtype=torch.float64) if identity else 0.3 * normal(1, 2, 30, 30),
        "U.weight": normal(2, 1, k, k),
        "U.bias": normal(2),
        "A.weight": normal(2, 2, k, k),
        "B.weight": normal(2, 2, k, k),
        "g": torch.tensor(1.3, dtype=torch.float64),
    }
    own |= {name: torch.tensor(v, dtype=torch.float64) for name, v in (("a", 0.9), ("b", -1.1), ("u", 1.7)) if lip}
    own |= {} if lip else {"h": torch.tensor(0.8, dtype=torch.float64)}
    outer = {"Wout.weight": normal(10, 200) / 10, "Wout.bias": normal(10)}
    if lip:
        own |= outer
    stored = {f"{PREFIX}{name}": tensor for name, tensor in own.items()} | ({} if lip else outer)
    torch.save(stored, path)
    return own | outer


def published_step(t: dict[str, torch.Tensor], z: torch.Tensor, x: torch.Tensor, gamma: float | None) -> torch.Tensor:
    """relu(W z + U x + b) of the authors' formula on images z (1, 2, 30, 30), zero on the ring; x (1, 1, 30, 30)."""

    def unit(name: str) -> torch.Tensor:
        return t[name] / t[name].norm()

    def circular(z: torch.Tensor) -> torch.Tensor:
        return functional.pad(z, (1, 1, 1, 1), mode="circular")

    def adjoint(y: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return functional.conv_transpose2d(circular(y), kernel)[:, :, 2:-2, 2:-2]

    A, B = unit("A.weight"), unit("B.weight")
    psi = t["psi"].exp()
    a, b = (t["a"], t["b"]) if gamma is not None else (t["g"], t["h"])
    inner = 0.1 * z + a * adjoint(functional.conv2d(circular(z), A), A)
    inner = inner - b * functional.conv2d(circular(z), B) + b * adjoint(z, B)
    U, C = t["U.weight"], t["Wout.weight"]
    if gamma is not None:
        U, C = t["u"].sqrt() * unit("U.weight"), t["g"].sqrt() * unit("Wout.weight")
        pooled = functional.avg_pool2d(z, 3).flatten(1) @ C.mT @ C
        spread = functional.interpolate(pooled.view(1, 2, 10, 10), scale_factor=3, mode="nearest") / 9
        inner = inner + spread / (2 * gamma)
    s = z - psi * inner
    if gamma is not None:
        without = functional.conv_transpose2d(z / psi, U)
        s = s - functional.conv2d(without, U) / (2 * gamma)
    s = s + functional.conv2d(circular(x), U, bias=t["U.bias"])
    image = s.relu()
    ring = torch.zeros_like(image)
    ring[:, :, 1:-1, 1:-1] = image[:, :, 1:-1, 1:-1]
    return ring


@pytest.mark.parametrize(("lip", "identity"), [(False, False), (True, False), (True, True)])
def test_the_same_function_as_the_published_formula(tmp_path: Path, lip: bool, identity: bool) -> None:
    t = checkpoint(tmp_path / "f", lip=lip, identity=identity)
    gamma = 0.7 if lip else None
    model = interop.load(tmp_path / "f", "lben-conv-lip" if lip else "lben-conv", gamma=gamma)
    assert isinstance(model, LBENConv)
    assert isinstance(model.metric, IdentityMetric if identity else FullMetric)
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        solution = model.solve(image.flatten(1), Settings(tolerance=1e-6))
        form = model.form()
        xi = form.standardise(image.flatten(1)).view_as(image)
    assert isinstance(form.W, Recurrence)
    assert model.guarantee().bound == gamma
    z = functional.pad(solution.z.view(1, 2, 28, 28), (1, 1, 1, 1))
    x = functional.pad(xi, (1, 1, 1, 1))
    theirs = published_step(t, z, x, gamma)
    assert float((theirs - z).norm() / z.norm()) <= 1.01e-6
    C = t["Wout.weight"] if gamma is None else t["g"].sqrt() * t["Wout.weight"] / t["Wout.weight"].norm()
    y = functional.avg_pool2d(z, 3).flatten(1) @ C.mT + t["Wout.bias"]
    assert torch.allclose(solution.y, y, atol=1e-10)


def test_what_the_proof_does_not_cover_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f"
    checkpoint(file, lip=True, k=5)
    with pytest.raises(FormatError, match="bound does not hold"):
        interop.load(file, "lben-conv-lip", gamma=1.0)
    t = checkpoint(file, lip=True)
    torch.save({f"{PREFIX}{name}": -v if name == "u" else v for name, v in t.items()}, file)
    with pytest.raises(FormatError, match="u must be positive"):
        interop.load(file, "lben-conv-lip", gamma=1.0)
    checkpoint(file, lip=True)
    with pytest.raises(InputError, match="needs its gamma"):
        interop.load(file, "lben-conv-lip")
    with pytest.raises(InputError, match="channels"):
        interop.load(file, "lben-conv-lip", gamma=1.0, data_name="cifar10")
    with pytest.raises(FormatError, match="is not of kind"):
        interop.load(file, "lben-conv")
