"""Reading IDX files, plain or gzipped, without trusting a single number in them.

An IDX file is two zero bytes, a type (8: unsigned bytes), the number of dimensions, each dimension as a
big-endian 32-bit number, then the entries.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from equilip.errors import DataError

#: Entries that a file may claim before anything is read for it.
LARGEST = 1 << 30


def read(path: Path, *, md5: str | None = None, title: str = "the data set") -> NDArray[np.uint8]:
    """The array in the file, of the shape its header names.

    ``md5`` is what the uncompressed content must have. DataError, naming the file, when it is missing,
    truncated, longer than its header says, larger than :data:`LARGEST`, or not what ``md5`` names.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            header, shape = _header(stream, path)
            size = math.prod(shape)
            content = stream.read(size + 1)  # one more, to see whether anything follows
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); delete it and fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) != size:
        more = "more" if len(content) > size else f"only {len(content)}"
        raise DataError(f"{path} is not whole: its header names {size} entries, it holds {more}")
    if md5 is not None:
        found = hashlib.md5(header + content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(
                f"{path} is not {title}'s: its content has md5 {found}, not {md5}; delete it and fetch the original"
            )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _header(stream: _Stream, path: Path) -> tuple[bytes, tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != 8 or not 1 <= magic[3] <= 4:
        raise DataError(f"{path} is not an IDX file of unsigned bytes")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} is truncated within its header; delete it and fetch it again")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    if math.prod(shape) > LARGEST:
        raise DataError(f"{path} claims to hold {math.prod(shape)} entries; no more than {LARGEST} are read")
    return magic + sizes, shape
