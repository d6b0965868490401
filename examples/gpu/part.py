"""Run one part of first_hour.sh and write it into a JSON file; with the file alone, print what is in it.

    python part.py first_hour.json NAME LIMIT COMMAND...

A part that has finished is not run again; one that failed or ran past LIMIT seconds is.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

LONGEST = 20_000
"""Characters of what a part printed that are kept, the last ones."""


def main() -> None:
    file = Path(sys.argv[1])
    parts: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if not sys.argv[2:]:
        for name, part in parts.items():
            print(f"{'done' if part['exit'] == 0 else 'FAILED':7} {part['seconds']:7.0f} s  {name}")
        return
    name, limit, *command = sys.argv[2:]
    if parts.get(name, {}).get("exit") == 0:
        print(f"done before: {name}")
        return
    print(f"{name}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    code, text = run(command, float(limit))
    parts[name] = {
        "command": command,
        "exit": code,
        "seconds": round(time.monotonic() - started, 1),
        "device": device(),
        "torch": torch.__version__,
        "commit": commit(),
        "result": result_in(text),
        "printed": text[-LONGEST:],
    }
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(parts, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file)
    print(f"{name}: exit {code} after {parts[name]['seconds']} s", flush=True)


def run(command: list[str], limit: float) -> tuple[int, str]:
    """Exit status, 124 past the limit, and what was printed."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as late:
        return 124, (late.stdout or b"").decode(errors="replace")
    return done.returncode, done.stdout.decode(errors="replace")


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()


def commit() -> str:
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def result_in(text: str) -> Any:
    """The last line that is a JSON object; None without one."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return None


if __name__ == "__main__":
    main()
