"""Run directories: what is written is read back; what does not belong together, or is of another version, is
refused with the reason."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from equilip import data
from equilip import form as forms
from equilip.cli import main
from equilip.errors import ConfigError, FormatError
from equilip.train import TrainConfig, load_form, load_run, runs, train
from equilip.train.models import ModelConfig

TINY = {"limit": 40, "width": 6, "epochs": 1, "batch": 20}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TrainConfig(gamma=1.0, **TINY), tmp_path_factory.mktemp("runs") / "a")[0]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained run, to be damaged."""
    copy = tmp_path / "run"
    copy.mkdir()
    for file in trained.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(gamma=1.0, **TINY),
        TrainConfig(**TINY, dtype="float64"),
        TrainConfig(model="monotone", m=0.5, activation="tanh", **TINY),
        TrainConfig(model="feedforward", **TINY),
    ],
    ids=["lben", "lben-unbounded", "monotone", "feedforward"],
)
def test_a_run_is_read_back_as_it_was(config: TrainConfig, tmp_path: Path) -> None:
    path, model = train(config, tmp_path / "run")
    read, again = load_run(path)
    assert read.train == config
    assert read.data == "digits"
    assert read.versions["torch"] == torch.__version__
    assert not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    x = data.load("digits", limit=5).test_x.to(next(again.parameters()).dtype)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    assert load_form(path).sha256 == model.form().detach().sha256 == runs.stored_sha256(path)
    assert {file.name for file in path.iterdir()} == {
        "config.toml",
        "model.safetensors",
        "form.safetensors",
        "metrics.jsonl",
    }
    assert len((path / "metrics.jsonl").read_text().splitlines()) == config.epochs


def test_a_run_can_be_repeated_from_its_configuration(trained: Path, tmp_path: Path) -> None:
    values = runs.read_train_values(trained / "config.toml")
    again, _ = train(TrainConfig(**values), tmp_path / "again")
    assert runs.stored_sha256(again) == runs.stored_sha256(trained)


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none is not a run directory: it does not exist"):
        load_run(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"it has no config\.toml"):
        load_run(tmp_path)


def test_another_version(run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace(runs.FORMAT, "equilip.run/9"))
    with pytest.raises(ConfigError, match=r"is of format 'equilip\.run/9'; this version of equilip reads"):
        load_run(run)


def test_another_version_of_the_model_file(run: Path) -> None:
    state = safetensors.torch.load_file(run / "model.safetensors")
    header = json.dumps({"format": "equilip.model/9", "form": ""})
    safetensors.torch.save_file(state, run / "model.safetensors", metadata={"equilip": header})
    with pytest.raises(FormatError, match=r"has format 'equilip\.model/9'"):
        load_run(run)


def test_form_of_another_model(run: Path, tmp_path: Path) -> None:
    other, _ = train(TrainConfig(gamma=1.0, seed=1, **TINY), tmp_path / "other")
    (run / "form.safetensors").write_bytes((other / "form.safetensors").read_bytes())
    for load in (load_run, load_form):
        with pytest.raises(FormatError, match=r"form\.safetensors is not the form of model\.safetensors"):
            load(run)


def test_configuration_of_another_width(run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("hidden = [6]", "hidden = [7]"))
    with pytest.raises(FormatError, match=r"describes 64 inputs, 7 neurons and 10 outputs, the form has 64, 6"):
        load_run(run)


def test_configuration_of_another_model(run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('kind = "lben"', 'kind = "monotone"'))
    with pytest.raises(FormatError, match=r"does not fit config\.toml"):
        load_run(run)


@pytest.mark.parametrize("name", ["model.safetensors", "form.safetensors"])
def test_truncated_files(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    for end in (0, 7, 50, len(whole) // 2, len(whole) - 1):
        (run / name).write_bytes(whole[:end])
        with pytest.raises(FormatError, match=name):
            load_run(run)


@pytest.mark.parametrize("name", ["model.safetensors", "form.safetensors"])
def test_unfinished(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(ConfigError, match=f"has no {name}: the training did not finish"):
        load_run(run)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width = 6", "wdith = 6", r"\[train\]: unknown key 'wdith'; did you mean 'width'"),
        ("[versions]", "[vresions]", "unknown table 'vresions'"),
        ("hidden = [6]", "hidden = 6", r"\[model\]: hidden is 6; expected a list"),
        ('kind = "lben"', 'kind = "lbne"', "unknown kind of model 'lbne'; did you mean 'lben'"),
        ("in_features = 64", "", r"\[model\]: lacks in_features$"),
        ("[model]", "[[model]]", r"expected a table"),
        ("[versions]", "[[versions]]", r"versions is .*expected a table"),
    ],
)
def test_configuration_with_a_mistake(run: Path, old: str, new: str, message: str) -> None:
    text = (run / "config.toml").read_text()
    assert old in text
    (run / "config.toml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_run(run)


def test_nan_in_the_weights(run: Path) -> None:
    form = (run / "form.safetensors").read_bytes()
    tensors = safetensors.torch.load(form)
    tensors["W"][0, 0] = torch.nan
    with safetensors.safe_open(run / "form.safetensors", framework="pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(tensors, run / "form.safetensors", metadata=metadata)
    with pytest.raises(FormatError, match="tensor W is not all finite"):
        load_form(run)


def test_prepare_refuses_what_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.jsonl").write_text("old")
    with pytest.raises(ConfigError, match="is not empty; choose another --out, or say --overwrite"):
        runs.prepare(tmp_path)
    runs.prepare(tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"], "only artefacts are removed"


def test_prepare_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to .*choose another --out"):
        runs.prepare(tmp_path / "file" / "run")


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "model.safetensors"))

    arguments = ["train", "--limit", "40", "--width", "6", "--epochs", "1", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(runs, "write_model", full)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"equilip: {tmp_path / 'model.safetensors'}: No space left on device; nothing was left half")
    with pytest.raises(ConfigError, match="the training did not finish"):
        load_run(tmp_path / "run")


def test_explicit_models_are_made_from_their_form(tmp_path: Path) -> None:
    from equilip import nn

    torch.manual_seed(0)
    form = forms.dense(0.1 * torch.randn(4, 4), torch.randn(4, 3), torch.randn(4), torch.randn(2, 4), torch.randn(2))
    model = nn.Explicit(form)
    shape = ModelConfig("explicit", 3, (4,), 2)
    path = runs.prepare(tmp_path / "run")
    runs.write_config(path, runs.RunConfig(model=shape))
    runs.write_model(path, model)
    config, again = load_run(path)
    assert config.data is None
    assert again.form().detach().sha256 == form.sha256


def test_results_name_their_form(run: Path) -> None:
    runs.write_result(run, "evaluation", {"n": 3}, "abc")
    assert json.loads((run / "evaluation.json").read_text()) == {
        "format": "equilip.evaluation/1",
        "form": "abc",
        "n": 3,
    }
