"""The examples for clusters, run as they stand, with this machine in the place of the nodes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dpdm_cli import verify
from dpdm_cli.runs.checkpoint import read_tensors

EXAMPLES = Path(__file__).parents[2] / "examples" / "multi_gpu"
TINY = ["--preset", "small", "--config", "tiny.toml", "--device", "cpu"]
SETTINGS = """
width = 8
embedding = 8
multipliers = [1]
micro_batch = 16
steps = 4
batch_size = 32
warm_start = "none"
delta = 1e-4
accountant = "rdp"
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Variables and commands of a Slurm job on two nodes, both of them here."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    scripts = {
        "scontrol": 'if [ "$1" = show ]; then printf "localhost\\nlocalhost\\n"; else echo "$@" >> requeued; fi',
        "srun": '"$@" & first=$!; "$@" & second=$!; wait $first && wait $second',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "dpdm": f'exec {sys.executable} -m dpdm_cli "$@"',
    }
    for name, script in scripts.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (commands / name).chmod(0o755)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "DPDM_TIMEOUT": "60",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "17",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "PORT": str(port),
    }


def test_the_slurm_job_trains_on_two_nodes(machine: dict[str, str], tmp_path: Path) -> None:
    script = ["bash", str(EXAMPLES / "slurm.sh"), "digits", "run", *TINY]
    subprocess.run(script, cwd=tmp_path, env=machine, check=True, timeout=180)
    assert not (tmp_path / "requeued").exists()
    assert read_tensors(tmp_path / "run" / "private" / "state.safetensors", "state")[1]["done"] == 4
    verify([tmp_path / "run"])
    # One that would fail again does not go back into the queue.
    (tmp_path / "run" / "manifest.json").unlink()
    failed = subprocess.run([*script, "--clip-norm", "3"], cwd=tmp_path, env=machine, timeout=180)
    assert failed.returncode != 0
    assert not (tmp_path / "requeued").exists()


def test_the_kubernetes_job_trains_on_two_nodes(machine: dict[str, str], tmp_path: Path) -> None:
    text = (EXAMPLES / "kubernetes.yaml").read_text()
    (args,) = re.findall(r"\n {10}args:\n((?: {12}- .*\n)+)", text)
    values = {"HEAD": "127.0.0.1", "GPUS": "1"}
    nodes = []
    for index in range(2):
        words = [line.strip()[2:] for line in args.splitlines()]
        values["JOB_COMPLETION_INDEX"] = str(index)
        for name, value in values.items():
            words = [word.replace(f"$({name})", value) for word in words]
        assert not any("$(" in word for word in words)
        local = {"29500": machine["PORT"], "/data/images.safetensors": "digits", "/data/run": "run"}
        for name, value in local.items():
            words = [word.replace(name, value) for word in words]
        command = ["torchrun", *words, *TINY]
        nodes.append(
            subprocess.Popen(
                [str(tmp_path / "bin" / command[0]), *command[1:]], cwd=tmp_path, env=machine
            )
        )
    assert [node.wait(180) for node in nodes] == [0, 0]
    verify([tmp_path / "run"])
