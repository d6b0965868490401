"""Several processes that work together, started for a test as torchrun starts them, but in a fraction of its time.

They are forked from a server that has torch loaded; the store they meet at is this process's, as it is torchrun's.
"""

from __future__ import annotations

import math
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch.distributed as dist

from support.forkserver import server

_DEFAULTS = {"OMP_NUM_THREADS": "1", "DPDM_TIMEOUT": "60"}


class Exited(Exception):
    """A process ended without a result.

    Args:
        code: what it exited with; the negative number of the signal that killed it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"exited with {code}")
        self.code = code


def launch(
    size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 180.0,
    patience: float = math.inf,
    environment: dict[str, str] | None = None,
) -> list[Any]:
    """Call `function(*args)` in `size` processes, which torch.distributed finds as it does under torchrun.

    Args:
        function: a module's own, so that it can be found by its name; it and its arguments and result are pickled.
        timeout: seconds, after which those that are not done are killed; more than a busy machine needs.
        patience: the same, from when the first of them is done.
        environment: variables beside those that torchrun sets.

    Returns:
        For each rank what the function gave or raised (with the traceback as a note), `Exited` when the process ended
        otherwise, or TimeoutError.
    """
    context = server()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        **_DEFAULTS,
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        **(environment or {}),
    }
    running: dict[Connection, tuple[int, Any]] = {}
    outcomes: list[Any] = [TimeoutError("not done in time")] * size
    deadline = time.monotonic() + timeout
    try:
        for rank in range(size):
            answer, question = context.Pipe(duplex=False)
            variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), **shared}
            process = context.Process(target=_work, args=(question, variables, function, args))
            process.start()
            question.close()
            running[answer] = rank, process
        while running and (left := deadline - time.monotonic()) > 0:
            for answer in wait(list(running), left):
                rank, process = running.pop(answer)  # type: ignore[index, arg-type]
                outcomes[rank] = _outcome(answer, process, deadline)  # type: ignore[arg-type]
                deadline = min(deadline, time.monotonic() + patience)
    finally:
        for _, process in running.values():
            process.kill()
            process.join()
    return outcomes


def _outcome(answer: Connection, process: Any, deadline: float) -> Any:
    """What a process says, once it has ended; what lingers afterwards is a failure too."""
    try:
        kind, content = answer.recv()
    except EOFError:
        kind, content = "nothing", None
    process.join(max(0.0, deadline - time.monotonic()))
    if process.exitcode is None:
        process.kill()
        process.join()
        return TimeoutError(f"does not end; said before: {content!r}")
    if kind == "value":
        return content
    if kind == "error":
        made, arguments, attributes = content
        error = made.__new__(made)
        error.args = arguments
        error.__dict__.update(attributes)
        return error
    return Exited(process.exitcode)


def _work(
    question: Connection,
    variables: dict[str, str],
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(variables)
    import torch

    # OpenMP read its variable when the server loaded it.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        said = pickle.dumps(("value", function(*args)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        # In parts: an error whose arguments are not those of its class can't be pickled whole.
        try:
            said = pickle.dumps(("error", (type(error), error.args, vars(error))))
        except Exception:
            said = pickle.dumps(("error", (RuntimeError, (traceback.format_exc(),), {})))
    question.send_bytes(said)
    question.close()
