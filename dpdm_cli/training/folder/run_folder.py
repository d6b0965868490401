"""The folder of a training run: what may be published on top, what must stay under `private/`.

OUT/model.safetensors   averaged weights, network, statement
OUT/statement.json      the claim
OUT/samples.png         a grid drawn from the model
OUT/previews/           grids drawn on the way, when asked for
OUT/manifest.json       SHA-256 of the files above, written last
OUT/private/            what resuming needs; losses, when asked for. Not covered by the claim.
OUT/synth/              and others like it: sets of samples, each with a manifest of its own

A released model has such a folder too, without `private/` and with a card, README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import disk_usage

from torch import Tensor

from dpdm_cli.checkpoint import read_tensors, write_tensors
from dpdm_cli.errors import DamagedFileError, DataError, PrivacyError, ResourceError, UsageError
from dpdm_cli.files import (
    CARD,
    check_digests,
    disk_errors,
    is_left_over,
    lock_file,
    private_folder,
    read_json,
    sha256_of,
    write_bytes,
)
from dpdm_cli.privacy.statement import AnyStatement
from dpdm_cli.stored import COPY_AGAIN, json_text
from dpdm_cli.training.folder.manifest import (
    MANIFEST,
    PREVIEWS,
    REQUIRED,
    Manifest,
    is_preview,
    preview_name,
)
from dpdm_cli.training.folder.run_state import RunState

_NOTICE = (
    "The files here depend on the private images beyond what the privacy claim covers.\n"
    "It is needed to resume the run. Do not publish it.\n"
)


class RunFolder:
    """Paths and state of one run.

    Args:
        path: the folder; created by `open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.private = path / "private"
        self.model, self.statement = (path / name for name in REQUIRED)
        self.samples = path / "samples.png"
        self.previews = path / PREVIEWS
        self.card = path / CARD
        self.state = self.private / "state.safetensors"
        self.losses = self.private / "losses.jsonl"
        self._notice = self.private / "README.txt"
        self._lock = self.private / "lock"

    @contextmanager
    def open(self, *, resume: bool) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            UsageError: the folder is not empty and `resume` is off, or another run holds it.
            DataError: `resume` is on and there is nothing to resume.
            ResourceError: the folder cannot be made.
        """
        with ExitStack() as held:
            try:
                self._check(resume)
                private_folder(self.private)
                held.callback(self._remove_if_empty)
                held.enter_context(
                    lock_file(self._lock, f"{self.path}: another run holds this folder")
                )
                held.callback(self._forget_if_nothing_was_saved)
                self._check(resume)  # once more: until now another run may have been at it
                self._tidy(resume)
            except OSError as error:
                raise ResourceError(
                    f"{self.path}: cannot write: {error.strerror or error}", "choose another --out"
                ) from error
            yield

    def _check(self, resume: bool) -> None:
        if resume and not self.state.is_file():
            raise DataError(
                f"{self.path}: no run to resume here", "leave --resume out to start one"
            )
        if not resume and self.path.exists() and not self._holds_nothing():
            raise UsageError(
                f"{self.path} is not empty",
                "choose another --out, or add --resume to continue the run that is there",
            )

    def _holds_nothing(self) -> bool:
        """Whether nothing is lost by starting here: it is empty, or its run was killed before the first save."""
        if not self.path.is_dir() or any(entry != self.private for entry in self.path.iterdir()):
            return False
        needless = (self._notice, self._lock, self.losses)
        return not self.private.exists() or all(
            entry in needless or is_left_over(entry) for entry in self.private.iterdir()
        )

    def _tidy(self, resume: bool) -> None:
        """Remove what a killed run left that is of no use; say what lies here."""
        for folder in (self.path, self.private, self.previews):
            for entry in folder.iterdir() if folder.is_dir() else ():
                if is_left_over(entry):
                    entry.unlink(missing_ok=True)
        if not resume:
            self.losses.unlink(missing_ok=True)
        if not self._notice.exists():
            write_bytes(self._notice, _NOTICE.encode(), private=True)

    def _forget_if_nothing_was_saved(self) -> None:
        """A run that failed before its first save leaves no folder that the next try would be refused for."""
        with suppress(OSError):
            if not self.state.exists():
                self._notice.unlink(missing_ok=True)
                self.losses.unlink(missing_ok=True)

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.private.rmdir()
            self.path.rmdir()

    def check_room(self, tensors: dict[str, Tensor]) -> None:
        """Refuse to begin what the disk has no room for: two states, the old one beside the new, and the model.

        Raises:
            ResourceError: there is less.
        """
        needed = 3 * sum(tensor.nbytes for tensor in tensors.values())
        free = disk_usage(self.path).free
        if free < needed:
            raise ResourceError(
                f"{self.path}: the run needs {needed:,} bytes of the disk, {free:,} are free",
                "free space, or choose another --out; no step was taken",
            )

    def save_state(self, tensors: dict[str, Tensor], state: RunState) -> None:
        """Replace the resume state; the old one stays whole until the new one is.

        A folder that has been removed is made anew.
        """
        with suppress(OSError):  # what it is, writing says
            private_folder(self.private)
        write_tensors(self.state, tensors, "state", state.to_json(), private=True)

    def load_state(self) -> tuple[dict[str, Tensor], RunState]:
        """The resume state; raises as `read_tensors` and `RunState.from_json` do."""
        tensors, header = read_tensors(self.state, "state")
        try:
            return tensors, RunState.from_json(header)
        except (DamagedFileError, PrivacyError) as error:
            raise type(error)(f"{self.state}: {error.message}", error.hint) from error

    def write_statement(self, statement: AnyStatement) -> None:
        """Write the claim for people and programs."""
        write_bytes(self.statement, json_text(statement.to_json()))

    def preview(self, step: int) -> Path:
        """Where the grid drawn after a step is kept; its folder is made if need be.

        Raises:
            ResourceError: that cannot be made.
        """
        path = self.path / preview_name(step)
        with disk_errors(path, "free space and go on with --resume, or without --preview"):
            path.parent.mkdir(exist_ok=True)
        return path

    def check_previews(self, every: int | None, done: int) -> None:
        """Whether the previews of an unfinished run are those it would have if it had never been interrupted.

        Others would tell when it was, which follows the clock, and so the private images.

        Args:
            every: so many steps one is drawn; None for none.
            done: steps. The last of them may have been saved and not drawn yet.

        Raises:
            UsageError: they are others.
        """
        if self.is_complete:
            return
        steps = range(every, done + 1, every) if every else range(0)
        expected = {preview_name(step) for step in steps}
        found = {file.relative_to(self.path).as_posix() for file in self._previews()}
        if found in (expected, expected - {preview_name(done)}):
            return
        wanted = f"--preview {every}" if every else "no --preview"
        raise UsageError(
            f"{self.previews} holds {len(found)} previews, where a run with {wanted} has {len(expected)} by now",
            f"resume with the --preview it was started with, or without one and without {self.previews}",
        )

    def write_manifest(self, *others: Path) -> None:
        """Hash what may be published; written last, so that its presence means the run is complete.

        Args:
            others: files beside the model and its statement; by default the samples, and the previews there are.
        """
        files = (self.model, self.statement, *(others or (self.samples, *self._previews())))
        digests = {file.relative_to(self.path).as_posix(): sha256_of(file) for file in files}
        write_bytes(self.path / MANIFEST, json_text(Manifest(digests).to_json()))

    def _previews(self) -> list[Path]:
        found = self.previews.iterdir() if self.previews.is_dir() else ()
        return [f for f in found if is_preview(f.relative_to(self.path).as_posix())]

    @property
    def is_complete(self) -> bool:
        """Whether the run has been finished and written out."""
        return (self.path / MANIFEST).is_file()

    def check_manifest(self) -> list[Path]:
        """Compare what may be published with the hashes written when the run was complete.

        Returns:
            What lies here beside the files of the manifest and a run's own `private/`, which nothing that was released
            has: nobody vouches for it.

        Raises:
            DamagedFileError: a file is missing or changed, or the manifest itself is damaged.
        """
        manifest = self.manifest()
        check_digests(self.path, manifest.sha256)
        known = {*manifest.sha256, MANIFEST}
        if CARD not in known:
            known.add(self.private.name)
        entries = [*self.path.iterdir()]
        if manifest.previews:
            known.add(PREVIEWS)
            entries += self.previews.iterdir()
        names = {entry.relative_to(self.path).as_posix(): entry for entry in entries}
        return sorted(entry for name, entry in names.items() if name not in known)

    def manifest(self) -> Manifest:
        """What was written down when the run was complete. Raises DamagedFileError: nothing, or none."""
        path = self.path / MANIFEST
        try:
            return Manifest.from_json(read_json(path))
        except DamagedFileError as error:
            if str(path) in error.message:
                raise
            raise DamagedFileError(f"{path}: damaged: {error.message}", COPY_AGAIN) from error
