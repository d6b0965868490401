"""No hostile file is taken for whole, and none breaks a command: a few of each kind, or DPDM_FUZZ=200 of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.command_children import make
from support.fuzzing import KINDS, attempts

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("DPDM_FUZZ", 4))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("fuzz")
    make(home)
    return home


@pytest.mark.parametrize("name", KINDS)
def test_no_mutation_is_taken_for_whole_and_none_breaks_a_command(name: str, home: Path) -> None:
    faults = [
        f"{seed}: dpdm {' '.join(words)}: {fault}\n{done.err[-2000:]}"
        for seed, words, done, fault in attempts(KINDS[name], home, COUNT)
        if fault
    ]
    assert not faults, "\n".join(faults)
