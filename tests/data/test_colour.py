"""CIFAR-10 and SVHN: files as they are published, made small, and what is refused."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from equilip import data
from equilip.data import known, places
from equilip.data.catalogue import CIFAR10, SVHN, Download, MatFile
from equilip.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def serve(folder: Path) -> Any:
    return lambda url, output, _: shutil.copy(folder / url.rsplit("/", 1)[1], output)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny stand-in for CIFAR-10: 20 records in each file, and the archive of them on a mirror."""
    folder = tmp_path / "mirror" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    draw = np.random.RandomState(0)
    for name in CIFAR10.files:
        pixels = draw.randint(0, 256, size=(20, 3072)).astype(np.uint8)
        labels = draw.permutation(20) % 10
        (folder / name).write_bytes(np.concatenate([labels[:, None].astype(np.uint8), pixels], 1).tobytes())
    archive = folder.parent / CIFAR10.archive.name
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-bin")
        hostile = tarfile.TarInfo("../escaped")
        tar.addfile(hostile, io.BytesIO())
    small = replace(
        CIFAR10,
        records=20,
        per_class=(10, 2),
        archive=Download(archive.name, hashlib.sha256(archive.read_bytes()).hexdigest()),
    )
    monkeypatch.setattr(known, "CIFAR10", small)
    monkeypatch.setattr(places, "cache", lambda: tmp_path / "cache")
    return folder


def test_cifar(cifar: Path) -> None:
    loaded = data.load("cifar10", cifar.parent)
    assert loaded.train_x.shape == (100, 3072)
    assert loaded.shape == (3, 32, 32)
    first = np.frombuffer((cifar / "data_batch_1.bin").read_bytes()[:3073], np.uint8)
    assert int(loaded.train_y[0]) == first[0]
    np.testing.assert_allclose(loaded.train_x[0].numpy(), first[1:] / np.float32(255))
    assert loaded.standardisation is not None
    assert loaded.standardisation.mean[::1024].tolist() == pytest.approx([0.4914, 0.4822, 0.4465])


def test_cifar_is_downloaded_and_unpacked(cifar: Path, tmp_path: Path) -> None:
    loaded = data.load("cifar10", downloader=serve(cifar.parent))
    assert loaded.test_x.shape == (20, 3072)
    files = {file.name for file in (tmp_path / "cache" / "cifar10").iterdir()}
    assert files == set(CIFAR10.files), "the archive is removed, and nothing else of it is unpacked"
    assert not (tmp_path / "cache" / "escaped").exists()
    data.load("cifar10", downloader=lambda *_: pytest.fail("the second load must come from the cache"))


def test_cifar_that_is_not_whole(cifar: Path) -> None:
    file = cifar / "data_batch_3.bin"
    whole = file.read_bytes()
    for content in (whole[:-1], whole + b"!", b""):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"data_batch_3\.bin is not whole"):
            data.load("cifar10", cifar)
    file.write_bytes(bytes([11]) + whole[1:])
    with pytest.raises(DataError, match="the label of record 1 is 11, above 9"):
        data.load("cifar10", cifar)
    file.write_bytes(bytes([(whole[0] + 1) % 10]) + whole[1:])
    with pytest.raises(DataError, match=r"are altered: class . has .* samples, not 10"):
        data.load("cifar10", cifar)
    file.unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3\.bin"):
        data.load("cifar10", cifar)


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    draw = np.random.RandomState(0)
    parts = {}
    for part, count in (("train", 30), ("test", 12)):
        file = folder / getattr(SVHN, part).name
        labels = (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)
        images = draw.randint(0, 256, size=(32, 32, 3, count)).astype(np.uint8)
        scipy.io.savemat(file, {"X": images, "y": labels}, do_compression=True)
        content = file.read_bytes()
        parts[part] = MatFile(file.name, hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest())
    monkeypatch.setattr(known, "SVHN", replace(SVHN, **parts))
    monkeypatch.setattr(places, "cache", lambda: tmp_path / "cache")
    return folder


@pytest.mark.parametrize("downloaded", [False, True])
def test_svhn(svhn: Path, downloaded: bool) -> None:
    loaded = data.load("svhn", downloader=serve(svhn)) if downloaded else data.load("svhn", svhn)
    images = scipy.io.loadmat(svhn / "train_32x32.mat")["X"]
    assert loaded.train_x.shape == (30, 3072)
    assert loaded.train_y[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1], "the digit 0 is stored as 10"
    np.testing.assert_allclose(
        loaded.train_x[4].view(3, 32, 32).numpy(), images[:, :, :, 4].transpose(2, 0, 1) / np.float32(255)
    )
    assert loaded.test_x.shape == (12, 3072)


def test_svhn_altered_or_truncated(svhn: Path) -> None:
    file = svhn / "test_32x32.mat"
    whole = file.read_bytes()
    for content in (whole[:-5], whole[:-1] + b"!"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"test_32x32\.mat is not SVHN's, or it is truncated"):
            data.load("svhn", svhn)


@pytest.mark.slow
def test_the_shared_cifar(tmp_path: Path) -> None:
    script = SHARED / "cifar10" / "unpack.py"
    if not script.is_file():
        pytest.skip(f"{script} is not there")
    pytest.importorskip("PIL")
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    loaded = data.load("cifar10", tmp_path)
    assert loaded.train_x.shape == (50000, 3072)
    assert loaded.train_x.view(-1, 3, 1024).mean((0, 2)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
