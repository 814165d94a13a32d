"""The user's own data: what is right is loaded as it is, and each usual mistake gets its sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equilip import data
from equilip.cli import main
from equilip.errors import DataError, InputError


def table(rows: int = 60, columns: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.RandomState(0)
    y = np.arange(rows) % classes
    return draw.randn(rows, columns) + 2.0 * y[:, None], y


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_table_is_divided_by_class_and_always_the_same(tmp_path: Path) -> None:
    X, y = table()
    loaded = data.load(f"npz:{saved(tmp_path / 'mine.npz', X=X, y=y)}")
    again = data.load("npz:mine.npz", tmp_path)
    assert torch.equal(loaded.train_x, again.train_x)
    assert loaded.shape == (1, 1, 4)
    assert not loaded.images
    assert loaded.classes == 3
    assert loaded.test_y.bincount().tolist() == [4, 4, 4]
    every = torch.cat([loaded.train_x, loaded.test_x])
    assert torch.equal(every.sort(0).values, torch.from_numpy(X.astype(np.float32)).sort(0).values)


def test_parts_stay_as_the_user_divided_them(tmp_path: Path) -> None:
    X, y = table()
    path = saved(tmp_path / "mine.npz", train_x=X[:50], train_y=y[:50], test_x=X[50:], test_y=y[50:])
    loaded = data.load(f"npz:{path}")
    assert torch.equal(loaded.test_x, torch.from_numpy(X[50:].astype(np.float32)))
    assert data.load(f"npz:{path}", limit=5).train_x.shape == (5, 4)


def test_standardised_training_columns_are_standard() -> None:
    X, y = table()
    X[:, 2] = 7.0
    loaded = data.from_arrays(X * [1, 10, 1, 0.1], y)
    assert loaded.standardisation is not None
    xi = loaded.standardisation.apply(loaded.train_x)
    assert torch.allclose(xi.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(xi.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0, 1.0]), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 5, 6), (1, 5, 6)), ((8, 3, 5, 6), (3, 5, 6)), ((8, 5, 6, 3), (3, 5, 6)), ((8, 1, 5, 6), (1, 5, 6))],
)
def test_bytes_of_images_become_pixels(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, size=shape).astype(np.uint8)
    y = np.arange(8) % 2
    loaded = data.from_arrays(pixels, y, pixels, y)
    assert loaded.shape == expected
    assert loaded.images
    first = pixels if shape[-1] != 3 else pixels.transpose(0, 3, 1, 2)
    assert torch.allclose(loaded.train_x, torch.from_numpy(first.reshape(8, -1).astype(np.float32)) / 255)
    assert loaded.standardisation is not None
    means = loaded.standardisation.mean.view(*expected)
    assert torch.equal(means, means[:, :1, :1].expand(expected)), "one mean per channel"


def test_tensors_and_column_labels_are_taken_too() -> None:
    X, y = table()
    loaded = data.from_arrays(torch.from_numpy(X), torch.from_numpy(y)[:, None])
    assert loaded.train_x.dtype == torch.float32


X, Y = table()
NAN = X.copy()
NAN[5, 2] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((NAN, Y), r"X holds 1 NaN or infinite number, the first in row 5, column 2; fill them in or drop"),
        (
            (X, np.array(["cat", "dog", "cow"])[Y]),
            r"y holds text \(cat\); labels are whole numbers from 0: encode them",
        ),
        ((X, Y.astype(object)), r"y holds text"),
        ((X, Y.astype(float)), r"convert with y\.astype\(int\)"),
        ((X, Y + 1), r"labels run from 1 to 3 with 3 different ones; number the classes from 0 to 2"),
        ((X, Y * 2), r"labels run from 0 to 4 with 3 different ones"),
        ((X, Y * 0), r"the one label 0; a classifier needs two"),
        ((X, Y[:-1]), r"y has shape \(59,\); expected one label for each of the 60 samples"),
        ((X.astype(str), Y), r"X holds text .* every column must be a number"),
        ((X[:, 0], Y), r"reshape it"),
        ((X[:, :0], Y), r"X has shape \(60, 0\)"),
        ((X * 1e300, Y), r"beyond the range of float32"),
        ((X, Y, X[:, :3], Y), r"samples have 4 columns in the training part and 3 columns in the test part"),
        ((X, Y, X, Y + 1), r"the test part has the label 3, the training part none above 2"),
        ((X, Y, X), r"a test part needs both"),
        ((X[:3], Y[:3]), r"3 samples are too few to hold out"),
        (([[1.0, 2.0], [3.0]], [0, 1]), r"X is no array"),
    ],
)
def test_mistakes(arrays: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.from_arrays(*arrays)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            data.load(f"npz:{path}")
        return str(caught.value)

    assert "does not exist; check the path behind npz:" in said(tmp_path / "none.npz")
    assert "lacks y; it holds X, z" in said(saved(tmp_path / "a.npz", X=X, z=Y))
    assert "lacks test_x, test_y" in said(saved(tmp_path / "b.npz", train_x=X, train_y=Y))
    assert "holds Python objects (labels as text" in said(saved(tmp_path / "c.npz", X=X, y=Y.astype(object)))
    assert "d.npz: X holds 1 NaN" in said(saved(tmp_path / "d.npz", X=NAN, y=Y))
    np.save(tmp_path / "e.npy", X)
    assert "holds one array" in said(tmp_path / "e.npy")
    whole = saved(tmp_path / "f.npz", X=X, y=Y).read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 3):
        (tmp_path / "f.npz").write_bytes(whole[:end])
        assert "f.npz" in said(tmp_path / "f.npz")
    altered = bytearray(whole)
    altered[200] ^= 1
    (tmp_path / "f.npz").write_bytes(altered)
    assert "damaged" in said(tmp_path / "f.npz")


def test_train_and_evaluate_on_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "mine.npz", X=X, y=Y)
    out = str(tmp_path / "run")
    arguments = ["train", "--data", f"npz:{path}", "--gamma", "2", "--width", "8", "--epochs", "2", "--out", out]
    assert main(arguments) == 0
    assert main(["evaluate", out]) == 0
    assert main([*arguments[:-1], out + "2", "--shift", "1"]) == 2
    assert "shift moves images" in capsys.readouterr().err
    assert not Path(out + "2").exists()
