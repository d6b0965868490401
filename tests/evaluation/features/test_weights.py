from __future__ import annotations

import hashlib
import io
import socket
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from urllib.request import Request
from urllib.response import addinfourl

import pytest
import torch

from dpdm_cli.errors import DamagedFileError, ResourceError
from dpdm_cli.evaluation.features import weights
from dpdm_cli.evaluation.features.weights import (
    FILE_NAME,
    URL,
    copy_published,
    inception_weights,
)

CONTENT = b"the published file"


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file is the published one, and neither the network nor clean-fid's place has it."""
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(weights, "_CLEAN_FID_PLACE", Path("/nonexistent") / FILE_NAME)
    unreachable(monkeypatch)


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    _network(monkeypatch, urllib.error.URLError("no network"))


def answers(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    _network(monkeypatch, content)


def _network(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> None:
    def urlopen(request: Request) -> object:
        if request.full_url != URL:
            assert request.full_url.startswith("file:")
            return urllib.request.urlopen(request)
        assert 0 < (socket.getdefaulttimeout() or 0) < 120
        if isinstance(answer, Exception):
            raise answer
        return addinfourl(io.BytesIO(answer), Message(), URL)

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)


def test_a_given_file_is_used_where_it_is(tmp_path: Path) -> None:
    given = tmp_path / "given.pt"
    given.write_bytes(CONTENT)
    assert inception_weights(given, tmp_path / "cache") == given
    (tmp_path / "mine").mkdir()
    assert copy_published(given, tmp_path / "mine") == weights.SHA256
    assert (tmp_path / "mine" / FILE_NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("download", [True, False])
def test_without_file_and_network_the_error_names_address_size_and_place(
    tmp_path: Path, download: bool
) -> None:
    with pytest.raises(ResourceError) as caught:
        inception_weights(None, tmp_path, download=download)
    for needed in (URL, "96 MB", str(tmp_path / FILE_NAME), "--inception-weights"):
        assert needed in caught.value.hint
    with pytest.raises(ResourceError, match="no such file"):
        inception_weights(tmp_path / "absent.pt", tmp_path)


def test_a_download_is_kept_and_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, CONTENT)
    told: list[str] = []
    place = inception_weights(None, tmp_path / "new", note=told.append)
    assert place.read_bytes() == CONTENT
    assert len(told) == 1
    unreachable(monkeypatch)
    assert inception_weights(None, tmp_path / "new", note=told.append) == place
    assert len(told) == 1


def test_a_download_of_other_content_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, b"<html>proxy</html>")
    with pytest.raises(DamagedFileError, match="not the published file"):
        inception_weights(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [FILE_NAME, "given.pt"])
def test_another_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CONTENT[:-1])
    (tmp_path / "mine").mkdir()
    with pytest.raises(DamagedFileError, match="not the published weights") as caught:
        copy_published(tmp_path / name, tmp_path / "mine")
    assert "--extractor FILE" in caught.value.hint


@pytest.mark.parametrize("content", [CONTENT, b"planted"])
def test_what_clean_fid_has_fetched_is_used_only_if_it_is_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    elsewhere, cache = tmp_path / "tmp" / FILE_NAME, tmp_path / "cache"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(content)
    monkeypatch.setattr(weights, "_CLEAN_FID_PLACE", elsewhere)
    if content == CONTENT:
        assert inception_weights(None, cache, download=False) == cache / FILE_NAME
        assert (cache / FILE_NAME).read_bytes() == CONTENT
    else:
        with pytest.raises(ResourceError):
            inception_weights(None, cache, download=False)
        assert not (cache / FILE_NAME).exists()
