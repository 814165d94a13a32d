"""The convolutional experiments: the paper's networks, the authors' figures, and a whole pass over made-up images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from equilip import checker, interop
from equilip.cli import main
from equilip.data import Dataset, known
from equilip.data.catalogue import SVHN, MatFile
from equilip.nn import LBENConv
from equilip.paper import EXPERIMENTS
from equilip.paper.charts import errors_over_slopes
from equilip.paper.page import account, markdown
from equilip.paper.results import collect
from equilip.paper.work import carry_out
from equilip.train.models import build, describe

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "lben"
needs_shared = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"{REFERENCE} is not there")

FILES = {
    "full-1": "cifar_conv_full_w81_lip1.0",
    "identity-5": "cifar_conv_identity_w81_lip5.0",
    "full": "cifar_conv_full_w81",
    "dense-1": "cifar_fc_lip1.0_w80",
}


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny stand-in for SVHN: files of the published layout with 24 images of noise each."""
    folder = tmp_path / "data"
    folder.mkdir()
    draw = np.random.RandomState(0)
    files = {}
    for part, name in (("train", SVHN.train.name), ("test", SVHN.test.name)):
        images = draw.randint(0, 256, size=(32, 32, 3, 24)).astype(np.uint8)
        labels = (np.arange(24) % 10 + 1).astype(np.uint8)[:, None]
        scipy.io.savemat(folder / name, {"X": images, "y": labels})
        content = (folder / name).read_bytes()
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        files[part] = MatFile(name, hashlib.sha256(content).hexdigest(), digest)
    monkeypatch.setattr(known, "SVHN", replace(SVHN, train=files["train"], test=files["test"]))
    return folder


@pytest.mark.parametrize("name", ["lben-cifar10", "lben-svhn"])
def test_the_networks_are_those_of_the_paper(name: str) -> None:
    whole = EXPERIMENTS[name]()
    convolutional = [network.config for network in whole.networks if network.config.model == "lben-conv"]
    bounded = [(config.metric, config.gamma) for config in convolutional if config.gamma is not None]
    assert bounded == [(m, g) for m in ("full", "identity") for g in (1.0, 2.0, 3.0, 5.0, 50.0)]
    assert len(convolutional) == len(bounded) + 1
    for config in convolutional:
        assert (config.width, config.epsilon, config.pool, config.kernel, config.limit) == (81, 0.1, 2, 3, None)
        # Where the multipliers differ from pixel to pixel, theirs would ask for a factorisation at every step.
        assert (config.layer == "weighted") == (config.metric == "full" and config.gamma is not None)
    (plain,) = (network.config for network in whole.networks if network.config.model == "feedforward-conv")
    assert (plain.width, plain.pool, plain.kernel) == (81, 2, 3)
    for network in whole.networks:
        config = network.config
        training = (config.epochs, config.batch, config.lr, config.schedule, config.step_epochs, config.shift)
        assert training == (25, 128, 1e-3, "step", 15, 0)
    assert len({network.name for network in whole.networks}) == len(whole.networks)
    assert {network.config.data for network in whole.networks} == {name.removeprefix("lben-")}


def test_quick_and_seed_change_what_they_say() -> None:
    whole, quick = EXPERIMENTS["lben-cifar10"](seed=3), EXPERIMENTS["lben-cifar10"](quick=True, limit=7)
    assert {network.name for network in quick.networks} < {network.name for network in whole.networks}
    assert {"full-1", "full-50", "identity-5", "full", "plain"} <= {network.name for network in quick.networks}
    assert {network.config.seed for network in whole.networks} == {3}
    assert {network.config.limit for network in quick.networks} == {7}
    assert quick.measures.sizes == whole.measures.sizes[::8]
    for experiment in (whole, quick):
        for network in experiment.networks:
            if network.published is not None and network.config.model == "lben-conv":
                assert len(network.published.fast_gradient_error) == len(experiment.measures.sizes)


def test_only_networks_like_the_published_ones_are_held_against_them() -> None:
    whole = {network.name: network.published for network in EXPERIMENTS["lben-cifar10"]().networks}
    differs = {name: published.differs for name, published in whole.items() if published is not None}
    assert {name for name, words in differs.items() if not words} == {"full"}
    assert "input layer" in differs["full-1"]
    for shortened in ({"quick": True}, {"limit": 100}):
        for network in EXPERIMENTS["lben-cifar10"](**shortened).networks:
            assert network.published is None or not network.published.alike


