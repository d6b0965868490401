"""Ways to publish a figure of the private images beside the mechanism, each put into the real code as a monkeypatch.

The detector is the file that is then another one for other images.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from dpdm_cli.checkpoint import Model
from dpdm_cli.privacy.statement import AnyStatement
from dpdm_cli.training import run as training
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.trainer import Trainer
from support.mutants import Mutant, Patch


def _said(leak: Callable[[dict[str, Any], Trainer], None]) -> Callable[[Patch], None]:
    """The statement of a run, with something of what its trainer has seen in it."""

    def break_it(patch: Patch) -> None:
        trainers: list[Trainer] = []
        real_step, real_write = Trainer.step, RunFolder.write_statement

        def step(self: Trainer) -> None:
            trainers[:] = [self]
            real_step(self)

        def write(self: RunFolder, statement: AnyStatement) -> None:
            real_write(self, statement)
            said = json.loads(self.statement.read_text())
            leak(said, trainers[0])
            self.statement.write_text(json.dumps(said))

        patch.setattr(Trainer, "step", step)
        patch.setattr(RunFolder, "write_statement", write)

    return break_it


def _described(patch: Patch) -> None:
    """A count of the images beside the weights, where no statement is."""
    held: list[int] = []
    real_init, real_save = Trainer.__init__, training.save_model

    def init(self: Trainer, config: Any, settings: Any, images: Any, **k: Any) -> None:
        held.append(len(images.images))
        real_init(self, config, settings, images, **k)

    patch.setattr(Trainer, "__init__", init)
    patch.setattr(
        training, "save_model", lambda path, model: real_save(path, _renamed(model, held[-1]))
    )


def _renamed(model: Model, count: int) -> Model:
    return dataclasses.replace(model, dataset=f"{model.dataset}, {count}")


LEAKS: dict[str, Mutant] = {
    "the last private loss in the statement": Mutant(
        _said(lambda said, trainer: said.update(last_loss=trainer.mean_loss())), "statement.json"
    ),
    "the last private loss, rounded, in its reason": Mutant(
        _said(lambda said, trainer: said.update(reason=f"{trainer.mean_loss():.1e}")),
        "statement.json",
    ),
    "the last private loss for the name of a process": Mutant(
        _said(
            lambda said, trainer: said["ledger"]["processes"].__setitem__(
                0, f"{int(1e6 * trainer.mean_loss()):032x}"
            )
        ),
        "statement.json",
    ),
    "the number of images in the statement": Mutant(
        _said(lambda said, trainer: said.update(dataset_size=len(trainer._set.images))),
        "statement.json",
    ),
    "the number of images beside the weights": Mutant(_described, "model.safetensors"),
}
