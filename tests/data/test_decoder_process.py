"""Processes decode as this one does, and one that is gone is an error that says so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dpdm_cli.data.collecting import read_chunk
from dpdm_cli.data.decoder_process import decoders
from dpdm_cli.data.decoding import Decoded, Fit
from dpdm_cli.data.readers.folders import read_folder
from dpdm_cli.errors import ResourceError


@pytest.mark.parametrize("fit", [Fit(), Fit(image_size=3, channels=1)])
def test_processes_find_what_this_one_finds(make_folder, encode, fit):
    rng = np.random.default_rng(0)
    sizes = [(9, 7), (4, 4, 3), (1, 1), (30, 20, 3)]
    files = {
        f"{index}.png": encode(rng.integers(0, 256, sizes[index % 4], np.uint8))
        for index in range(20)
    }
    root = make_folder(files | {"bad.png": b"<html>", "empty.png": b"", "p.png": encode(mode="P")})
    (root / "lost.png").symlink_to(root / "nowhere")
    entries = read_folder(root).entries
    chunks = [entries[:5], entries[5:6], entries[6:], entries[:0]]
    with decoders(2, fit) as decode, ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(decode, chunks))
    for chunk, answer in zip(chunks, answers, strict=True):
        expected = read_chunk(chunk, fit)
        for found, known in zip(answer, expected, strict=True):
            if isinstance(known, Decoded):
                assert found.size == known.size
                assert np.array_equal(found.pixels, known.pixels)
            else:
                assert found == known


def test_a_process_that_is_gone_is_an_error(make_folder, encode):
    entries = read_folder(make_folder({"a.png": encode()})).entries
    with decoders(1, Fit()) as decode:
        process = decode._idle.get()
        process.kill()
        process.wait()
        decode._idle.put(process)
        for _ in range(2):
            with pytest.raises(ResourceError, match="exit code -9"):
                decode(entries)
