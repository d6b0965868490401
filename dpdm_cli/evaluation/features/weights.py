"""Where the weights of Inception lie, and how they get there. Knows files and the network; no
images.

A file that this module fetches or finds by itself is used only if it is the published one, by its
SHA-256: it contains code that loading runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dpdm_cli.errors import DamagedFileError, ResourceError

FILE_NAME = "inception-2015-12-05.pt"
URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt"
)
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
SIZE = "about 96 MB"
_TIMEOUT = 30.0
_CLEAN_FID_PLACES = (Path("." if platform.system() == "Windows" else "/tmp") / FILE_NAME,)


def inception_weights(
    given: Path | None,
    cache_dir: Path,
    *,
    download: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """The file of weights: the one given, the cached one, the one clean-fid has fetched, or a
    download.

    Args:
        given: the user's own file; used as it is, whatever its digest.
        cache_dir: where the file is kept.
        download: whether the network may be asked.
        note: told before a download begins.

    Raises:
        ResourceError: there is no file and none can be fetched; names the URL, the size and the
            place.
        DamagedFileError: the file in the cache is not the published one.
    """
    if given is not None:
        if not given.is_file():
            raise _absent(f"{given}: no such file of Inception weights", cache_dir)
        return given
    cached = cache_dir / FILE_NAME
    if cached.is_file():
        found = sha256_of(cached)
        if found != SHA256:
            raise DamagedFileError(
                f"{cached}: not the published weights of Inception (SHA-256 {found}, not {SHA256})",
                "delete it; it is fetched again. For weights of your own use --inception-weights",
            )
        return cached
    for place in _CLEAN_FID_PLACES:
        # Anybody may write there: the file is copied first, and the copy is checked.
        with contextlib.suppress(OSError, DamagedFileError), place.open("rb") as stream:
            _keep_if_published(stream, cached)
            return cached
    if not download:
        raise _absent(
            "the weights of Inception are not here, and --no-download is given", cache_dir
        )
    note(f"fetching the weights of Inception ({SIZE}) from {URL}")
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT) as stream:
            _keep_if_published(stream, cached)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise _absent(
            f"the weights of Inception are not here and cannot be fetched: {reason}", cache_dir
        ) from error
    return cached


def sha256_of(file: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _keep_if_published(stream: IO[bytes], target: Path) -> None:
    """Write the stream to `target`, at once and only if it is the published file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{FILE_NAME}.")
    try:
        with os.fdopen(handle, "wb") as file:
            while block := stream.read(1 << 20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != SHA256:
            raise DamagedFileError(
                f"what was fetched is not the published file (SHA-256 {digest.hexdigest()})",
                "a proxy may have answered in its place; try another network",
            )
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def _absent(message: str, cache_dir: Path) -> ResourceError:
    return ResourceError(
        message,
        f"get {URL} ({SIZE}) where there is a network and put it at {cache_dir / FILE_NAME}, "
        "or give its path with --inception-weights; `--extractor scattering` needs no weights",
    )
