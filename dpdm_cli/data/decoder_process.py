"""A process that decodes images: files on its standard input, pixels on its standard output.

Small images keep the interpreter busy, which the threads of a process share; so they are divided
among processes. These are not forked, since the parent has threads, and import neither torch nor the
parent's main module. They end when the parent does, whatever ends it: their input is at its end.

In: for each file a line with its length and as many bytes; then an empty line, which asks for the answer.
Out: a line of JSON, for each file the reason why it cannot be used or [(width, height), shape of the pixels]; then the
pixels of all.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

import dpdm_cli
from dpdm_cli.data.collecting import reason_of
from dpdm_cli.data.decoding import BadImageError, Decoded, Fit, decode
from dpdm_cli.data.layout import Entry
from dpdm_cli.errors import ResourceError

_END = b"\n"
_BUFFER = 1 << 20  # bytes; the usual eight thousand would be a system call for every few images
_COMMAND = "from dpdm_cli.data.decoder_process import main; main()"


class Decoders:
    """Processes that decode files for threads of this one.

    Args:
        processes: each is used by one thread at a time.
    """

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in processes:
            self._idle.put(process)

    def __call__(self, chunk: Sequence[Entry]) -> list[Decoded | str]:
        """Each entry's image, or the reason why it cannot be used. Waits for an idle process.

        Raises:
            ResourceError: the process has ended.
        """
        process = self._idle.get()
        try:
            return _ask(process, chunk)
        except (OSError, ValueError):
            process.kill()  # nobody may read the rest of its answer
            raise ResourceError(
                f"a process that decodes images ended (exit code {process.wait()})",
                "It may have run out of memory: free some, and repeat the command, which continues.",
            ) from None
        finally:
            self._idle.put(process)


@contextmanager
def decoders(count: int, fit: Fit) -> Iterator[Decoders]:
    """Start `count` processes, and end them."""
    root = str(Path(dpdm_cli.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, json.dumps(asdict(fit))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=_BUFFER,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the parent, which finishes what it began
        )
        for _ in range(count)
    ]
    try:
        yield Decoders(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def main() -> None:
    """Decode until the input ends."""
    fit = Fit(**json.loads(sys.argv[1]))
    with open(0, "rb", _BUFFER) as source, open(1, "wb", _BUFFER) as sink:
        found: list[Decoded | str] = []
        while line := source.readline():
            if line != _END:
                found.append(_decoded(source.read(int(line)), fit))
                continue
            sink.write(json.dumps([_described(image) for image in found]).encode() + b"\n")
            for image in found:
                if isinstance(image, Decoded):
                    sink.write(np.ascontiguousarray(image.pixels).data)
            sink.flush()
            found = []


def _decoded(data: bytes, fit: Fit) -> Decoded | str:
    try:
        return decode(data, fit)
    except BadImageError as error:
        return str(error)


def _described(image: Decoded | str) -> Any:
    return image if isinstance(image, str) else [image.size, image.pixels.shape]


def _ask(process: subprocess.Popen[bytes], chunk: Sequence[Entry]) -> list[Decoded | str]:
    assert process.stdin
    assert process.stdout
    unread: dict[int, str] = {}
    for index, entry in enumerate(chunk):
        try:
            data = entry.read()
        except OSError as error:
            unread[index] = reason_of(error)
            continue
        process.stdin.write(b"%d\n" % len(data))
        process.stdin.write(data)
    process.stdin.write(_END)
    process.stdin.flush()
    answers = iter(json.loads(process.stdout.readline()))
    return [
        unread.get(index) or _answer(next(answers), process.stdout) for index in range(len(chunk))
    ]


def _answer(described: Any, pixels: IO[bytes]) -> Decoded | str:
    if isinstance(described, str):
        return described
    size, shape = map(tuple, described)
    found = np.frombuffer(pixels.read(math.prod(shape)), np.uint8)
    return Decoded(found.reshape(shape), size)  # ValueError if the process ended meanwhile
