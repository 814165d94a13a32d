"""Where the files of a published data set are: in the folder the user names, or in the cache, fetched if need be."""

from __future__ import annotations

import os
import tarfile
import zlib
from pathlib import Path

from equilip.data.catalogue import RecordSource, Source
from equilip.data.download import Downloader, cache, fetch
from equilip.errors import DataError
from equilip.form import write_whole


def locate(
    source: Source, data_dir: str | os.PathLike[str] | None, progress: bool, downloader: Downloader | None
) -> Path:
    """The folder that holds every file of ``source``.

    With ``data_dir`` nothing is downloaded. DataError names what is missing, or says why it could not be fetched.
    """
    if data_dir is not None:
        return _find(Path(data_dir), source)
    folder = cache() / source.name
    if not _complete(folder, source):
        fetch(source, folder, progress=progress, downloader=downloader)
        if isinstance(source, RecordSource):
            _unpack(folder / source.archive.name, source, folder)
    return folder


def present(folder: Path, name: str) -> Path | None:
    """The file of that name, or the same gzipped."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _complete(folder: Path, source: Source) -> bool:
    return all(present(folder, name) is not None for name in source.files)


def _find(data_dir: Path, source: Source) -> Path:
    if not data_dir.is_dir():
        raise DataError(f"the data directory {data_dir} does not exist; check --data-dir")
    folders = [data_dir / folder for folder in source.folders]
    for folder in folders:
        if _complete(folder, source):
            return folder
    started = max(folders, key=lambda folder: sum(present(folder, name) is not None for name in source.files))
    missing = [name for name in source.files if present(started, name) is None]
    place = started if len(missing) < len(source.files) else data_dir
    # What is not offered by its own name is packed into what is.
    offered = [file.name for file in source.downloads if file.name.removesuffix(".gz") in missing]
    addresses = [source.mirrors[0] + name for name in offered or [file.name for file in source.downloads]]
    raise DataError(
        f"{place} lacks {', '.join(missing)} (or the same with .gz) of {source.title}; "
        f"put them there or in {data_dir / source.folders[0]} (from {', '.join(addresses)}), "
        "or leave out --data-dir to download them"
    )


def _unpack(archive: Path, source: RecordSource, folder: Path) -> None:
    """The files of the data set out of its archive, by name; nothing else in it is looked at."""
    wanted = set(source.files)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in wanted and (stream := tar.extractfile(member)) is not None:
                    write_whole(folder / name, stream.read())
                    wanted.discard(name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is truncated or damaged ({error}); delete it and fetch it again") from error
    if wanted:
        raise DataError(f"{archive} lacks {', '.join(sorted(wanted))} of {source.title}; delete it and fetch it again")
    archive.unlink()
