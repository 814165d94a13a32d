"""What can go wrong with files of data beyond what the other tests break: each says which file, and what to do."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equilip import data
from equilip.data import idx, known, mat, places, records
from equilip.data.catalogue import CIFAR10, Download
from equilip.errors import DataError


@pytest.mark.parametrize(
    "read",
    [
        lambda path: idx.read(path),
        lambda path: mat.read(path, md5="0", title="SVHN"),
        lambda path: records.read(path, records=1, pixels=3, classes=10),
    ],
    ids=["idx", "mat", "records"],
)
def test_a_folder_in_place_of_a_file(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} cannot be read: Is a directory"):
        read(tmp_path)


def test_gzipped_records_that_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.bin.gz"
    whole = gzip.compress(bytes([1, 2, 3, 4]))
    path.write_bytes(whole)
    assert records.read(path, records=1, pixels=3, classes=10)[1].tolist() == [1]
    path.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"x\.bin\.gz is truncated or damaged .*; delete it and fetch it again"):
        records.read(path, records=1, pixels=3, classes=10)


def archive(files: list[str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name in files:
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = 4000
            tar.addfile(entry, io.BytesIO(np.random.RandomState(0).bytes(4000)))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(list(CIFAR10.files))[:-3000], r"is truncated or damaged \(.*\); delete it and fetch it again"),
        (archive([CIFAR10.test]), r"lacks data_batch_1\.bin, .* of CIFAR-10; delete it and fetch it again"),
    ],
    ids=["cut", "incomplete"],
)
def test_an_archive_that_holds_less(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(CIFAR10, archive=Download(CIFAR10.archive.name, hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr(known, "CIFAR10", source)
    monkeypatch.setattr(places, "cache", lambda: tmp_path)
    with pytest.raises(DataError) as caught:
        data.load("cifar10", downloader=lambda url, output, _: Path(output).write_bytes(content))
    assert re.search(message, str(caught.value))
    assert str(tmp_path / "cifar10" / CIFAR10.archive.name) in str(caught.value)
    assert not [path for path in (tmp_path / "cifar10").iterdir() if path.name.startswith(".")], "nothing half-written"


def test_a_file_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CIFAR10.files:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(known, "present", lambda folder, name: None)
    with pytest.raises(DataError, match=r"data_batch_1\.bin vanished while it was about to be read"):
        data.load("cifar10", tmp_path)


def test_an_array_within_a_file_that_is_damaged(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive_:
        for name in ("X.npy", "y.npy"):
            archive_.writestr(name, b"\x93NUMPY\x01\x00\x02\x00xx")
    with pytest.raises(DataError, match=r"x\.npz is not a file of numpy\.savez.*write one with numpy\.savez"):
        data.load(f"npz:{tmp_path / 'x.npz'}")


def test_names_that_the_room_does_not_have() -> None:
    with pytest.raises(AttributeError, match=r"module 'equilip\.data' has no attribute 'laod'"):
        data.laod  # noqa: B018
