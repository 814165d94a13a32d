"""Data sets: digits are always the same; MNIST and Fashion-MNIST are what their checksums name."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equilip import data
from equilip.data import catalogue, places
from equilip.data.catalogue import IdxFile, IdxSource
from equilip.errors import DataError, InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def content(shape: tuple[int, ...], seed: int, below: int) -> bytes:
    entries = np.random.RandomState(seed).randint(0, below, size=shape).astype(np.uint8)
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + entries.tobytes()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[IdxSource, Path]:
    """A tiny stand-in for MNIST, its four gzipped files in a folder that plays the mirror."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    files = {}
    for seed, (part, shape, below) in enumerate(
        [
            ("train_images", (12, 28, 28), 256),
            ("train_labels", (12,), 10),
            ("test_images", (6, 28, 28), 256),
            ("test_labels", (6,), 10),
        ]
    ):
        plain = content(shape, seed, below)
        name = getattr(catalogue.IDX["mnist"], part).name
        packed = gzip.compress(plain)
        (folder / f"{name}.gz").write_bytes(packed)
        files[part] = IdxFile(name, shape, hashlib.sha256(packed).hexdigest(), hashlib.md5(plain).hexdigest())
    source = replace(catalogue.IDX["mnist"], mirrors=("https://first.invalid/", "https://second.invalid/"), **files)
    monkeypatch.setitem(catalogue.IDX, "mnist", source)
    monkeypatch.setattr(places, "cache", lambda: tmp_path / "cache")
    return source, folder


class Mirror:
    """Stands for the network: serves a folder, fails where told to, and counts what is asked of it."""

    def __init__(self, folder: Path, broken: str = "nothing") -> None:
        self.folder, self.broken, self.asked = folder, broken, []

    def __call__(self, url: str, output: Any, pooch: Any) -> None:
        self.asked.append(url)
        if self.broken in url:
            raise ConnectionError("no route to host")
        shutil.copy(self.folder / url.rsplit("/", 1)[1], output)


def test_digits_are_complete_and_always_the_same() -> None:
    digits = data.load("digits")
    again = data.load("digits")
    assert len(digits.train_y) + len(digits.test_y) == 1797
    assert digits.in_features == 64
    assert digits.classes == 10
    assert torch.equal(digits.train_x, again.train_x)
    assert 0.0 <= float(digits.train_x.min()) <= float(digits.train_x.max()) <= 1.0
    share = digits.test_y.bincount() / (digits.test_y.bincount() + digits.train_y.bincount())
    assert bool(((share > 0.19) & (share < 0.21)).all())
    # Pinned: a run that somebody repeats must see the same split.
    digest = hashlib.sha256(digits.train_x.numpy().tobytes() + digits.test_y.numpy().tobytes()).hexdigest()
    assert digest == "6a67d76e5be1c476b16d9edce93e3948559efa15356e397ef7fb777b200bd2f6"


def test_standardisation_makes_the_training_data_standard() -> None:
    digits = data.load("digits")
    assert digits.standardisation is not None
    xi = digits.standardisation.apply(digits.train_x)
    assert abs(float(xi.mean())) < 1e-3
    assert abs(float(xi.std()) - 1) < 1e-3


def test_limit_keeps_the_first_of_each_part() -> None:
    digits = data.load("digits", limit=7)
    assert digits.train_x.shape == (7, 64)
    assert digits.test_y.shape == (7,)
    with pytest.raises(InputError, match="at least 1"):
        data.load("digits", limit=0)


def test_unknown_name() -> None:
    with pytest.raises(DataError, match="'mnsit'; choose one of digits, mnist"):
        data.load("mnsit")


def test_dataset_refuses_what_does_not_fit() -> None:
    good = data.load("digits", limit=5)
    with pytest.raises(InputError, match="shapes"):
        replace(good, train_x=good.train_x[:, 1:])
    with pytest.raises(InputError, match="float32"):
        replace(good, train_x=good.train_x.double())
    with pytest.raises(InputError, match="NaN"):
        replace(good, test_x=good.test_x * torch.nan)
    with pytest.raises(InputError, match="labels of digits run from"):
        replace(good, test_y=good.test_y + 9)


def test_download_takes_the_next_mirror_and_keeps_what_arrived(published: tuple[IdxSource, Path]) -> None:
    _, folder = published
    mirror = Mirror(folder, broken="first")
    loaded = data.load("mnist", downloader=mirror)
    assert loaded.train_x.shape == (12, 784)
    assert len(mirror.asked) == 8
    data.load("mnist", downloader=mirror)
    assert len(mirror.asked) == 8, "the second load must come from the cache"


def test_download_without_network_says_so(published: tuple[IdxSource, Path]) -> None:
    with pytest.raises(DataError, match=r"could not download train-images.*--data-dir"):
        data.load("mnist", downloader=Mirror(published[1], broken="invalid"))


def test_download_of_something_else_is_not_kept(published: tuple[IdxSource, Path], tmp_path: Path) -> None:
    _, folder = published
    name = "train-images-idx3-ubyte.gz"
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(DataError, match="wrong checksum"):
        data.load("mnist", downloader=Mirror(folder))
    assert not (tmp_path / "cache" / "mnist" / name).exists()


@pytest.mark.parametrize("below", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_data_dir_finds_the_usual_layouts(
    published: tuple[IdxSource, Path], tmp_path: Path, below: str, packed: bool
) -> None:
    source, folder = published
    place = tmp_path / "mine" / below
    place.mkdir(parents=True)
    for file in source.parts:
        content = (folder / f"{file.name}.gz").read_bytes()
        if packed:
            (place / f"{file.name}.gz").write_bytes(content)
        else:
            (place / file.name).write_bytes(gzip.decompress(content))
    loaded = data.load("mnist", tmp_path / "mine")
    assert loaded.test_x.shape == (6, 784)
    assert float(loaded.test_x.max()) <= 1.0


def test_data_dir_without_files(published: tuple[IdxSource, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"lacks train-images-idx3-ubyte, .* of MNIST"):
        data.load("mnist", tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist; check --data-dir"):
        data.load("mnist", tmp_path / "nowhere")


def test_data_dir_names_only_what_is_missing(published: tuple[IdxSource, Path]) -> None:
    source, folder = published
    (folder / f"{source.test_labels.name}.gz").unlink()
    with pytest.raises(DataError, match=r"lacks t10k-labels-idx1-ubyte \(or"):
        data.load("mnist", folder)


def test_data_dir_with_an_altered_file(published: tuple[IdxSource, Path]) -> None:
    source, folder = published
    path = folder / f"{source.train_labels.name}.gz"
    plain = bytearray(gzip.decompress(path.read_bytes()))
    plain[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(plain)))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz is not MNIST's"):
        data.load("mnist", folder)


def test_the_published_mnist() -> None:
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"{SHARED / 'mnist'} is not there")
    mnist = data.load("mnist", SHARED)
    assert mnist.train_x.shape == (60000, 784)
    assert mnist.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    assert abs(float(mnist.train_x.mean()) - 0.1307) < 1e-4


def test_mnist_is_not_taken_for_fashion_mnist() -> None:
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"{SHARED / 'mnist'} is not there")
    with pytest.raises(DataError, match="is not Fashion-MNIST's"):
        data.load("fashion-mnist", SHARED / "mnist")
