"""The plan: public numbers, exact rates and steps, and a file that says when it was touched."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdm_cli.errors import (
    DamagedFileError,
    DataError,
    DpdmError,
    PrivacyError,
    ResourceError,
    UsageError,
)
from dpdm_cli.privacy.plan import PrivacyPlan, steps_for_epochs
from dpdm_cli.privacy.plan_file import PlanFile, read_plan_file, write_plan_file

MNIST: dict[str, Any] = {
    "dataset_size": 60_000,
    "expected_batch_size": 4096,
    "steps": 4394,
    "sigma": 2.5,
    "delta": 1e-5,
}
DIGEST = "a8b79a46e5cc17f7367bd59ec66cbde2759d8a2444c6fbadb66cad8248473f3d"
"""Of this plan at sigma 2, by which files that are published name it."""
CLAIM: dict[str, Any] = {
    "epsilon": 9.4,
    "claimed_by": "prv",
    "epsilon_by": {"prv": 9.4, "rdp": 10.1},
    "reason": "",
    "target_epsilon": 10.0,
    "slack": 0.6,
}


def plan_with(**changes: Any) -> PrivacyPlan:
    return PrivacyPlan(**{**MNIST, **changes})


@given(size=st.integers(1, 10**9), data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_sampling_rate_is_batch_over_size_and_at_most_one(size: int, data: Any) -> None:
    batch = data.draw(st.floats(1e-6, size, exclude_max=False))
    plan = plan_with(dataset_size=size, expected_batch_size=batch, delta=0.5 / size)
    assert plan.sample_rate == batch / size
    assert 0 < plan.sample_rate <= 1
    assert plan.divisor == batch


@given(size=st.integers(1, 10**7), batch=st.integers(1, 10**7), epochs=st.integers(1, 10**4))
@settings(max_examples=200, deadline=None)
def test_steps_are_the_floor_of_the_exact_quotient(size: int, batch: int, epochs: int) -> None:
    assert steps_for_epochs(size, batch, epochs) == max(1, epochs * size // batch)


def test_steps_do_not_lose_one_to_floating_point() -> None:
    lossy = [n for n in range(1, 2000) if int(300 / (1 / n)) != 300 * n]
    assert lossy
    assert all(steps_for_epochs(n, 1, 300) == 300 * n for n in lossy)
    batch = 162_770 / 80
    assert steps_for_epochs(162_770, batch, 300) == math.floor(300 * 162_770 / Fraction(batch))


def test_the_papers_mnist_run_has_4394_steps() -> None:
    assert steps_for_epochs(60_000, 4096, 300) == 4394


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"dataset_size": 0}, UsageError),
        ({"dataset_size": -1}, UsageError),
        ({"dataset_size": 60_000.0}, UsageError),
        ({"dataset_size": True}, UsageError),
        ({"dataset_size": 10**10}, UsageError),
        ({"expected_batch_size": 0}, UsageError),
        ({"expected_batch_size": -4096}, UsageError),
        ({"expected_batch_size": math.nan}, UsageError),
        ({"expected_batch_size": math.inf}, UsageError),
        ({"expected_batch_size": 60_001}, UsageError),
        ({"expected_batch_size": "4096"}, UsageError),
        ({"steps": 0}, UsageError),
        ({"steps": -5}, UsageError),
        ({"steps": 1.5}, UsageError),
        ({"steps": None}, UsageError),
        ({"sigma": 0}, UsageError),
        ({"sigma": -1.0}, UsageError),
        ({"sigma": math.nan}, UsageError),
        ({"sigma": math.inf}, UsageError),
        ({"sigma": 10**400}, UsageError),
        ({"delta": 0}, UsageError),
        ({"delta": -1e-5}, UsageError),
        ({"delta": math.nan}, UsageError),
        ({"delta": 1 / 60_000}, PrivacyError),
        ({"delta": 0.5}, PrivacyError),
        ({"delta": 1.0}, PrivacyError),
        ({"clip_norm": 0.0}, UsageError),
        ({"clip_norm": math.inf}, UsageError),
        ({"noise_multiplicity": 0}, UsageError),
        ({"accountant": "gdp"}, PrivacyError),
        ({"accountant": "moments"}, UsageError),
        ({"accountant": None}, UsageError),
    ],
)
def test_nonsense_is_refused_with_the_right_exit_code(
    changes: dict[str, Any], error: type[DpdmError]
) -> None:
    with pytest.raises(error) as caught:
        plan_with(**changes)
    assert type(caught.value) is error
    assert caught.value.hint


@pytest.mark.parametrize(
    "arguments", [(0, 1, 1), (1, 0, 1), (1, math.nan, 1), (1, 1, 0), (9, 1, 0.5)]
)
def test_steps_for_nonsense_are_refused(arguments: tuple[Any, Any, Any]) -> None:
    with pytest.raises(UsageError):
        steps_for_epochs(*arguments)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan_with().sigma = 1.0  # type: ignore[misc]


def test_a_plan_survives_json() -> None:
    plan = plan_with(sigma=2.382803, clip_norm=0.1, noise_multiplicity=32, accountant="rdp")
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    of_persons = plan_with(unit="one person")
    assert PrivacyPlan.from_dict(json.loads(json.dumps(of_persons.to_dict()))) == of_persons


def test_a_plan_for_images_is_stored_as_it_was_before_there_were_units_to_choose() -> None:
    assert plan_with().to_dict()["unit"] == "one image"
    assert plan_with(sigma=2.0).digest() == DIGEST


def test_messages_about_a_plan_for_persons_speak_of_persons() -> None:
    with pytest.raises(PrivacyError, match="N = 100 persons: publishing a random person whole"):
        plan_with(unit="one person", dataset_size=100, expected_batch_size=10, delta=0.5)
    with pytest.raises(UsageError, match="the 100 persons there are"):
        plan_with(unit="one person", dataset_size=100, expected_batch_size=101)


def test_equal_plans_have_equal_digests_and_any_change_another() -> None:
    digest = plan_with().digest()
    assert plan_with(expected_batch_size=4096.0).digest() == digest
    changed = [
        plan_with(**change).digest()
        for change in (
            {"dataset_size": 60_001},
            {"expected_batch_size": 4096.5},
            {"steps": 4395},
            {"sigma": 2.5000000000000004},
            {"delta": 1.1e-5},
            {"clip_norm": 2},
            {"noise_multiplicity": 2},
            {"accountant": "rdp"},
            {"unit": "one person"},
        )
    ]
    assert len({digest, *changed}) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"sample_rate": 0.05},
        {"adjacency": "replace-one"},
        {"unit": "one family"},
        {"unit": None},
        {"sigma": -1},
        {"steps": "many"},
        {"surprise": 1},
    ],
)
def test_an_edited_plan_is_damaged(change: dict[str, Any]) -> None:
    with pytest.raises(DamagedFileError):
        PrivacyPlan.from_dict({**plan_with().to_dict(), **change})


@pytest.mark.parametrize("name", sorted(plan_with().to_dict()))
def test_a_plan_that_lacks_a_key_is_damaged_and_the_message_names_it(name: str) -> None:
    values = plan_with().to_dict()
    del values[name]
    with pytest.raises(DamagedFileError, match=name):
        PrivacyPlan.from_dict(values)


def test_a_written_plan_is_read_back_unchanged_with_its_claim(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan_file(path, PlanFile(plan=plan_with(), **CLAIM))
    assert read_plan_file(path).plan == plan_with()
    assert read_plan_file(path) == PlanFile(plan=plan_with(), **CLAIM)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_file_never_replaces_another_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_plan_file(path, PlanFile(plan=plan_with(), **CLAIM))
    assert path.read_text() == "mine"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        write_plan_file(tmp_path / "nowhere" / "plan.json", PlanFile(plan=plan_with(), **CLAIM))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_plan_file(tmp_path / "plan.json", PlanFile(plan=plan_with(), **CLAIM))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        "{}",
        "\x00\x01",
        "[" * 100_000,
        '{"sigma": 1, "sigma": 2}',
        " " * 1_000_001,
    ],
)
def test_what_is_no_plan_is_damaged_and_the_message_names_the_file(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(DamagedFileError, match=r"plan\.json"):
        read_plan_file(path)


@pytest.mark.parametrize("name", CLAIM)
def test_a_plan_file_without_its_claim_is_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / "plan.json"
    write_plan_file(path, PlanFile(plan=plan_with(), **CLAIM))
    values = json.loads(path.read_text())
    del values[name]
    path.write_text(json.dumps(values))
    with pytest.raises(DamagedFileError, match=name):
        read_plan_file(path)


def test_a_plan_file_with_nan_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan_with().to_dict(), **CLAIM, "sigma": math.nan}))
    with pytest.raises(DamagedFileError, match="NaN"):
        read_plan_file(path)


def test_a_missing_plan_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_plan_file(tmp_path / "plan.json")


def test_plan_and_accounting_import_neither_torch_nor_opacus() -> None:
    code = (
        "import sys, dpdm_cli.privacy.accounting.claims, dpdm_cli.privacy.accounting.paper_profile\n"
        "sys.exit(bool({'torch', 'opacus', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
