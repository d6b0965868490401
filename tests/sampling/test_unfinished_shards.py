"""Shards that were cut off, copied in part or damaged are drawn again, and never taken for a whole set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.drawn import Listener, contents, draw, save
from support.shards import draw_shards, interrupt, merge, overwrite

from dpdm_cli import errors
from dpdm_cli.sampling import sample_folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 99}, "seed is 99 there"), ({"n": 31}, "n is 31 there"), (None, "checkpoint_sha256")],
)
@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize("rest_complete", [True, False])
def test_an_unfinished_shard_of_another_run_is_found_in_the_merged_folder(
    checkpoint: Path,
    tmp_path: Path,
    changes: dict[str, Any] | None,
    named: str,
    of: int,
    rest_complete: bool,
) -> None:
    other = save(tmp_path / "o.safetensors", dataset="mnist") if changes is None else checkpoint
    interrupt(other, tmp_path / "shard-1", (1, of), **{"n": 38, **(changes or {})})
    if rest_complete:
        draw(checkpoint, tmp_path / "shard-2", n=38, shard=(2, of))
    else:
        interrupt(checkpoint, tmp_path / "shard-2", (2, of), n=38)
    merged = merge(tmp_path, tmp_path / "all")
    before = contents(merged)
    with pytest.raises(errors.UsageError, match=named):
        draw(checkpoint, merged, n=38)
    assert contents(merged) == before


def test_a_begun_whole_set_of_another_run_is_found_beside_a_shard(
    checkpoint: Path, tmp_path: Path
) -> None:
    interrupt(checkpoint, tmp_path / "all", None, seed=99)
    draw(checkpoint, tmp_path / "shard-1", shard=(1, 2))
    merged = merge(tmp_path, tmp_path / "all")
    with pytest.raises(errors.UsageError, match="seed is 99 there"):
        draw(checkpoint, merged)


def test_an_unfinished_shard_has_a_record_of_its_own_until_it_is_complete(
    checkpoint: Path, tmp_path: Path
) -> None:
    interrupt(checkpoint, tmp_path / "out", (1, 2))
    hidden = {name for name in contents(tmp_path / "out") if name.startswith(".")}
    assert hidden == {".sampling-1-of-2.json"}
    draw(checkpoint, tmp_path / "out", shard=(1, 2))
    hidden = {name for name in contents(tmp_path / "out") if name.startswith(".")}
    assert hidden == {".shard-1-of-2.json"}


@pytest.mark.parametrize(("lost", "changed"), [(0, 1), (16, 0), (23, 22), (1, 17)])
def test_a_complete_shard_that_lost_a_file_is_drawn_again_whole(
    checkpoint: Path, tmp_path: Path, lost: int, changed: int
) -> None:
    draw(checkpoint, tmp_path / "whole")
    draw_shards(checkpoint, tmp_path, 2)
    merged = merge(tmp_path, tmp_path / "all")
    next(merged.rglob(f"{lost:06d}.png")).unlink()
    overwrite(merged, [changed])
    listener = Listener()
    assert draw(checkpoint, merged, reporter=listener).drawn == 16
    assert any("8 images" in text and "are drawn again" in text for text in listener.warnings)
    assert contents(merged) == contents(tmp_path / "whole")


@pytest.mark.parametrize("state", ["complete", "unfinished"])
@pytest.mark.parametrize(
    "told",
    [
        None,
        3,
        {},
        {"whole_n": 30},
        {"number": 0, "of": 2, "whole_n": 30},
        {"number": 2, "of": 2, "whole_n": 30},
        {"number": float("inf"), "of": 2, "whole_n": 30},
        {"number": "1", "of": 2, "whole_n": 30},
    ],
    ids=str,
)
def test_a_record_that_does_not_say_its_shard_is_named_and_nothing_is_touched(
    checkpoint: Path, tmp_path: Path, state: str, told: Any
) -> None:
    draw(checkpoint, tmp_path / "shard-2", shard=(2, 2))
    if state == "complete":
        draw(checkpoint, tmp_path / "shard-1", shard=(1, 2))
        name = ".shard-1-of-2.json"
    else:
        interrupt(checkpoint, tmp_path / "shard-1", (1, 2))
        name = ".sampling-1-of-2.json"
    merged = merge(tmp_path, tmp_path / "all")
    record = json.loads((merged / name).read_text())
    (merged / name).write_text(json.dumps({**record, "shard": told}))
    before = contents(merged)
    with pytest.raises(errors.DamagedFileError) as caught:
        draw(checkpoint, merged)
    assert str(merged / name) in caught.value.message
    assert contents(merged) == before


@pytest.mark.parametrize("unnamed", [{1}, {2}, {1, 2}])
def test_a_shard_that_was_copied_without_its_hidden_file_is_drawn_again(
    checkpoint: Path, tmp_path: Path, unnamed: set[int]
) -> None:
    draw(checkpoint, tmp_path / "whole")
    parts = draw_shards(checkpoint, tmp_path, 2)
    for number in unnamed:
        overwrite(tmp_path / f"shard-{number}", [8 * (number - 1)])
        (tmp_path / f"shard-{number}" / f".shard-{number}-of-2.json").unlink()
    merged = merge(tmp_path, tmp_path / "all")
    assert draw(checkpoint, merged).drawn == sum(parts[number - 1].n for number in unnamed)
    assert contents(merged) == contents(tmp_path / "whole")


def test_a_shard_copied_without_its_hidden_file_into_a_begun_set_is_drawn_again(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "whole")
    interrupt(checkpoint, tmp_path / "all", None)
    draw(checkpoint, tmp_path / "shard-2", shard=(2, 2))
    overwrite(tmp_path / "shard-2", [8])
    (tmp_path / "shard-2" / ".shard-2-of-2.json").unlink()
    merged = merge(tmp_path, tmp_path / "all")
    assert draw(checkpoint, merged).drawn == 30
    assert contents(merged) == contents(tmp_path / "whole")


@pytest.mark.parametrize("killed_at", [".sampling.json", "metadata.json", ".shard-1-of-2.json"])
def test_doubtful_images_are_not_trusted_after_a_kill_at_any_point_of_the_merge(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    draw(checkpoint, tmp_path / "whole")
    draw_shards(checkpoint, tmp_path, 2)
    merged = merge(tmp_path, tmp_path / "all")
    (merged / "train" / "cat" / "000000.png").unlink()
    overwrite(merged, [1, 8, 17])
    (merged / ".shard-2-of-2.json").unlink()
    unlink = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self.name == killed_at:
            raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    def killed_early(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if killed_at == ".sampling.json":
            patch.setattr(sample_folder, "write_bytes", killed_early)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            draw(checkpoint, merged)
    assert draw(checkpoint, merged).drawn == 30
    assert contents(merged) == contents(tmp_path / "whole")


def test_unfinished_shards_are_gone_on_with_alone_or_merged(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "whole")
    for number in (1, 2):
        with pytest.raises(errors.InterruptedRunError, match=r"8 of 1[46] images"):
            draw(
                checkpoint,
                tmp_path / f"shard-{number}",
                shard=(number, 2),
                reporter=Listener(stop_after=1),
            )
    merged = merge(tmp_path, tmp_path / "all")
    assert draw(checkpoint, merged).drawn == 14
    assert contents(merged) == contents(tmp_path / "whole")
    alone = draw(checkpoint, tmp_path / "shard-1", shard=(1, 2))
    assert (alone.n, alone.drawn) == (16, 8)


def test_a_run_killed_while_it_took_over_a_merged_folder_goes_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(checkpoint, tmp_path / "whole")
    draw_shards(checkpoint, tmp_path, 2)
    merged = merge(tmp_path, tmp_path / "all")
    unlink = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self.name == "metadata.json":
            raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            draw(checkpoint, merged)
    assert {".sampling.json", "metadata.json"} <= contents(merged).keys()
    draw(checkpoint, merged)
    assert contents(merged) == contents(tmp_path / "whole")
