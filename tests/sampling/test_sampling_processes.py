"""Several processes draw one set: the files of one process, whatever their number, and however they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support.drawn import Listener, contents, draw, replace_with_room_for, save
from support.processes_launcher import Exited, launch

from dpdm_cli import errors
from dpdm_cli.compute.launched import rank
from dpdm_cli.sampling import drawing, writing
from dpdm_cli.sampling.writing import FORMATS, Format

pytestmark = pytest.mark.slow

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


def part(checkpoint: Path, out: Path, changes: dict[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """What one of several processes does, and what it is told of the result."""
    # Only the first may touch the folder: the others may be on machines where it can't be.
    folder = out if rank() == 0 else out / "file" / "nowhere"
    result = draw(checkpoint, folder, **changes)
    return result.n, result.drawn, result.metadata


def draw_in(size: int, checkpoint: Path, out: Path, **changes: Any) -> list[Any]:
    return launch(size, part, checkpoint, out, changes)


def faulty(fault: str, at: int, checkpoint: Path, out: Path, changes: dict[str, Any]) -> Any:
    """As `part`, with something that happens to one process as it begins its second batch."""
    generate, begun = drawing.generate, 0

    def generating(*args: Any, **named: Any) -> torch.Tensor:
        nonlocal begun
        begun += 1
        if begun == 2 and rank() == at:
            if fault == "memory":
                raise torch.OutOfMemoryError("no more")
            os.kill(os.getpid(), getattr(signal, fault))
        return generate(*args, **named)

    drawing.generate = generating
    return part(checkpoint, out, changes)


def without_room(checkpoint: Path, out: Path) -> Any:
    writing.os.replace = replace_with_room_for(12)
    return part(checkpoint, out, {})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_leave_the_files_of_one(
    checkpoint: Path, tmp_path: Path, size: int, format: Format
) -> None:
    whole = draw(checkpoint, tmp_path / "one", format=format)
    found = draw_in(size, checkpoint, tmp_path / "several", format=format)
    assert found == [(30, 30, whole.metadata)] * size
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


@pytest.mark.parametrize("changes", [{"n": 5}, {"n": 17, "batch_size": 9}, {"n": 16}], ids=str)
def test_there_may_be_more_processes_than_batches(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    draw(checkpoint, tmp_path / "one", **changes)
    found = draw_in(3, checkpoint, tmp_path / "several", **changes)
    assert [drawn for _, drawn, _ in found] == [changes["n"]] * 3
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


@pytest.mark.parametrize("threads", [3, 24])
def test_an_image_is_the_same_whatever_the_number_of_threads(tmp_path: Path, threads: int) -> None:
    """With this network and sampler some last digits of the network's output depend on it."""
    options: dict[str, Any] = {
        "n": 8,
        "steps": 3,
        "sampler": "heun",
        "guidance": 0.5,
    }
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        draw(PRETRAINED, tmp_path / "many", **options)
    finally:
        torch.set_num_threads(before)
    draw_in(1, PRETRAINED, tmp_path / "one", **options)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("format", FORMATS)
def test_another_number_of_processes_goes_on(
    checkpoint: Path, tmp_path: Path, format: Format
) -> None:
    draw(checkpoint, tmp_path / "whole", format=format)
    with pytest.raises(errors.InterruptedRunError):
        draw(checkpoint, tmp_path / "out", format=format, reporter=Listener(stop_after=1))
    found = draw_in(3, checkpoint, tmp_path / "out", format=format)
    assert [drawn for _, drawn, _ in found] == [22] * 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("at", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_to_one_ends_all_after_the_round_and_the_same_call_goes_on(
    checkpoint: Path, tmp_path: Path, at: int, number: signal.Signals
) -> None:
    changes = {"n": 60}
    draw(checkpoint, tmp_path / "whole", **changes)
    out = tmp_path / "out"
    found = launch(3, faulty, number.name, at, checkpoint, out, changes)
    for outcome in found:
        assert isinstance(outcome, errors.InterruptedRunError)
        assert outcome.exit_code == 128 + number
        assert "48 of 60 images" in outcome.message
    assert len(list(out.rglob("[0-9]*.png"))) == 48
    assert draw(checkpoint, out, **changes).drawn == 12
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("at", [0, 1])
def test_an_error_in_one_is_raised_in_all_and_what_was_written_stays(
    checkpoint: Path, tmp_path: Path, at: int
) -> None:
    found = launch(2, faulty, "memory", at, checkpoint, tmp_path / "out", {})
    for rank_, outcome in enumerate(found):
        assert isinstance(outcome, errors.ResourceError)
        prefix = "" if rank_ == at else f"process {at}: "
        assert outcome.message == f"{prefix}out of memory while sampling"
        assert "--batch-size" in outcome.hint
    assert not (tmp_path / "out" / "metadata.json").exists()
    assert draw_in(2, checkpoint, tmp_path / "out")[0][1] == 14


@pytest.mark.parametrize("at", [0, 1])
def test_a_killed_process_ends_the_others_and_the_same_call_goes_on(
    checkpoint: Path, tmp_path: Path, at: int
) -> None:
    draw(checkpoint, tmp_path / "whole")
    found = launch(2, faulty, "SIGKILL", at, checkpoint, tmp_path / "out", {})
    assert isinstance(found[at], Exited)
    assert isinstance(found[1 - at], errors.ResourceError)
    assert "lost another" in found[1 - at].message
    draw_in(2, checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_stops_all_and_the_same_call_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    found = launch(2, without_room, checkpoint, tmp_path / "out")
    for outcome, prefix in zip(found, ("", "process 0: "), strict=True):
        assert isinstance(outcome, errors.ResourceError)
        assert outcome.message.startswith(f"{prefix}{tmp_path / 'out'}: cannot write: No space")
    draw(checkpoint, tmp_path / "whole")
    draw(checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_complete_set_is_checked_by_the_first_for_all(checkpoint: Path, tmp_path: Path) -> None:
    whole = draw(checkpoint, tmp_path / "out")
    assert draw_in(2, checkpoint, tmp_path / "out") == [(30, 0, whole.metadata)] * 2
    (tmp_path / "out" / "train" / "cat" / "000000.png").write_bytes(b"")
    for outcome in draw_in(2, checkpoint, tmp_path / "out"):
        assert isinstance(outcome, errors.DamagedFileError)


def of_two_models(one: Path, other: Path, out: Path) -> Any:
    return part((one, other)[rank()], out, {})


def test_processes_with_different_models_draw_nothing(checkpoint: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.safetensors", dataset="mnist")
    for outcome in launch(2, of_two_models, checkpoint, other, tmp_path / "out"):
        assert isinstance(outcome, errors.ResourceError)
        assert "of process 1 of 2 differ from those of process 0" in outcome.message
    assert not (tmp_path / "out").exists()
