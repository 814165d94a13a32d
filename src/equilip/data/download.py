"""Fetching published files once, into the user's cache, each checked against its sha256."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from equilip.data.catalogue import Source
from equilip.errors import DataError

#: Errors of the disk, which another mirror does not mend.
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

#: What pooch calls to fetch one address: (url, output file, pooch) -> None.
Downloader = Callable[[str, Any, Any], Any]


def cache() -> Path:
    """Where downloads are kept."""
    import pooch

    return Path(pooch.os_cache("equilip"))


def fetch(source: Source, folder: Path, *, progress: bool = False, downloader: Downloader | None = None) -> None:
    """Download what ``folder`` lacks of ``source``, from the first mirror that serves them.

    ``progress`` shows a bar on standard error. A file arrives whole and with the right checksum, or not at
    all. DataError when no mirror serves it, and when it cannot be written.
    """
    import pooch

    log = pooch.get_logger()
    before = log.level
    log.setLevel(logging.ERROR)  # pooch reports each download on standard error; that is ours to say
    try:
        for file in source.downloads:
            name = file.name
            failures = []
            for mirror in source.mirrors:
                try:
                    pooch.retrieve(
                        url=mirror + name,
                        known_hash=f"sha256:{file.sha256}",
                        fname=name,
                        path=folder,
                        downloader=downloader or pooch.HTTPDownloader(progressbar=progress, timeout=30),
                    )
                    break
                except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
                    if isinstance(error, OSError) and error.errno in _OURS:
                        raise DataError(
                            f"could not keep {name} of {source.title} in {folder}: {error.strerror}; make room there, "
                            "or get the files yourself and name their folder with --data-dir"
                        ) from error
                    failures.append(f"{mirror}: {_brief(error)}")
            else:
                raise DataError(
                    f"could not download {name} of {source.title} ({'; '.join(failures)}); check the network, or "
                    "get the files yourself and name their folder with --data-dir"
                )
    finally:
        log.setLevel(before)


def _brief(error: Exception) -> str:
    if isinstance(error, ValueError):
        return "what arrived has the wrong checksum"
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
