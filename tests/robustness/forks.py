"""Run the scripts in processes that can be killed, stopped or denied the disk at a chosen moment.

A server imports the scripts once and forks for each call, which takes milliseconds; it never runs a network
itself, since what has may not be forked. Requests and replies are lines of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 1800
"""Seconds after which a script counts as hanging, on a busy machine."""
CRASHED = 70
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
"""Audit events, besides opening for writing, by which a process changes files."""


@dataclass(frozen=True)
class Fault:
    """What happens to a script.

    Attributes
    ----------
    what : {"none", "kill", "stop", "refuse", "limit"}
        Nothing; SIGKILL or SIGSTOP just before a change to a file; an error at it, and at all that follow; or
        no file may become larger than ``at`` bytes, which ends writing in the middle, as a full disk does.
    at : int
        Number of the change, from 1; or bytes.
    under : str
        Folder whose changes count.
    error : int
        With "refuse": the error's number. Removing stays possible unless the folder is read-only.
    """

    what: str = "none"
    at: int = 0
    under: str = ""
    error: int = 0


# In the child ---------------------------------------------------------------------------------------


def _changed(event: str, arguments: tuple[Any, ...]) -> str:
    """Return the path that an audit event is about to change; empty if none."""
    if event in CHANGES and isinstance(arguments[0], str | os.PathLike):
        return os.fspath(arguments[0])
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        _, mode, flags = arguments
        writes = any(letter in (mode or "") for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
        return os.fspath(arguments[0]) if writes else ""
    return ""


def _count_changes(fault: Fault) -> Callable[[], int]:
    """Count changes below a folder, and cause the fault at its turn; return a function for the count."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        path = _changed(event, arguments)
        if not str(path).startswith(fault.under):
            return
        count += 1
        if fault.what in ("kill", "stop") and count == fault.at:
            os.kill(os.getpid(), signal.SIGKILL if fault.what == "kill" else signal.SIGSTOP)
        full = event in ("open", "os.mkdir")
        if fault.what == "refuse" and count >= fault.at and (full or fault.error != 28):
            raise OSError(fault.error, os.strerror(fault.error), path)

    if fault.under:
        sys.addaudithook(hook)
    return lambda: count


def _run(script: str, arguments: list[str], fault: Fault) -> int:
    """Run a script in this process under a fault; print how many changes there were."""
    import evaluate
    import load_data
    import training
    from common.script import run_script

    main = {"load_data": load_data.main, "training": training.main, "evaluate": evaluate.main}[script]
    if fault.what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, resource.RLIM_INFINITY))
    changes = _count_changes(fault)
    code = 0
    try:
        run_script(lambda: main(arguments))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = CRASHED
    print(f"\nCHANGES {changes()} {time.process_time()}")
    return code


def _child(request: dict[str, Any], output: int) -> None:
    """Be the forked process: never returns."""
    code = CRASHED
    try:
        signal.alarm(PATIENCE)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        code = _run(request["script"], request["arguments"], Fault(**request["fault"]))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


# In the server --------------------------------------------------------------------------------------


def serve() -> None:
    """Fork at each request, until the input ends."""
    import matplotlib.font_manager  # noqa: F401 - imported once, for all children
    import torch._dynamo  # noqa: F401 - torch's optimizers ask for it, and it takes a second

    import evaluate  # noqa: F401
    import load_data  # noqa: F401
    import training  # noqa: F401

    pipes: dict[int, int] = {}
    ended: dict[int, int] = {}

    def start(request: dict[str, Any]) -> int:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _child(request, write)
        os.close(write)
        pipes[pid] = read
        return pid

    def wait(pid: int) -> dict[str, Any]:
        with os.fdopen(pipes.pop(pid), "rb") as pipe:
            output = pipe.read().decode("utf-8", "replace")  # ends when the process does
        status = ended.pop(pid) if pid in ended else os.waitpid(pid, 0)[1]
        return {"code": os.waitstatus_to_exitcode(status), "output": output}

    def stopped(pid: int) -> bool:
        status = os.waitpid(pid, os.WUNTRACED)[1]
        if not os.WIFSTOPPED(status):
            ended[pid] = status
        return os.WIFSTOPPED(status)

    actions: dict[str, Callable[[Any], Any]] = {"start": start, "wait": wait, "stopped": stopped}
    for line in sys.stdin:
        request = json.loads(line)
        reply = actions[request["do"]](request["with"])
        print(json.dumps(reply), flush=True)


# In the tests ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """End of a script: status (negative: the signal that killed it) and output."""

    code: int
    output: str

    @property
    def changes(self) -> int:
        """Changes to files that were counted."""
        return int(self.output.rsplit("CHANGES ", 1)[1].split()[0])

    @property
    def seconds(self) -> float:
        """CPU time of the process."""
        return float(self.output.rsplit("CHANGES ", 1)[1].split()[1])


class Forker:
    """Starts scripts through a server; a context manager."""

    def __enter__(self) -> Forker:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", "from tests.robustness.forks import serve; serve()"]
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _request(self, what: str, given: object) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps({"do": what, "with": given}), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def start(self, script: str, arguments: Sequence[str], fault: Fault) -> int:
        """Start a script; return its process."""
        request = {"script": script, "arguments": list(arguments), "fault": dataclasses.asdict(fault)}
        return int(self._request("start", request))

    def wait(self, process: int) -> Ended:
        """Wait until a process has ended."""
        return Ended(**self._request("wait", process))

    def until_stopped(self, process: int) -> bool:
        """Wait until a process has stopped itself; tell whether it has, or has ended."""
        return bool(self._request("stopped", process))

    def run(self, script: str, arguments: Sequence[str], fault: Fault) -> Ended:
        """Run a script to its end."""
        return self.wait(self.start(script, arguments, fault))


def computed(process: int) -> float:
    """Return the CPU seconds of a process; infinite once it has ended."""
    try:
        cells = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return math.inf
    if cells[0] == "Z":
        return math.inf
    return sum(map(int, cells[11:13])) / os.sysconf("SC_CLK_TCK")


def kill(process: int) -> None:
    """Kill a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
