"""IDX files: what is written comes back, and nothing damaged, altered or hostile does."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equilip.data import idx
from equilip.errors import DataError


def encode(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def images() -> np.ndarray:
    return np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


@pytest.mark.parametrize("packed", [False, True])
def test_round_trip(tmp_path: Path, images: np.ndarray, packed: bool) -> None:
    content = encode(images)
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(content) if packed else content)
    md5 = hashlib.md5(content).hexdigest()
    np.testing.assert_array_equal(idx.read(path, md5=md5), images)


@given(
    cut=st.integers(min_value=0, max_value=75),
)
def test_every_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    content = encode(np.arange(60, dtype=np.uint8).reshape(5, 4, 3))
    path = tmp_path_factory.mktemp("cut") / "x"
    path.write_bytes(content[:cut])
    with pytest.raises(DataError, match=str(path)):
        idx.read(path)


def test_truncated_gzip_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(encode(images))[:-9])
    with pytest.raises(DataError, match=r"x\.gz is truncated or damaged"):
        idx.read(path)


def test_longer_than_the_header_says(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "x"
    path.write_bytes(encode(images) + b"!")
    with pytest.raises(DataError, match="holds more"):
        idx.read(path)


def test_altered_content_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    content = bytearray(encode(images))
    md5 = hashlib.md5(content).hexdigest()
    content[-1] ^= 1
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not MNIST's"):
        idx.read(path, md5=md5, title="MNIST")


def test_hostile_sizes_read_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes([0, 0, 8, 4]) + b"\xff" * 16)
    with pytest.raises(DataError, match="claims to hold"):
        idx.read(path)


@pytest.mark.parametrize("start", [b"", b"\0\0\x0d\x01", b"\0\0\x08\0", b"\0\0\x08\x05", b"PK\x03\x04"])
def test_not_idx(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(start + bytes(40))
    with pytest.raises(DataError):
        idx.read(path)


def test_not_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="truncated or damaged"):
        idx.read(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        idx.read(tmp_path / "x")
