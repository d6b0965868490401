"""Verify: passes what was written, names what was changed, composes what belongs together."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpdm_cli import sample, train, verify
from dpdm_cli.checkpoint import load_model, read_tensors, write_tensors
from dpdm_cli.commands.app import app
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.errors import DamagedFileError, DataError, DpdmError, PrivacyError, UsageError
from dpdm_cli.files import sha256_of
from dpdm_cli.privacy.accounting.claims import calibrate, claim, compose
from dpdm_cli.publishing import verifying
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.trainer import Trainer

pytestmark = pytest.mark.slow

TINY = {"width": 8, "embedding": 8, "batch_size": 32, "steps": 4, "epsilon": 10.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "run"
    train("digits", folder, **TINY)
    sample(folder, n=20, sampler=SamplerSettings(steps=2))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_its_model_and_its_samples_hold_what_they_claim(finished: Path) -> None:
    result = verify([finished, finished / "model.safetensors", finished / "synth"])
    assert [found.kind for found in result.artefacts] == ["run", "model", "samples"]
    for found in result.artefacts:
        assert found.claim.epsilon <= found.statement.epsilon <= 10
        assert {"prv", "rdp"} <= set(found.claim.epsilon_by)
        assert found.ledger.steps == 4
    # All come from one run: nothing is added.
    assert result.together is not None
    assert result.together.epsilon == pytest.approx(result.artefacts[0].claim.epsilon, rel=1e-6)
    assert len(result.relations) == 3
    json.dumps(result.to_dict(), allow_nan=False)


def changed_statement(run: Path, change: dict[str, Any]) -> None:
    """A model whose statement was edited, under a manifest and digests that fit."""
    model = load_model(run / "model.safetensors")
    statement = {**model.statement.to_json(), **change}
    tensors, facts = read_tensors(run / "model.safetensors", "model")
    write_tensors(run / "model.safetensors", tensors, "model", {**facts, "statement": statement})
    (run / "statement.json").write_text(json.dumps(statement))
    manifest = json.loads((run / "manifest.json").read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = sha256_of(run / name)
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "private" / "state.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"epsilon": 1.0}, PrivacyError),
        ({"delta": 1e-9}, PrivacyError),
        ({"unit": "one pixel"}, PrivacyError),
        ({"mechanism": "none"}, PrivacyError),
        ({"sigma": 50.0}, DamagedFileError),
        ({"schema": "urn:dpdm:statement:3"}, DamagedFileError),
        ({"date": "yesterday"}, DamagedFileError),
        ({"selection": {"runs": 0, "chosen_by": "not stated"}}, DamagedFileError),
        ({"text": "perfectly private"}, PrivacyError),
        ({"not_covered": []}, PrivacyError),
        ({"adjacency": "none"}, PrivacyError),
        ({"private": False}, DamagedFileError),
        ({"epsilon": "small"}, DamagedFileError),
        ({"plan": None}, DamagedFileError),
        ({"ledger": None}, DamagedFileError),
    ],
)
def test_an_edited_statement_is_refused(
    run: Path, change: dict[str, Any], error: type[DpdmError]
) -> None:
    changed_statement(run, change)
    with pytest.raises(error) as caught:
        verify([run])
    assert str(run) in caught.value.message


def test_an_edited_plan_or_ledger_is_refused(run: Path) -> None:
    plan = load_model(run / "model.safetensors").statement.to_json()["plan"]
    changed_statement(run, {"plan": {**plan, "sigma": 50.0}})
    with pytest.raises(PrivacyError, match="another privacy plan"):
        verify([run])


@pytest.mark.parametrize("change", ["releases", "processes", "head"])
def test_a_broken_chain_is_damage(run: Path, change: str) -> None:
    ledger = load_model(run / "model.safetensors").statement.to_json()["ledger"]
    broken = {"releases": 3, "processes": ["0" * 32], "head": "0" * 64}[change]
    changed_statement(run, {"ledger": {**ledger, change: broken}})
    with pytest.raises(DamagedFileError):
        verify([run])


def state_changed(run: Path, change: dict[str, Any]) -> None:
    """The resume state, under a digest that fits, with another ledger."""
    folder = RunFolder(run)
    tensors, facts = read_tensors(folder.state, "state")
    facts["ledger"] |= change
    write_tensors(folder.state, tensors, "state", facts)


def test_the_runs_own_chain_is_computed_up_to_a_length(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the published ledger is compared all the same, and it is said that the chain is not."""
    state_changed(run, {"head": "0" * 64})
    with pytest.raises(DamagedFileError, match="hash chain is broken"):
        verify([run])
    monkeypatch.setattr(verifying, "LONGEST_CHAIN", 5)
    checked = verify([run]).artefacts[0].checked
    assert "not checked: the run's own chain over 6 releases" in checked
    state_changed(run, {"segments": [["0" * 32, 6]]})
    with pytest.raises(DamagedFileError, match="not the one of the published statement"):
        verify([run])


def test_who_may_not_enter_private_is_told_what_was_not_looked_at(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open, Path.stat

    def closed(original: Any) -> Any:
        def guarded(path: Path, *rest: Any, **options: Any) -> Any:
            if path.parent.name == "private":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *rest, **options)

        return guarded

    monkeypatch.setattr(Path, "open", closed(real[0]))
    monkeypatch.setattr(Path, "stat", closed(real[1]))
    checked = verify([run]).artefacts[0].checked
    (unseen,) = [line for line in checked if "private/" in line]
    assert unseen.startswith("not checked: private/, which this user cannot read")
    assert not any("run's own" in line for line in checked if line != unseen)


