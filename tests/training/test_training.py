"""A whole training run on the embedded digits: its folder, its interruption, its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.trained import TINY, digits_folder, interrupt_after, run

from dpdm_cli.checkpoint import load_model, read_tensors
from dpdm_cli.errors import (
    DamagedFileError,
    DataError,
    InterruptedRunError,
    PrivacyError,
    ResourceError,
    UsageError,
)
from dpdm_cli.privacy.accounting.claims import calibrate, claim
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.training import loop as training_loop
from dpdm_cli.training import run as training
from dpdm_cli.training.config.request import RunRequest
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.run import TrainResult, train
from dpdm_cli.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(tmp_path_factory.mktemp("training") / "run")


def test_a_run_leaves_a_model_a_statement_a_picture_and_a_manifest(finished: TrainResult) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        "model.safetensors",
        "statement.json",
        "samples.png",
        "manifest.json",
        "private",
    }
    model = load_model(finished.model)
    stored = json.loads((finished.folder / "statement.json").read_text())
    assert model.statement == finished.statement
    assert stored == finished.statement.to_json()
    assert stored["private"] is True
    assert 0 < stored["epsilon"] <= 10
    assert finished.statement.ledger.steps == stored["plan"]["steps"] == 6
    assert stored["checks_before_training"] == "passed"
    assert stored["trust_model"]["machines"] == ["cpu"]
    Image.open(finished.folder / "samples.png").verify()


def test_from_python_too_settings_can_be_those_for_another_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenError(Exception):
        """Enough was seen."""

    def set_up(request: RunRequest, *_: Any, **__: Any) -> None:
        raise SeenError(request.data, request.settings.epochs, request.settings.dataset_size)

    monkeypatch.setattr(training, "set_up", set_up)
    with pytest.raises(SeenError) as seen:
        train("mnist", tmp_path, preset="paper", settings_for="imagenet32", device="cpu")
    assert seen.value.args == ("mnist", 100, None)


def test_what_may_be_published_names_no_host_path_or_loss(finished: TrainResult) -> None:
    for path in finished.folder.iterdir():
        if path.is_file():
            content = path.read_bytes()
            for word in (
                str(finished.folder).encode(),
                b"loss",
                b"generator",
                b"/tmp",
                b"salt",
                b"fingerprint",
            ):
                assert word not in content, (path.name, word)


def test_the_weights_published_are_the_average(finished: TrainResult) -> None:
    tensors, _ = read_tensors(finished.folder / "private" / "state.safetensors", "state")
    for name, weight in load_model(finished.model).denoiser.network.state_dict().items():
        assert torch.equal(weight, tensors[f"average/{name}"])


def test_resuming_a_finished_run_changes_nothing(finished: TrainResult) -> None:
    before = finished.model.read_bytes()
    again = run(finished.folder, resume=True)
    assert again.statement == finished.statement
    assert finished.model.read_bytes() == before


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(InterruptedRunError) as caught:
            run(tmp_path / "run")
    assert caught.value.exit_code == 143
    return tmp_path / "run"


def test_a_resumed_ledger_whose_chain_does_not_lead_to_its_head_is_refused(
    interrupted: Path,
) -> None:
    folder = RunFolder(interrupted)
    tensors, state = folder.load_state()
    assert state.ledger is not None
    state.ledger.head = "0" * 64
    folder.save_state(tensors, state)
    before = folder.state.read_bytes()
    with pytest.raises(DamagedFileError, match="hash chain"):
        run(interrupted, resume=True)
    assert folder.state.read_bytes() == before


def test_a_stopped_run_publishes_nothing_and_goes_on_where_it_stopped(
    interrupted: Path, finished: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {path.name for path in interrupted.iterdir()} == {"private"}
    taken = []
    ordinary = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self: (taken.append(self.done), ordinary(self)))
    result = run(interrupted, resume=True)
    assert taken == [2, 3, 4, 5]
    assert result.statement.epsilon == finished.statement.epsilon
    warm = 2  # sums, made before the first step
    own = RunFolder(interrupted).load_state()[1].ledger.segments
    assert [made for _, made in own] == [warm + 2, 4]
    assert result.statement.ledger.processes == tuple(name for name, _ in own)
    assert result.statement.plan == finished.statement.plan


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 5.0},
        {"batch_size": 64},
        {"clip_norm": 0.5},
        {"steps": 12},
        {"noise_multiplicity": 4},
        {"delta": 1e-5},
    ],
)
def test_another_plan_is_refused_on_resume(interrupted: Path, changes: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match="was started with") as caught:
        run(interrupted, resume=True, **changes)
    assert caught.value.exit_code == 5


def test_another_plan_in_a_file_is_refused_on_resume(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(interrupted.parent)
    config = Path("presets.toml")
    config.write_text("epsilon = 5\n")
    with pytest.raises(PrivacyError, match=r"epsilon is 5.0 \(presets.toml\)"):
        run(interrupted, resume=True, config=config)


def test_speed_may_change_on_resume(interrupted: Path) -> None:
    assert run(interrupted, resume=True, micro_batch=5).statement.ledger.steps == 6


def test_other_data_and_another_mode_are_refused_on_resume(interrupted: Path) -> None:
    with pytest.raises(PrivacyError, match="started with digits"):
        run(interrupted, resume=True, private=False)


FOLDER: dict[str, Any] = {
    "batch_size": 8,
    "steps": 3,
    "epsilon": 50.0,
    "delta": 1e-3,
    "public_metadata": True,
}


def test_a_folder_of_images_is_trained_on_and_its_change_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = digits_folder(tmp_path / "images")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedRunError):
            run(tmp_path / "run", str(folder), **FOLDER)
    first = next((folder / "0").iterdir())
    shutil.copy(first, tmp_path / "kept.png")
    Image.new("L", (8, 8), 7).save(first)
    with pytest.raises(PrivacyError, match="not the ones"):
        run(tmp_path / "run", str(folder), resume=True, **FOLDER)
    shutil.copy(tmp_path / "kept.png", first)
    result = run(tmp_path / "run", str(folder), resume=True, **FOLDER)
    assert set(result.statement.public_inputs.to_dict().values()) == {"declared"}
    assert load_model(result.model).classes == tuple("0123456789")


def test_a_stated_size_is_the_plans_whatever_lies_in_the_folder(tmp_path: Path) -> None:
    folder = digits_folder(tmp_path / "images", 40)
    result = run(tmp_path / "run", str(folder), dataset_size=50, **FOLDER)
    assert (result.statement.plan.dataset_size, result.statement.plan.sample_rate) == (50, 8 / 50)
    assert result.statement.public_inputs.dataset_size == "stated"


BESIDE_A_PLAN = {name: TINY[name] for name in ("width", "multipliers", "embedding", "device")}


@pytest.fixture(scope="module")
def plan() -> PrivacyPlan:
    return calibrate(
        epsilon=7,
        delta=1e-4,
        dataset_size=1438,
        expected_batch_size=20,
        steps=4,
        clip_norm=0.1,
        noise_multiplicity=3,
    )


def saved(plan: PrivacyPlan, path: Path, **changes: float) -> Path:
    """The plan as `dpdm calibrate --out` writes it."""
    stated = {**claim(plan).to_dict(), "target_epsilon": 7, "slack": 0.0}
    path.write_text(json.dumps({**plan.to_dict(), **stated, **changes}))
    return path


def test_a_plan_from_calibration_is_run_unchanged(plan: PrivacyPlan, tmp_path: Path) -> None:
    path = saved(plan, tmp_path / "plan.json")
    statement = train(
        "digits", tmp_path / "run", preset="small", plan=path, **BESIDE_A_PLAN
    ).statement
    assert statement.plan == plan
    other = saved(plan, tmp_path / "other.json", dataset_size=1500, sample_rate=20 / 1500)
    with pytest.raises(UsageError, match="epsilon, steps given beside --plan"):
        train(
            "digits",
            tmp_path / "run2",
            plan=path,
            epsilon=3.0,
            steps=2,
            device="cpu",
        )
    with pytest.raises(PrivacyError, match="N = 1,500"):
        train("digits", tmp_path / "run2", preset="small", plan=other, **BESIDE_A_PLAN)
    assert not (tmp_path / "run2" / "model.safetensors").exists()


def test_what_a_plan_says_is_refused_in_a_file_too_and_the_same_command_goes_on(
    plan: PrivacyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.toml"
    beside = {"plan": saved(plan, tmp_path / "plan.json"), "config": config, **BESIDE_A_PLAN}
    config.write_text("ema = 0.9\nbatch_size = 20\nnoise_multiplicity = 4\n")
    words = r"batch_size \(.*mine.toml\), noise_multiplicity \(.*mine.toml\) given beside --plan"
    for resume in (False, True):
        with pytest.raises(UsageError, match=words):
            train("digits", tmp_path / "run", preset="small", resume=resume, **beside)
    config.write_text("ema = 0.9\n")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedRunError):
            train("digits", tmp_path / "run", preset="small", **beside)
    done = train("digits", tmp_path / "run", preset="small", resume=True, **beside)
    assert done.statement.plan.noise_multiplicity == 3


def test_without_privacy_every_output_says_so(tmp_path: Path) -> None:
    result = run(tmp_path / "run", private=False)
    assert result.statement.private is False
    for name in ("statement.json", "model.safetensors"):
        assert b"NOT PRIVATE" in (tmp_path / "run" / name).read_bytes()
    assert b"NOT PRIVATE" in (tmp_path / "run" / "samples.png").read_bytes()


def test_a_loss_is_written_only_when_asked_and_only_under_private(tmp_path: Path) -> None:
    run(tmp_path / "run", log_losses=True)
    lines = (tmp_path / "run" / "private" / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        run(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="no run to resume"):
        run(tmp_path / "run", resume=True)


def test_a_folder_that_another_run_holds_is_refused(interrupted: Path) -> None:
    with (
        RunFolder(interrupted).open(resume=True),
        pytest.raises(UsageError, match="another run holds"),
    ):
        run(interrupted, resume=True)
    assert run(interrupted, resume=True).statement.ledger.steps == 6


def exhausted(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("out of memory")


def test_out_of_memory_ends_the_run_and_keeps_the_saved_state(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (interrupted / "private" / "state.safetensors").read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_losses", exhausted)
        with pytest.raises(ResourceError, match="memory"):
            run(interrupted, resume=True)
    assert (interrupted / "private" / "state.safetensors").read_bytes() == before
    assert run(interrupted, resume=True).statement.ledger.steps == 6


@pytest.mark.parametrize(
    ("what", "when"),
    [
        ("trainer.to_device", "while the network was set up"),
        ("trainer.Trainer.check", "while the training step was checked"),
        ("run.draw_grid", "while the model was written and drawn from"),
    ],
)
def test_out_of_memory_outside_the_steps_says_when_and_what_was_saved_goes_on(
    what: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"dpdm_cli.training.{what}", exhausted)
        with pytest.raises(ResourceError, match=f"out of memory {when}") as caught:
            run(tmp_path / "run")
    is_saved = (tmp_path / "run").exists()
    assert is_saved == ("--resume" in caught.value.hint) == (what == "run.draw_grid")
    assert run(tmp_path / "run", resume=is_saved).statement.ledger.steps == 6


def test_weights_that_blow_up_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SECONDS_BETWEEN_SAVES", 0.0)
    ordinary = Trainer.step

    def step(self: Trainer) -> None:
        ordinary(self)
        if self.done == 3:
            with torch.no_grad():
                self._denoiser.network.head.bias.fill_(torch.nan)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(ResourceError, match="finite"):
        run(tmp_path / "run")
    _, facts = read_tensors(tmp_path / "run" / "private" / "state.safetensors", "state")
    assert facts["done"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2000}, "more than the 1438"),
        ({"batch_size": 2000, "private": False}, "more than the 1438"),
        ({"delta": 0.5}, "delta"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"patch": 3}, "multiple of 3"),
        ({"steps": 0}, "steps"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": float("inf")}, "clip_norm"),
    ],
)
def test_nonsense_is_refused_and_nothing_published(
    tmp_path: Path, changes: dict[str, float], message: str
) -> None:
    with pytest.raises((UsageError, PrivacyError), match=message):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
