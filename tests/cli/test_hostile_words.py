"""Words, files and places that no command expects: each ends in one message and an exit code of the README."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.lib import format as npy
from support.command_children import SMALL, TRAIN, command, make

from dpdm_cli.checkpoint import read_tensors, write_tensors

pytestmark = pytest.mark.slow

DRY = [*SMALL, "--dry-run"]
NOBODY, LONG = "~nosuchuser/x", "x" * 300
SEVERAL = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
FID = ["fid", "png", "--against", "images", "--extractor"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hostile")
    make(home)
    for name, change in PLANS.items():
        plan = {**json.loads((home / "plan.json").read_text()), **change}
        (home / f"{name}.json").write_text(json.dumps(plan))
    with zipfile.ZipFile(home / "wide.npz", "w") as archive:
        header = io.BytesIO()
        shape = (0, 2**63 - 1, 2**63 - 1)
        described = {"descr": "|u1", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(header, described)
        archive.writestr("images.npy", header.getvalue())
    far_zip(home / "far.zip")
    for name, (opening, closing) in {"list": ("[", "]"), "table": ("{a=", "}")}.items():
        (home / f"{name}.toml").write_text(f"a = {opening * 5000}1{closing * 5000}")
    torch.jit.script(NoFeatures()).save(home / "none.pt")  # type: ignore[no-untyped-call]
    tensors, facts = read_tensors(home / "run" / "private" / "state.safetensors", "state")
    for name in facts:
        if name not in ("format", "kind"):
            place = home / f"without-{name}" / "private" / "state.safetensors"
            place.parent.mkdir(parents=True)
            less = {k: v for k, v in facts.items() if k not in (name, "format", "kind")}
            write_tensors(place, tensors, "state", less)
    narrow = {k: v.to(torch.float8_e4m3fn) for k, v in tensors.items() if v.is_floating_point()}
    write_tensors(home / "narrow.safetensors", narrow, "model", {"network": {}})
    return home


class NoFeatures(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :0]


def far_zip(path: Path) -> None:
    """A zip whose one member lies at 2^63, as the field of Zip64 says."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", b"x")
    content = bytearray(path.read_bytes())
    record, end = content.find(b"PK\1\2"), content.find(b"PK\5\6")
    content[end + 12 : end + 16] = struct.pack("<I", end - record + 12)
    content[record + 30 : record + 32] = struct.pack("<H", 12)
    content[record + 42 : record + 46] = b"\xff" * 4
    names = record + 46 + len("a/1.png")
    content[names:names] = struct.pack("<HHQ", 1, 8, 2**63)
    path.write_bytes(content)


PLANS: dict[str, dict[str, Any]] = {
    "no-name": {"warm_start": {}},
    "wide-clip": {"clip_norm": 1e300},
    "narrow-batch": {"expected_batch_size": 5e-324},
    "more-images": {"dataset_size": 10**400},
}

PATHS = {
    "verify": ["verify", "{}"],
    "sample": ["sample", "{}", "-n", "1"],
    "train": ["train", "{}", "--dry-run"],
    "plan": [*SMALL, "--plan", "{}", "--dry-run"],
    "config": [*SMALL, "--config", "{}", "--dry-run"],
    "init-from": [*SMALL, "--init-from", "{}", "--dry-run"],
    "calibrate": ["calibrate", "{}"],
    "release": ["release", "{}", "out"],
    "report": ["report", "{}", "--out", "page.html"],
    "samples": ["report", "run", "{}", "--out", "page.html"],
    "page": ["report", "run", "--out", "{}"],
    "compare": ["compare", "{}"],
    "plot": ["compare", "run", "--plot", "{}"],
    "evaluation": ["release", "run", "out", "--evaluation", "{}"],
    "prepare": ["prepare", "{}", "out.safetensors"],
    "fid": ["fid", "{}", "--against", "images", "--extractor", "pixels"],
    "against": ["fid", "png", "--against", "{}", "--extractor", "pixels"],
    "extractor": [*FID, "{}"],
    "weights": ["fid", "png", "--against", "images", "--inception-weights", "{}"],
    "classify": ["classify", "{}", "--test", "digits"],
    "test": ["classify", "png", "--test", "{}"],
    "audit": ["audit", "{}"],
}
"""Where commands take the path of something that is to be there."""

NUMBERS = {
    "clip-norm": ["1e300", "5e-324"],
    "warm-share": ["5e-324"],
    "image-size": ["0", "-1", "1000000000", str(2**70)],
    "channels": ["0", "-1", "1000000000"],
    "seed": ["-1", str(2**70)],
    "micro-batch": ["-1"],
    "epsilon": ["1e400", "nan", "-1"],
    "batch-size": ["0", "-1", "1000000000"],
    "steps": ["0", "-1"],
    "epochs": ["0", "-1", str(10**12)],
    "noise-multiplicity": ["0", "-1", str(2**70)],
}