@needs_shared
@pytest.mark.parametrize("name", ["full-1", "identity-5", "full"])
def test_the_networks_are_like_the_published_ones_but_for_what_is_said(name: str) -> None:
    (network,) = (network for network in EXPERIMENTS["lben-cifar10"]().networks if network.name == name)
    images, labels = torch.zeros(1, 3 * 32 * 32), torch.zeros(1, dtype=torch.int64)
    data = Dataset("cifar10", images, labels, images, labels, 10, (3, 32, 32))
    ours = build(describe(network.config, data))
    kind = "lben-conv" if network.config.gamma is None else "lben-conv-lip"
    theirs = interop.load(REFERENCE / f"{FILES[name]}.params", kind, gamma=network.config.gamma)
    assert isinstance(ours, LBENConv)
    assert isinstance(theirs, LBENConv)
    names = ["shape", "hidden_shape", "kernel_size", "pool", "pool_padding", "metric", "epsilon", "gamma"]
    assert [getattr(ours, own) for own in names] == [getattr(theirs, own) for own in names]
    assert type(ours.padding) is type(theirs.padding)
    assert type(ours.activation) is type(theirs.activation)
    assert {own: tensor.shape for own, tensor in ours.named_parameters() if own != "psi"} == {
        own: tensor.shape for own, tensor in theirs.named_parameters() if own != "psi"
    }
    assert network.published is not None
    assert ("input layer is weighted" in network.published.differs) == (ours.input_layer is not theirs.input_layer)
    # Theirs start with norm 1.
    own = ours.log_u is not None and float(ours.log_u.detach()) != 0.0
    assert ("starts at other sizes" in network.published.differs) == own


def test_without_data_it_says_what_to_fetch_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--quick", "--jobs", "1", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["reproduce", "lben-svhn", *options]) == 2
    said = capsys.readouterr().err
    for name in ("train_32x32.mat", "test_32x32.mat"):
        assert f"http://ufldl.stanford.edu/housenumbers/{name}" in said
    assert str(tmp_path / "svhn") in said
    assert main(["reproduce", "lben-cifar10", *options]) == 2
    said = capsys.readouterr().err
    assert "data_batch_1.bin" in said
    assert "cifar-10-binary.tar.gz" in said


@needs_shared
def test_the_figures_are_the_authors() -> None:
    theirs = json.loads((REFERENCE / "published.json").read_text())
    experiment = EXPERIMENTS["lben-cifar10"]()
    published = {network.name: network.published for network in experiment.networks if network.published is not None}
    assert set(published) == set(FILES)
    for name, own in published.items():
        values = theirs[FILES[name]]
        assert own.test_error_percent == values["test_error_percent"]
        assert own.largest_slope == values["observed_lipschitz"]
        if name == "dense-1":
            continue
        # Their first step has the size 0, which is no attack.
        assert list(own.fast_gradient_error) == values["l2_fgm_error"][1:]
        assert list(experiment.measures.sizes) == values["l2_epsilon"][1:]
    assert {name: own.gamma for name, own in published.items()} == {
        "full-1": 1.0, "identity-5": 5.0, "full": None, "dense-1": 1.0,
    }  # fmt: skip


def test_a_whole_pass_over_made_up_images(svhn: Path, tmp_path: Path) -> None:
    whole = EXPERIMENTS["lben-svhn"](quick=True, limit=20)
    # Of more neurons than the slope's search forms matrices of.
    networks = tuple(
        replace(network, config=replace(network.config, width=3, epochs=1, batch=10, pool=4, pool_padding=0))
        for network in whole.networks
        if network.name in ("identity-5", "full")
    )
    few = whole.measures.sizes[:2]
    measures = replace(whole.measures, attacked=2, eps=(0.1,), sizes=few, stepped=4, starts=2, rounds=0)
    experiment = replace(whole, networks=networks, measures=measures)
    out = tmp_path / "out"
    carry_out(experiment, out, data_dir=svhn)
    bounded, other = collect(experiment, out)
    assert checker.check(out / "identity-5" / "certificate.json").valid
    assert bounded.proved is not None
    assert 0 < bounded.largest_slope <= bounded.proved <= 5.0
    assert other.proved is not None
    assert other.largest_slope <= other.proved
    assert not bounded.bugs
    assert bounded.error_reproduced is None
    assert errors_over_slopes([bounded, other]).startswith("<svg")
    assert "LBEN, identity, γ = 5" in markdown(account(experiment, out, "equilip reproduce lben-svhn"))
    heard: list[str] = []
    carry_out(experiment, out, data_dir=svhn, said=lambda network, text: heard.append(text))
    assert heard == []
