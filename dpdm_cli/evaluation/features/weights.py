"""Where the weights of Inception are, and how they get there. Knows files and the network; no
images.

The file contains code that loading runs, so only the published one is used, known by its SHA-256, wherever it comes
from.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from dpdm_cli.errors import DamagedFileError, ResourceError
from dpdm_cli.files import disk_errors, network_timeout, sha256_of

FILE_NAME = "inception-2015-12-05.pt"
URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt"
)
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
SIZE = "about 96 MB"
_TIMEOUT = 30.0
_CLEAN_FID_PLACE = Path("." if platform.system() == "Windows" else "/tmp") / FILE_NAME


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
        given: where the user has the published file.
        cache_dir: where the file is kept.
        download: whether the network may be asked.
        note: told before a download begins.

    Raises:
        ResourceError: there is no file and none can be fetched; names the URL, the size and the
            place.
        DamagedFileError: what was fetched is not the published file.
    """
    if given is not None:
        if not given.is_file():
            raise _absent(f"{given}: no such file of Inception weights", cache_dir)
        return given
    cached = cache_dir / FILE_NAME
    if cached.is_file():
        return cached
    # Anybody may write to clean-fid's place: as from the network, only the published file is taken.
    with contextlib.suppress(OSError, RuntimeError):
        _fetch(_CLEAN_FID_PLACE.absolute().as_uri(), cached)
        return cached
    if not download:
        raise _absent(
            "the weights of Inception are not here, and --no-download is given", cache_dir
        )
    note(f"fetching the weights of Inception ({SIZE}) from {URL}")
    try:
        with network_timeout(_TIMEOUT):
            _fetch(URL, cached)
    except RuntimeError as error:
        raise DamagedFileError(
            f"what was fetched is not the published file: {error}",
            "a proxy may have answered in its place; try another network",
        ) from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise _absent(
            f"the weights of Inception are not here and cannot be fetched: {reason}", cache_dir
        ) from error
    return cached


def copy_published(weights: Path, folder: Path) -> str:
    """Copy a file of weights into a folder of our own, under the published name, if it is the published file.

    What is loaded is the copy, which nobody changes between the check and the loading.

    Returns:
        SHA-256 (hex).

    Raises:
        DamagedFileError: it is another file.
    """
    copy = folder / FILE_NAME
    with disk_errors(copy, "free space"):
        shutil.copyfile(weights, copy)
    found = sha256_of(copy)
    if found != SHA256:
        raise DamagedFileError(
            f"{weights}: not the published weights of Inception (SHA-256 {found}, not {SHA256})",
            "delete it, or leave out --inception-weights, and it is fetched; "
            "--extractor FILE takes a network of your own and executes the code in it",
        )
    return found


def _fetch(url: str, target: Path) -> None:
    """Write what is there to `target`, at once and only if it is the published file; else RuntimeError or OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(target), SHA256, progress=False)


def _absent(message: str, cache_dir: Path) -> ResourceError:
    return ResourceError(
        message,
        f"get {URL} ({SIZE}) where there is a network and put it at {cache_dir / FILE_NAME}, "
        "or give its path with --inception-weights; `--extractor scattering` needs no weights",
    )