@pytest.mark.parametrize("name", ["model.safetensors", "statement.json", "samples.png"])
def test_a_changed_or_missing_file_is_damage(run: Path, name: str) -> None:
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=name):
        verify([run])
    (run / name).unlink()
    with pytest.raises(DamagedFileError, match="missing"):
        verify([run])


def test_a_changed_or_planted_image_is_damage(run: Path) -> None:
    synth = run / "synth"
    (synth / "train" / "0" / "extra.png").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"1 entry is none of this set, train/0/extra\.png"):
        verify([synth])
    (synth / "train" / "0" / "more.png").write_bytes(b"")
    with pytest.raises(
        DamagedFileError, match=r"2 entries are none of this set, first train/0/extra\.png"
    ):
        verify([synth])
    (synth / "train" / "0" / "extra.png").unlink()
    (synth / "train" / "0" / "more.png").unlink()
    image = next((synth / "train" / "0").glob("*.png"))
    image.write_bytes(next((synth / "train" / "1").glob("*.png")).read_bytes())
    with pytest.raises(DamagedFileError, match="not those that were drawn"):
        verify([synth])


def test_what_is_unfinished_or_foreign_is_named(run: Path, tmp_path: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        verify([run])
    with pytest.raises(DataError, match="neither a run"):
        verify([tmp_path])
    with pytest.raises(DataError, match="no such file"):
        verify([tmp_path / "absent.safetensors"])
    with pytest.raises(UsageError):
        verify([])


def test_a_run_without_privacy_claims_nothing(tmp_path: Path) -> None:
    train("digits", tmp_path / "open", private=False, **TINY)
    with pytest.raises(PrivacyError, match="no privacy is claimed"):
        verify([tmp_path / "open"])


def test_two_runs_on_the_same_images_add_up_through_the_accountants(
    finished: Path, tmp_path: Path
) -> None:
    train("digits", tmp_path / "other", **{**TINY, "epsilon": 5.0})
    one, two = finished, tmp_path / "other"
    result = verify([one, two])
    assert result.relations == ()
    parts = [found.claim.epsilon for found in result.artefacts]
    assert result.together is not None
    assert max(parts) < result.together.epsilon < sum(parts)


def test_a_fork_is_charged_for_both_branches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that go on from one saved state, after 3 of 4 steps, and are both published."""
    real = Trainer.step

    def stopping(self: Trainer) -> None:
        if self.done == 3:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(Trainer, "step", stopping)
    monkeypatch.setattr("dpdm_cli.training.loop.SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train("digits", tmp_path / "one", **TINY)
    monkeypatch.setattr(Trainer, "step", real)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("one", "two"):
        train("digits", tmp_path / name, resume=True, **TINY)
    result = verify([tmp_path / "one", tmp_path / "two"])
    (relation,) = result.relations
    assert "continued one run separately" in relation
    plan = result.artefacts[0].ledger.plan
    assert result.together is not None
    # When they parted follows the clock: it is not published, and nothing may depend on it.
    assert result.together.epsilon == compose([*plan.parts(), *plan.parts()], plan.delta).epsilon
    for name in ("one", "two"):
        own = RunFolder(tmp_path / name).load_state()[1].ledger.segments
        assert [made for _, made in own] == [5, 1]  # two sums of the warm start, three steps
        published = json.loads((tmp_path / name / "statement.json").read_text())["ledger"]
        assert published["processes"] == [process for process, _ in own]
        assert "segments" not in published


def test_composing_one_plan_is_its_claim_and_two_are_no_less_than_the_larger() -> None:
    figures = {"delta": 1e-5, "dataset_size": 10_000, "expected_batch_size": 100, "steps": 500}
    one, two = calibrate(epsilon=1.0, **figures), calibrate(epsilon=3.0, **figures)
    assert compose(one.parts(0, 500), 1e-5).epsilon == pytest.approx(claim(one).epsilon, rel=1e-9)
    assert compose([*one.parts(0, 200), *one.parts(0, 300)], 1e-5).epsilon == pytest.approx(
        claim(one).epsilon
    )
    both = compose([*one.parts(0, 500), *two.parts(0, 500)], 1e-5)
    assert 3.0 < both.epsilon < 4.0
    assert both.epsilon <= both.epsilon_by["rdp"] + 0.01


@pytest.mark.slow
def test_the_claim_is_restated(finished: Path) -> None:
    result = verify([finished], replace_one=True, images_per_person=3, selection="geometric:10")
    base = result.artefacts[0].claim.epsilon
    replaced, person, selected = (answer.epsilon for answer in result.restated)
    assert base < replaced < 3 * base
    assert base < person
    assert base < selected
    one_image = verify([finished], images_per_person=1).restated[0].epsilon
    assert one_image == pytest.approx(result.artefacts[0].claim.epsilon_by["pld"], rel=0.01)
    with pytest.raises(UsageError, match="one artefact at a time"):
        verify([finished, finished], replace_one=True)
    for wrong in ("best:3", "geometric:x"):
        with pytest.raises(UsageError, match="unknown selection"):
            verify([finished], selection=wrong)


def test_the_page_and_the_exit_codes(run: Path) -> None:
    page = CliRunner().invoke(app, ["verify", str(run), str(run / "synth")], env={"COLUMNS": "160"})
    assert page.exit_code == 0
    for words in ("verified", "Not covered", "by PRV", "by RDP", "come from the same run"):
        assert words in " ".join(page.output.split())
    stated = json.loads(CliRunner().invoke(app, ["verify", str(run), "--json"]).output)
    assert stated["artefacts"][0]["steps_taken"] == 4
    (run / "samples.png").write_bytes(b"")
    assert CliRunner().invoke(app, ["verify", str(run)]).exit_code == 4
    changed_statement(run, {"epsilon": 0.5})
    assert CliRunner().invoke(app, ["verify", str(run)]).exit_code == 5
