"""Files of convolutional forms, and wirings that their proof does not cover."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from equilip import form as forms
from equilip import wiring
from equilip.errors import FormatError, InputError
from equilip.form import Form, Standardisation
from equilip.nn import ChannelMetric, FullMetric, IdentityMetric, ImageMetric, LBENConv, PixelMetric
from equilip.operators import Circular, Dense, InputLayer, Padding, Plain, Product, Recurrence, Weighted, Zeros


def make(
    metric: PixelMetric, padding: Padding, layer: type[InputLayer], gamma: float | None, dtype: torch.dtype
) -> LBENConv:
    generator = torch.Generator().manual_seed(0)
    standardisation = Standardisation(torch.full((32,), 0.1), torch.full((32,), 0.3)) if gamma else None
    model = LBENConv(
        (2, 4, 4), 3, 2, gamma, metric=metric, padding=padding, pool=3, pool_padding=1, input_layer=layer, dtype=dtype,
        standardisation=standardisation, generator=generator,
    )  # fmt: skip
    with torch.no_grad():
        if model.psi is not None:
            model.psi.normal_(generator=generator)
    return model


@pytest.mark.parametrize("metric", [FullMetric(), ChannelMetric(), ImageMetric(), IdentityMetric()])
@pytest.mark.parametrize("padding", [Zeros(0), Circular(0)])
@pytest.mark.parametrize(("layer", "gamma"), [(Weighted, 0.3), (Plain, 1.5), (Plain, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_holds_the_network(
    tmp_path: Path,
    metric: PixelMetric,
    padding: Padding,
    layer: type[InputLayer],
    gamma: float | None,
    dtype: torch.dtype,
) -> None:
    form = make(metric, padding, layer, gamma, dtype).form().detach()
    digest = form.save(tmp_path / "f")
    again = forms.load(tmp_path / "f")
    assert again.sha256 == digest == form.sha256
    x = torch.randn(2, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.W.apply(again.bias(again.standardise(x))), form.W.apply(form.bias(form.standardise(x))))
    # A cast keeps the numbers, so the proof covers the network that is solved in float64.
    wide = form.to(torch.float64)
    assert wiring.parts(wide).gamma == gamma
    assert torch.equal(wide.W.to(dtype, None).tensors[1], form.W.tensors[1])


def form() -> Form:
    return make(FullMetric(), Zeros(0), Weighted, 1.0, torch.float64).form().detach()


def test_wirings_that_the_proof_does_not_cover_are_refused() -> None:
    found = form()
    wired = wiring.parts(found)
    other_kernel = replace(wired, U=wired.U * 1.5)
    other_head = replace(wired, C=wired.C * 1.5)
    louder = wiring.form_of(other_kernel, found)
    circular = wiring.form_of(replace(wired, padding=Circular(0)), found)
    plain = wiring.form_of(replace(wired, layer=Plain), found)
    for U in (louder.U, circular.U, plain.U, Dense(found.U.dense())):
        with pytest.raises(InputError):
            replace(found, U=U).save("nowhere")
    head = wiring.form_of(other_head, found)
    for C in (head.C, Dense(found.C.dense()), Product(Dense(torch.eye(2, dtype=torch.float64)), found.C)):
        with pytest.raises(InputError):
            replace(found, C=C).sha256  # noqa: B018
    with pytest.raises(InputError):
        replace(found, D=Dense(torch.zeros(2, 32, dtype=torch.float64))).to_bytes()
    assert isinstance(found.W, Recurrence)
    without = replace(found, W=replace(found.W, ends=None))
    assert wiring.parts(without).gamma is None
    with pytest.raises(InputError):
        wiring.parts(forms.affine(torch.eye(2), torch.zeros(2)))


def edit(path: Path, change: object) -> None:
    """Write the file again with a change to its metadata or tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = file.metadata()["equilip"]
    text, tensors = change(text, tensors)  # type: ignore[operator]
    safetensors.torch.save_file(tensors, path, metadata={"equilip": text})


@pytest.mark.parametrize(
    "change",
    [
        lambda text, t: (text.replace('"zeros"', '"reflect"'), t),
        lambda text, t: (text.replace('"weighted"', '"louder"'), t),
        lambda text, t: (text.replace('"pool":3', '"pool":4'), t),
        lambda text, t: (text.replace('"pool":3', '"pool":-3'), t),
        lambda text, t: (text.replace("[3,4,4]", "[3,4]"), t),
        lambda text, t: (text.replace("[3,4,4]", "[3,4,5]"), t),
        lambda text, t: (text.replace('"convolutional"', '"dense"'), t),
        lambda text, t: (text.replace("0x1.0000000000000p+0", "-0x1.0000000000000p+0"), t),
        lambda text, t: (text.replace("0x1.0000000000000p+0", "nan"), t),
        lambda text, t: (text, {**t, "lam": -t["lam"]}),
        lambda text, t: (text, {**t, "lam": t["lam"].flatten()}),
        lambda text, t: (text, {**t, "A": t["A"] * torch.inf}),
        lambda text, t: (text, {**t, "b": t["b"][:3]}),
        lambda text, t: (text, {**t, "W": t["A"].clone()}),
        lambda text, t: (text, {k: v for k, v in t.items() if k != "B"}),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: object) -> None:
    form().save(tmp_path / "f")
    edit(tmp_path / "f", change)
    with pytest.raises(FormatError):
        forms.load(tmp_path / "f")
