from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from dpdm_cli.commands.app import app
from dpdm_cli.data import load_images
from dpdm_cli.data.prepare import preparing, unfinished


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(6):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index // 2, 0, 0)).save(path)
    return tmp_path / "pictures"


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["prepare", *map(str, words)], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_the_table_says_what_is_in_the_file_and_where_it_must_stay(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    code, table, remarks = run(folder, out)
    assert code == 0
    assert "6 of 4x4, colour" in table
    assert "where the private images are: it holds them" in table
    assert f"dpdm train {out}" in table
    assert "b/1.png = a/0.png" in remarks
    assert "was complete already" in run(folder, out)[1]


def test_json_is_one_object_and_quiet_says_only_what_must_be_seen(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    (folder / "a" / "bad.png").write_bytes(b"")
    code, text, _ = run(
        folder, out, "--skip-bad", "--image-size", 2, "--channels", 1, "--classes", "b,a", "--json"
    )
    assert code == 0
    values = json.loads(text)
    assert [values[k] for k in ("n", "channels", "height", "width")] == [6, 1, 2, 2]
    assert values["classes"] == ["b", "a"]
    assert (values["duplicates"], values["left_out"]) == (4, 1)
    assert values["first_left_out"] == ["a/bad.png is empty"]
    assert values["content_sha256"] == load_images(out).content
    code, text, remarks = run(
        folder, tmp_path / "y.safetensors", "--skip-bad", "--image-size", 3, "--quiet"
    )
    assert (code, text) == (0, "")
    assert "bad.png is empty" in remarks
    assert "looking through" not in remarks


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["pictures", "x.pt"], 2, "must end in .safetensors"),
        (["pictures", "x.safetensors", "--image-size", "0"], 2, "image size must be between"),
        (["pictures", "x.safetensors", "--classes", "a"], 3, "not among the 1 declared"),
        (["pictures", "x.safetensors", "--split", "test"], 3, "no test split"),
        (["broken", "x.safetensors"], 3, "1 of 1 files in broken cannot be used"),
        (["gone", "x.safetensors"], 3, "no data set or path"),
        (["pictures", "cut.safetensors"], 4, "is damaged"),
    ],
)
def test_mistakes_have_their_exit_codes(
    folder: Path, tmp_path: Path, monkeypatch, words: list[str], code: int, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    found, _, remarks = run(*words)
    assert found == code
    assert what in remarks


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_signal_has_its_exit_code_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "x.safetensors"
    append = unfinished.Unfinished.append

    def signalled(self, *taken) -> None:
        append(self, *taken)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(preparing, "_FIRST_FILES", 2)
    with monkeypatch.context() as patch:
        patch.setattr(unfinished.Unfinished, "append", signalled)
        code, _, remarks = run(folder, out)
    assert code == 143
    assert "stopped after 2 of 6 images, which are saved" in remarks
    assert "repeat the command to continue" in remarks
    code, _, remarks = run(folder, out)
    assert code == 0
    assert "continuing after 2 of 6 files" in remarks


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_command_leaves_no_process_and_goes_on_when_repeated(tmp_path: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "x.safetensors"
    folder.mkdir()
    Image.effect_noise((64, 64), 50).save(folder / "0.png")
    for index in range(1, 2_500):
        os.link(folder / "0.png", folder / f"{index}.png")
    code = (
        "import sys, torch\nfrom dpdm_cli.data.prepare import preparing, unfinished\n"
        "torch.set_num_threads(2)\nunfinished.STRETCH_FILES = 100\npreparing._BATCH_FILES = 20\n"
        "preparing.prepare(sys.argv[1], sys.argv[2])"
    )
    journal = tmp_path / ".x.safetensors.journal.part"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), str(out)])
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a process that decodes was left"
        time.sleep(0.01)
    assert not out.exists()
    code, text, remarks = run(folder, out, "--json")
    assert code == 0
    assert "continuing after" in remarks
    assert json.loads(text)["duplicates"] == 2_499
    load_images(out).verify()
