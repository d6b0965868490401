"""What a run that goes on must know of itself, beside its tensors. Private."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from dpdm_cli.data.reading import Reading
from dpdm_cli.errors import DamagedFileError
from dpdm_cli.privacy.circumstances import Circumstances
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.stored import Json, optional, understood
from dpdm_cli.training.config.public_facts import Stated
from dpdm_cli.training.config.public_start import PublicStart
from dpdm_cli.training.config.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All processes, and all who go on with the run, agree on this.

    Attributes:
        data: what the user named.
        settings: those of the run; K is the plan's.
        dataset_size: N.
        public_inputs: who says that N and the images' shape and classes are public; None for a run that is not private.
        stated: what was said of the images, beside the settings.
        init_from: the model it started from, without its weights, if any.
        salt, fingerprint: of the images, see `fingerprint`.
        done: steps.
        ledger: of its releases, with the plan; None for a run that is not private.
        about: what the run notes of itself, for its statement.
    """

    data: str
    settings: TrainSettings
    dataset_size: int
    public_inputs: PublicInputs | None
    stated: Stated
    init_from: PublicStart | None
    salt: str
    fingerprint: str
    done: int
    ledger: Ledger | None
    about: Circumstances

    def to_json(self) -> Json:
        """All of it, and whether the run is private."""
        return {
            "data": self.data,
            "private": self.ledger is not None,
            "settings": asdict(self.settings),
            "dataset_size": self.dataset_size,
            "public_inputs": self.public_inputs and self.public_inputs.to_dict(),
            "stated": asdict(self.stated),
            "plan": self.ledger and self.ledger.plan.to_dict(),
            "init_from": self.init_from and self.init_from.to_json(),
            "salt": self.salt,
            "fingerprint": self.fingerprint,
            "done": self.done,
            "ledger": self.ledger and self.ledger.to_json(),
            "about": asdict(self.about),
        }

    @classmethod
    def from_json(cls, values: Json) -> RunState:
        """What `to_json` described; the chain of its ledger isn't computed, see `Ledger.check_chain`.

        Raises:
            PrivacyError: the ledger belongs to another plan.
            DamagedFileError: a key is missing or foreign, or a value is none that stands there.
        """
        what = "the resume state"
        settings = values.get("settings")
        if not {"stated", "about"} <= values.keys() or (
            isinstance(settings, dict) and "unit" not in settings
        ):
            raise DamagedFileError(
                f"{what} is of an earlier release of dpdm: it does not say what its statement has to",
                "finish it with the release that began it, or start a new run in another --out",
            )
        own = {name: value for name, value in values.items() if name not in ("private", "plan")}
        if isinstance(stated := own["stated"], dict):
            # Of a run that was begun when files were read in one way only.
            own["stated"] = {"reading": asdict(Reading()), **stated}
        plan = optional(PrivacyPlan.from_dict)(values.get("plan"))

        def ledger(stored: object) -> Ledger | None:
            if values.get("private") is not (plan is not None) or (stored is None) != (
                plan is None
            ):
                raise ValueError("a plan without a ledger, or the other way round")
            return None if plan is None else Ledger.from_json(plan, stored)

        state = understood(
            cls,
            own,
            what,
            ledger=ledger,
            public_inputs=optional(PublicInputs.from_dict),
            init_from=optional(PublicStart.from_json),
        )
        if state.ledger is not None and state.done != state.ledger.steps:
            raise DamagedFileError("the resume state and its ledger count different steps")
        if (state.ledger is None) != (state.public_inputs is None):
            raise DamagedFileError("the resume state does not say what is public")
        return state