REFUSED = {
    "forever": ["sample", "run", "-n", str(2**70), "--out", "out"],
    "at a time": ["sample", "run", "-n", "1", "-B", str(2**70), "--out", "out"],
    "steps": ["sample", "run", "-n", "1", "--steps", str(10**9), "--out", "out"],
    "guidance": ["sample", "run", "-n", "1", "--guidance", "1e300", "--out", "out"],
    "label": ["sample", "run", "-n", "1", "--labels", "9" * 5000, "--out", "out"],
    "seed": ["sample", "run", "-n", "1", "--seed", str(2**70), "--out", "out"],
    "size": ["prepare", "images", "out.safetensors", "--image-size", "-1"],
    "epsilon": ["calibrate", "digits", "--eps", "1" + "0" * 400],
    "wide": ["prepare", "wide.npz", "out.safetensors"],
    "far": ["prepare", "far.zip", "out.safetensors"],
    "list": [*DRY, "--config", "list.toml"],
    "table": [*DRY, "--config", "table.toml"],
    "no features": [*FID, "none.pt"],
    "narrow": ["verify", "narrow.safetensors"],
    "selection": ["verify", "run", "--selection", "geometric:1e400"],
    "group": ["verify", "run", "--images-per-person", str(2**70)],
    **{f"plan {name}": [*SMALL, "--plan", f"{name}.json", "--out", "out"] for name in PLANS},
    **{
        f"{option} {value}": [*DRY, f"--{option}={value}"]
        for option, values in NUMBERS.items()
        for value in values
    },
    **{
        f"{what} {option}": [word.format(path) for word in words]
        for what, path in (("nobody", NOBODY), ("long", LONG), ("zero", "/dev/zero"))
        for option, words in PATHS.items()
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_message(name: str, home: Path) -> None:
    done = command(*REFUSED[name], at=home)
    assert not done.fault, done.err
    assert done.code
    assert done.err.count("error: ") + done.err.count("Error ") == 1
    assert not list(home.glob("out/m*"))  # model, manifest, metadata
    shutil.rmtree(home / "out", ignore_errors=True)


@pytest.mark.parametrize("network", ["width", "blocks", "patch", "embedding", "multipliers"])
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_fields_of_a_network_are_within_bounds(network: str, value: int, home: Path) -> None:
    config = home / f"{network}{value}.toml"
    config.write_text(f"{network} = {[value] if network == 'multipliers' else value}\n")
    done = command(*DRY, "--config", config, at=home)
    assert done.code == 2, done.err
    assert not done.fault


def test_a_state_that_lacks_a_key_is_damaged(home: Path) -> None:
    folders = sorted(home.glob("without-*"))
    assert len(folders) > 5
    for folder in folders:
        done = command(*TRAIN, "--out", folder.name, "--resume", at=home)
        assert not done.fault, (folder.name, done.err)
        assert done.code == 4, (folder.name, done.err)


@pytest.mark.parametrize(
    "name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", "DPDM_TIMEOUT"]
)
@pytest.mark.parametrize("value", ["abc", "-1", "9" * 30])
def test_variables_of_a_launcher_that_make_no_sense(name: str, value: str, home: Path) -> None:
    done = command(
        *TRAIN, "--out", "out", at=home, variables={**SEVERAL, "DPDM_TIMEOUT": "1", name: value}
    )
    assert not done.fault, done.err
    assert done.code in (2, 6)
    assert not (home / "out").exists()


@pytest.mark.parametrize("words", ["verify run", "verify run --json", "--help", "--version"])
def test_output_that_cannot_be_written_is_not_taken_for_done(words: str, home: Path) -> None:
    done = command(*words.split(), at=home, out="/dev/full")
    assert done.code == 6
    assert done.err.startswith("error: No space left on device")
    assert not done.fault


@pytest.mark.parametrize(
    "words", [["verify", "run"], [*FID, "pixels"], DRY, ["--help"]], ids=lambda w: w[0]
)
def test_any_screen_and_any_user_will_do(words: list[str], home: Path) -> None:
    without = dict.fromkeys(("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "DPDM_CACHE_DIR"))
    for options in (
        {"encoding": "ascii"},
        {"variables": {"COLUMNS": "1"}},
        {"variables": {"COLUMNS": "0"}},
        {"variables": without},
    ):
        done = command(*words, at=home, **options)  # type: ignore[arg-type]
        assert done.code == 0, done.err
        assert not done.fault


def test_names_that_are_no_text_are_names(home: Path) -> None:
    done = command("sample", "run", "-n", "1", "--steps", "1", "--out", "a\udcff", at=home)
    assert done.code == 0, done.err
    assert "a\\udcff" in done.out
    assert (home / "a\udcff" / "metadata.json").is_file()


@pytest.mark.parametrize("words", ["--help", "--version", "verify run", "verify run --json"])
@pytest.mark.parametrize("both", ["", "2>&1"])
def test_output_whose_reader_has_gone_ends_as_by_sigpipe(words: str, both: str, home: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m dpdm_cli {words} {both} | true; exit ${{PIPESTATUS[0]}}",
        ],
        cwd=home,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, b"", b"")


def test_remarks_whose_reader_has_gone_end_nothing(home: Path) -> None:
    words = "sample run -n 1 --steps 1 --out unheard --json"
    subprocess.run(
        ["bash", "-c", f"({sys.executable} -m dpdm_cli {words} >unheard.json) 2>&1 | true"],
        cwd=home,
        check=False,
    )
    assert json.loads((home / "unheard.json").read_text())["n"] == 1


def test_output_that_is_closed_is_no_mistake_of_the_command() -> None:
    for words in ("--version", "--help"):
        done = subprocess.run(
            f"{sys.executable} -m dpdm_cli {words} >&-",
            shell=True,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
