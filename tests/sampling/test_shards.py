"""A set drawn in shards: whose images are whose, how folders are merged, and what is not taken for a whole set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.drawn import Listener, contents, draw, save

from dpdm_cli import errors
from dpdm_cli.publishing.releasing import release
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.sampling import drawing, sample_folder
from dpdm_cli.sampling.png import PngEncoder
from dpdm_cli.sampling.run import SampleResult, sample
from dpdm_cli.sampling.shards import Shard

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


def draw_shards(checkpoint: Path, out: Path, of: int, **changes: Any) -> list[SampleResult]:
    return [
        draw(checkpoint, out / f"shard-{number}", shard=(number, of), **changes)
        for number in range(1, of + 1)
    ]


def merge(shards: Path, into: Path) -> Path:
    """`cp -r shards/shard-*/. into/`"""
    for shard in sorted(shards.glob("shard-*")):
        shutil.copytree(shard, into, dirs_exist_ok=True)
    return into


@pytest.mark.parametrize(("n", "size", "of"), [(30, 8, 3), (30, 8, 9), (5, 8, 2), (64, 8, 1)])
def test_every_image_belongs_to_one_shard_and_batches_are_not_divided(
    n: int, size: int, of: int
) -> None:
    shards = [Shard(number, of) for number in range(1, of + 1)]
    starts = [start for shard in shards for start in shard.starts(n, size)]
    assert sorted(starts) == list(range(0, n, size))
    assert sorted(i for shard in shards for i in shard.indices(n, size)) == list(range(n))
    for shard in shards:
        assert all(i // size % of == shard.number - 1 for i in shard.indices(n, size))
        assert shard.count(n, size) == len(shard.indices(n, size))


def test_a_shard_is_read_from_what_a_user_types() -> None:
    assert Shard.parse("3/16") == Shard.parse(" 3 / 16 ") == Shard(3, 16)
    assert str(Shard(3, 16)) == "3/16"


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "x", "", "3", "1/0", "-1/4", "1.5/4", "1/4/2", "٣/٤"]
)
def test_what_is_no_shard_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(errors.UsageError, match="there is no shard") as caught:
        Shard.parse(text)
    assert "3/16" in caught.value.hint


@pytest.mark.parametrize(
    ("of", "changes"),
    [
        (1, {}),
        (3, {"n": 31}),
        (3, {"n": 3}),
        (2, {"n": 12, "labels": ["eel", "cat"], "batch_size": 3}),
        (2, {"steps": 2, "sampler": "stochastic-ddim"}),
    ],
    ids=str,
)
def test_merged_shards_are_sealed_to_the_bytes_of_one_process(
    checkpoint: Path, tmp_path: Path, of: int, changes: dict[str, Any]
) -> None:
    whole = draw(checkpoint, tmp_path / "whole", **changes)
    parts = draw_shards(checkpoint, tmp_path, of, **changes)
    assert sum(part.n for part in parts) == sum(part.drawn for part in parts) == whole.n
    merged = merge(tmp_path, tmp_path / "all")
    sealed = draw(checkpoint, merged, **changes)
    assert (sealed.drawn, sealed.metadata) == (0, whole.metadata)
    assert contents(merged) == contents(tmp_path / "whole")


def test_unconditional_shards_lie_in_one_folder_and_merge(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "m.safetensors", classes=())
    draw(checkpoint, tmp_path / "whole")
    draw_shards(checkpoint, tmp_path, 2)
    draw(checkpoint, merge(tmp_path, tmp_path / "all"))
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")


def test_a_shard_says_which_it_is_and_holds_its_images_under_their_final_names(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = draw(checkpoint, tmp_path / "out", shard=(2, 3))
    stored = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert stored == result.metadata.to_json()
    assert stored["shard"] == {"number": 2, "of": 3, "whole_n": 30}
    assert stored["n"] == result.n == result.drawn == 8
    assert result.to_dict()["shard"] == stored["shard"]
    classes = ("cat", "dog", "eel")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/train/*/*.png")}
    assert found == {f"train/{classes[i % 3]}/{i:06d}.png" for i in range(8, 16)}


def test_what_is_missing_in_a_merged_folder_is_drawn(checkpoint: Path, tmp_path: Path) -> None:
    draw(checkpoint, tmp_path / "whole")
    draw_shards(checkpoint, tmp_path, 4)
    shutil.rmtree(tmp_path / "shard-2")
    (tmp_path / "shard-3" / "train" / "dog" / "000016.png").unlink()
    with pytest.raises(errors.DamagedFileError):
        draw(checkpoint, tmp_path / "shard-3", shard=(3, 4))
    merged = merge(tmp_path, tmp_path / "all")
    assert draw(checkpoint, merged).drawn == 8 + 8
    assert contents(merged) == contents(tmp_path / "whole")


def interrupt(checkpoint: Path, out: Path, shard: tuple[int, int] | None, **changes: Any) -> None:
    """Draw one batch."""
    with pytest.raises(errors.InterruptedRunError):
        draw(checkpoint, out, shard=shard, reporter=Listener(stop_after=1), **changes)


def overwrite(folder: Path, indices: Iterable[int]) -> None:
    """Put images there that pass for drawn ones, but are not."""
    for index in indices:
        file = folder / "train" / ("cat", "dog", "eel")[index % 3] / f"{index:06d}.png"
        pixels = np.full((1, 1, 4, 4), index, np.uint8)
        file.write_bytes(PngEncoder((1, 4, 4), marked=True).encode(pixels)[0])


@pytest.mark.slow
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    states=st.lists(
        st.sampled_from(["complete", "begun", "absent", "unnamed", "partly"]),
        min_size=2,
        max_size=3,
    ),
    stop_after=st.integers(0, 2),
)
def test_whatever_is_merged_ends_as_one_process_would_have_left_it(
    checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    states: list[str],
    stop_after: int,
) -> None:
    tmp = tmp_path_factory.mktemp("merged")
    draw(checkpoint, tmp / "whole", n=38)
    expected = 38
    for number, state in enumerate(states, 1):
        folder, shard = tmp / f"shard-{number}", (number, len(states))
        images = Shard(*shard).indices(38, 8)
        if state == "begun" and len(images) > 8:
            interrupt(checkpoint, folder, shard, n=38)
            expected -= 8
        elif state != "absent":
            draw(checkpoint, folder, n=38, shard=shard)
            if state == "unnamed":
                for file in folder.glob(".*"):
                    file.unlink()
                overwrite(folder, images)
            elif state == "partly":
                overwrite(folder, images[1:])
                next(folder.rglob(f"{images[0]:06d}.png")).unlink()
            else:
                expected -= len(images)
    merged = merge(tmp, tmp / "all")
    if 0 < stop_after * 8 < expected:
        with pytest.raises(errors.InterruptedRunError):
            draw(checkpoint, merged, n=38, reporter=Listener(stop_after=stop_after))
        # At most the batch of six is among those that were drawn.
        drawn = draw(checkpoint, merged, n=38).drawn
        assert expected - drawn in (stop_after * 8, stop_after * 8 - 2)
    else:
        assert draw(checkpoint, merged, n=38).drawn == expected
    assert contents(merged) == contents(tmp / "whole")


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


def test_a_complete_shard_is_checked_and_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(checkpoint, tmp_path / "out", shard=(1, 2))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr(drawing, "generate", None)
    listener = Listener()
    again = draw(checkpoint, tmp_path / "out", shard=(1, 2), reporter=listener)
    assert (again.drawn, again.metadata) == (0, first.metadata)
    assert any("is complete: 16 images" in note for note in listener.notes)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("there", [(1, 2), (1, 3), None])
def test_a_folder_of_another_shard_or_a_whole_set_is_refused_and_untouched(
    checkpoint: Path, tmp_path: Path, there: tuple[int, int] | None
) -> None:
    draw(checkpoint, tmp_path / "out", shard=there)
    before = contents(tmp_path / "out")
    with pytest.raises(errors.UsageError, match="not shard 2/3"):
        draw(checkpoint, tmp_path / "out", shard=(2, 3))
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 1}, "seed"), ({"n": 31}, "n is 31 there"), ({"batch_size": 4}, "batch")],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_shard_of_another_run_is_found_in_the_merged_folder(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], named: str, last: bool
) -> None:
    other = {"shard": (2, 2), **({} if last else changes)}
    draw(checkpoint, tmp_path / "shard-1", **{"shard": (1, 2), **(changes if last else {})})
    draw(checkpoint, tmp_path / "shard-2", **other)
    merged = merge(tmp_path, tmp_path / "all")
    before = contents(merged)
    with pytest.raises(errors.UsageError, match=named):
        draw(checkpoint, merged, batch_size=8)
    assert contents(merged) == before


def test_an_image_that_was_changed_on_the_way_is_found_and_its_shard_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw_shards(checkpoint, tmp_path, 2)
    merged = merge(tmp_path, tmp_path / "all")
    shutil.copyfile(
        merged / "train" / "cat" / "000003.png", merged / "train" / "cat" / "000000.png"
    )
    with pytest.raises(errors.DamagedFileError, match="shard 1/2"):
        draw(checkpoint, merged)


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


def test_more_shards_than_batches_leave_some_empty_which_is_said_and_merges(
    checkpoint: Path, tmp_path: Path
) -> None:
    listener = Listener()
    empty = draw(checkpoint, tmp_path / "shard-6", shard=(6, 6), reporter=listener)
    assert (empty.n, empty.drawn) == (0, 0)
    assert any(
        "shard 6/6 holds no image: 30 images are 4 batches of 8" in w for w in listener.warnings
    )
    assert draw(checkpoint, tmp_path / "shard-6", shard=(6, 6)).n == 0
    draw(checkpoint, tmp_path / "whole")
    merged = merge(tmp_path, tmp_path / "all")
    assert draw(checkpoint, merged).drawn == 30
    assert contents(merged) == contents(tmp_path / "whole")


def test_without_a_folder_a_shard_lies_beside_the_model_under_its_number(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "model.safetensors")
    result = sample(checkpoint, n=9, batch_size=4, shard=(3, 16), steps=2, device="cpu")
    assert result.folder == tmp_path / "synth-3-of-16"


@pytest.mark.parametrize("format", ["npz", "zip", "parquet"])
def test_one_file_can_be_no_shard(checkpoint: Path, tmp_path: Path, format: str) -> None:
    with pytest.raises(errors.UsageError, match="one file of all images") as caught:
        draw(checkpoint, tmp_path / "out", shard=(1, 2), format=format)
    assert "--format" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_several_processes_draw_no_shard(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(errors.UsageError, match="torchrun") as caught:
        draw(checkpoint, tmp_path / "out", shard=(1, 2))
    assert "leave out --shard" in caught.value.hint


def test_a_shard_is_verified_and_released_and_merged_ones_are_not_before_they_are_sealed(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"n": 12, "batch_size": 4, "steps": 1}
    draw_shards(PRETRAINED, tmp_path, 2, **options)
    (found,) = verify([tmp_path / "shard-2"]).artefacts
    assert "4 images are those that were drawn for shard 2/2 of 12" in found.checked[0]
    release(tmp_path / "shard-1", tmp_path / "published")
    assert "shard 1 of 2 of a set of 12" in (tmp_path / "published" / "README.md").read_text()
    merged = merge(tmp_path, tmp_path / "all")
    with pytest.raises(errors.DamagedFileError) as caught:
        verify([merged])
    assert "without --shard" in caught.value.hint
    draw(PRETRAINED, merged, **options)
    assert "12 images are those" in verify([merged]).artefacts[0].checked[0]
