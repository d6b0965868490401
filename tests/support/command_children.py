"""The command line in processes of its own, each with limits of time and memory, without importing torch for each."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpdm_cli.__main__ import main
from dpdm_cli.data import load_images
from dpdm_cli.privacy.accounting.claims import planned
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.sampling.writing import FORMATS
from support import fault_children
from support.forkserver import server
from support.trained import digits_folder

SECONDS, BYTES = 20, 2 << 30
"""What a command on small files may take, of a processor's time and of memory that it can write to."""

_PATIENCE = 10  # for what waits in the place of computing, or has little of a processor

SMALL = ["train", "digits", "--preset", "small", "--device", "cpu"]
TRAIN = [*SMALL, "--config", "tiny.toml", "--plan", "plan.json"]


@dataclass(frozen=True)
class Outcome:
    """What became of a command: its exit code, negative for a signal and None when it took too long, and its words."""

    code: int | None
    out: str
    err: str

    @property
    def fault(self) -> str:
        """What no command may do, whatever it is given; empty when all is well."""
        if self.code in (None, -signal.SIGXCPU):
            return "takes too long"
        if self.code < 0:
            return f"ended by signal {-self.code}"
        if "Traceback" in self.err or self.code == 1:
            return "traceback"
        if self.code not in (0, 2, 3, 4, 5, 6):
            return f"exit code {self.code}"
        if self.code and not self.err.strip():
            return "says nothing"
        return ""


def command(
    *words: object,
    at: Path,
    variables: Mapping[str, str | None] | None = None,
    out: str | None = None,
    encoding: str = "utf-8",
    seconds: int = SECONDS,
    memory: int = BYTES,
) -> Outcome:
    """Run `dpdm WORDS`.

    Args:
        at: the folder it is run in.
        variables: of the environment; None unsets one.
        out: a file in the place of its output.
        encoding: of what it prints.
    """
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("out", "err")]
        process = server().Process(
            target=_run,
            args=(
                [str(word) for word in words],
                at,
                dict(variables or {}),
                [out or files[0], files[1]],
                encoding,
                memory,
                seconds,
            ),
        )
        process.start()
        process.join(_PATIENCE * seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            code = None
        else:
            code = process.exitcode
        said = [file.read_text(errors="replace") if file.is_file() else "" for file in files]
        return Outcome(code, *said)


def _run(
    words: list[str],
    at: Path,
    variables: dict[str, str | None],
    files: list[Path | str],
    encoding: str,
    memory: int,
    seconds: int,
) -> None:
    streams = []
    for number, file in enumerate(files, 1):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(handle, number)
        streams.append(
            io.TextIOWrapper(
                os.fdopen(number, "wb", closefd=False),
                encoding=encoding,
                errors="strict" if number == 1 else "backslashreplace",
            )
        )
    sys.stdout, sys.stderr = streams
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.chdir(at)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    sys.argv = ["dpdm", *words]
    code = 1
    try:
        main()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120  # as the interpreter does
    sys.stderr.flush()
    os._exit(code)


def make(home: Path) -> None:
    """One of everything that commands read: plan.json, run, png, npz, zip, parquet, images and images.safetensors."""
    write_plan_file(home / "plan.json", planned(fault_children.PLAN))
    digits_folder(home / "images")
    network = "width = 8\nembedding = 8\nmultipliers = [1]\nmicro_batch = 64\n"
    (home / "tiny.toml").write_text(network)
    drawn = ["sample", "run", "-n", "4", "-B", "2", "--steps", "1"]
    images = load_images(home / "images")
    pixels, labels = images.images[:, 0].numpy(), images.labels
    np.savez(home / "images.npz", images=pixels, labels=labels, classes=np.array(images.classes))
    shutil.make_archive(str(home / "images"), "zip", home / "images")
    for words in (
        [*TRAIN, "--out", "run"],
        *([*drawn, "--format", format, "--out", format] for format in FORMATS),
        ["prepare", "images", "images.safetensors"],
    ):
        done = command(*words, at=home, seconds=200)
        assert done.code == 0, done.err
