"""The examples for clusters, run as they stand, with this machine in the place of the nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.drawn import contents, draw, save

from dpdm_cli import verify
from dpdm_cli.checkpoint import read_tensors

pytestmark = pytest.mark.slow

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


# In the place of Python under torchrun: each process waits in its third step for somebody who asks it to stop.
WAITING = """
import os
import sys
import time
from pathlib import Path

from dpdm_cli.__main__ import main
from dpdm_cli.training import run as training

take_steps = training.take_steps


def take_two_steps(trainer, folder, facts, stop, *others):
    step = trainer.step

    def step_and_wait():
        step()
        if trainer.done == 2:
            Path("waits-" + os.environ["RANK"]).touch()
            until = time.monotonic() + 300
            while not stop and time.monotonic() < until:
                time.sleep(0.02)

    trainer.step = step_and_wait
    take_steps(trainer, folder, facts, stop, *others)


training.take_steps = take_two_steps
sys.argv[:4] = ["dpdm"]  # -u -m dpdm_cli
main()
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Variables and commands of a Slurm job on two nodes, both of them here."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    (tmp_path / "waiting.py").write_text(WAITING)
    scripts = {
        "scontrol": 'if [ "$1" = show ]; then printf "localhost\\nlocalhost\\n"; else echo "$@" >> requeued; fi',
        "srun": (
            '"$@" & first=$!; "$@" & second=$!; echo $first $second > tasks; code=0; '
            "wait $first || code=$?; wait $second || code=$?; exit $code"
        ),
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "dpdm": f'exec {sys.executable} -m dpdm_cli "$@"',
        "waiting": f'exec {sys.executable} waiting.py "$@"',
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


def test_the_slurm_job_saves_at_its_signal_goes_back_into_the_queue_and_ends_on_two_nodes(
    machine: dict[str, str], tmp_path: Path
) -> None:
    script = ["bash", str(EXAMPLES / "slurm.sh"), "digits", "run", *TINY, "--log-losses"]
    command = tmp_path / "bin" / "waiting"
    job = subprocess.Popen(script, cwd=tmp_path, env={**machine, "PYTHON_EXEC": str(command)})
    until = time.monotonic() + 300
    while len(list(tmp_path.glob("waits-*"))) < 2:
        assert job.poll() is None
        assert time.monotonic() < until, "no two steps were taken"
        time.sleep(0.05)
    for task in (tmp_path / "tasks").read_text().split():  # whom Slurm sends it to, not the script
        os.kill(int(task), signal.SIGTERM)
    assert job.wait(300) != 0
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert done(tmp_path) == 2
    assert not (tmp_path / "run" / "manifest.json").exists()

    # The queue starts the same command again.
    subprocess.run(script, cwd=tmp_path, env=machine, check=True, timeout=300)
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert done(tmp_path) == 4
    losses = (tmp_path / "run" / "private" / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in losses] == [1, 2, 3, 4]  # none is taken twice
    verify([tmp_path / "run"])

    # One that would fail again does not go back into the queue.
    (tmp_path / "run" / "manifest.json").unlink()
    failed = subprocess.run([*script, "--clip-norm", "3"], cwd=tmp_path, env=machine, timeout=300)
    assert failed.returncode != 0
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"


def done(folder: Path) -> int:
    steps = read_tensors(folder / "run" / "private" / "state.safetensors", "state")[1]["done"]
    return int(steps)


def test_the_job_array_draws_what_its_comment_merges_to_the_set_of_one_process(
    machine: dict[str, str], tmp_path: Path
) -> None:
    script = EXAMPLES / "slurm_sample.sh"
    submitted, merged = re.findall(r"\n#   (.+)", script.read_text().replace("60000", "1200"))
    arguments = submitted.split()[2:]
    run = tmp_path / arguments[0]
    run.mkdir(parents=True)
    save(run / "model.safetensors")
    few = ["--steps", "2", "--device", "cpu"]
    tasks = []
    for number in ("1", "2"):
        array = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "2"}
        tasks.append(
            subprocess.Popen(
                ["bash", str(script), *arguments, *few], cwd=tmp_path, env={**machine, **array}
            )
        )
    assert [task.wait(300) for task in tasks] == [0, 0]
    merging = ["bash", "-c", " ".join([merged, *few, "--json"])]
    sealed = subprocess.run(
        merging, cwd=tmp_path, env=machine, check=True, timeout=300, stdout=subprocess.PIPE
    )
    said = json.loads(sealed.stdout)
    assert (said["n"], said["drawn_now"], said["out"]) == (1200, 0, arguments[2])
    draw(run, tmp_path / "whole", n=1200, batch_size=1000, steps=2)
    assert contents(tmp_path / "synth") == contents(tmp_path / "whole")


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
    assert [node.wait(300) for node in nodes] == [0, 0]
    verify([tmp_path / "run"])
