"""Folds trained at the same time, each by a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.errors import UserError

GRACE = 10.0
"""Seconds that a process has to end when it is interrupted, before it is killed."""
_SHOWN_LINES = 12
"""Lines of the log of a fold that failed that are shown."""
_SECONDS_BETWEEN_CHECKS = 0.1


def check_at_once(count: int) -> None:
    """Refuse numbers of folds that cannot be trained at the same time.

    Raises
    ------
    UserError
        If it is less than 1, or torchrun is at work: it shares one fold out over processes.
    """
    if count < 1:
        raise UserError(f"--at-once {count} trains nothing: choose 1 (one fold after the other) or more.")
    if count > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "torchrun shares each fold out over its processes, and --at-once trains folds beside each other: "
            "leave one of them away."
        )


def threads_each(threads: int, count: int) -> int:
    """Return the CPU threads of each of so many processes (0: those of torch in this one), at least 1."""
    return max(1, (threads or torch.get_num_threads()) // count)


def folds_beside(folds: int, count: int) -> list[int]:
    """Return how many folds each of these shares the machine with, itself included, of `count` at once.

    The last are fewer where the number does not go into that of the folds.
    """
    rest = folds % count
    return [count] * (folds - rest) + [rest] * rest


def devices_at_once(name: str, count: int) -> list[str]:
    """Return the name of the device of each of so many processes.

    ``auto`` and ``cuda`` take the GPUs in turn, several processes on each when they are fewer; what is named
    by its number, and a CPU, is for all.
    """
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return [name] * count
    return [f"cuda:{number % torch.cuda.device_count()}" for number in range(count)]


@dataclass
class _FoldProcess:
    """A process that trains one fold, and its log."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    def result(self) -> str:
        """Return how it ended, with the end of its log if it failed."""
        seconds = time.monotonic() - self.started
        status = self.process.returncode
        if status == 0:
            return f"{self.name} is trained, after {seconds:.0f} s."
        end = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"failed (exit status {status})"
        )
        last = "\n".join(f"    {line}" for line in last_lines(self.log)) or "    (nothing)"
        return f"{self.name} {end} after {seconds:.0f} s. The end of {self.log}:\n{last}"


def _start_fold(name: str, command: Sequence[str], log: Path) -> _FoldProcess:
    """Start a process whose output goes into a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    quiet = {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "60"}  # bars are for screens
    with log.open("wb") as file:
        process = subprocess.Popen(  # a session of its own: Ctrl-C is for this process, which passes it on
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | quiet,
            start_new_session=True,
        )
    return _FoldProcess(name, log, process)


def train_at_once(commands: Mapping[str, Sequence[str]], devices: Sequence[str], log_folder: Path) -> None:
    """Run the commands of folds to the end of all, as many at the same time as there are devices.

    Parameters
    ----------
    commands : mapping
        Command of each fold, by its name; ``--device`` and a free device are added.
    devices : sequence of str
        Names of devices, one for each process; the same one may stand there several times.
    log_folder : pathlib.Path
        Gets ``<fold>.log`` of each.

    Raises
    ------
    UserError
        At the end, if one failed; the others are trained.
    KeyboardInterrupt
        At Ctrl-C, and at SIGTERM or SIGHUP; the others are stopped first.
    """
    waiting, running, failed = list(commands), dict[int, _FoldProcess](), list[str]()
    with _interrupted_by(signal.SIGTERM, signal.SIGHUP), contextlib.ExitStack() as stack:
        stack.callback(lambda: stop([fold.process for fold in running.values()]))
        while waiting or running:
            for number in sorted(set(range(len(devices))) - running.keys())[: len(waiting)]:
                name = waiting.pop(0)
                command = [*commands[name], "--device", devices[number]]
                running[number] = _start_fold(name, command, log_folder / f"{name}.log")
                process = running[number].process.pid
                print(f"{name} begins, as process {process}: {running[number].log}", flush=True)
            time.sleep(_SECONDS_BETWEEN_CHECKS)
            for number, fold in [*running.items()]:
                if fold.process.poll() is not None:
                    del running[number]
                    print(fold.result(), flush=True)
                    failed += [fold.name] if fold.process.returncode else []
    if failed:
        raise UserError(
            f"{', '.join(sorted(failed))} failed, as said above; what was finished is kept. With the cause "
            "mended, the same command with --resume (and without --overwrite) trains what is missing."
        )


@contextlib.contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals that would end this process at once end the block as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()  # the only one that is interrupted
    changed = [number for number in numbers if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Interrupt processes; kill those, and what they started, that do not end within `GRACE` seconds."""
    there = [process for process in processes if process.poll() is None]
    deadline = time.monotonic() + GRACE
    try:
        for process in there:
            process.send_signal(signal.SIGINT)
        while any(process.poll() is None for process in there) and time.monotonic() < deadline:
            time.sleep(_SECONDS_BETWEEN_CHECKS)
    finally:  # whoever is interrupted again waits no longer
        for process in there:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log that are not empty; of a progress bar, its last state."""
    text = log.read_bytes().decode("utf-8", errors="replace")  # read as text, "\r" would end a line
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-_SHOWN_LINES:]


def fold_command(script: Path, words: Sequence[str], fold: str, threads: int, cache: Path) -> list[str]:
    """Return the command that trains one fold of a run that is opened, as one of several.

    Parameters
    ----------
    script : pathlib.Path
        training.py.
    words : sequence of str
        What the user gave it.
    fold : str
        Number of the fold, or none.
    threads : int
        CPU threads of the process; 0: it chooses.
    cache : pathlib.Path
        That of the run: the latest may be another by the time it is opened.
    """
    return [
        *(sys.executable, str(script), *words),
        *("--folds", fold, "--at-once", "1", "--resume", "--no-overwrite"),
        *("--threads", str(threads), "--cache", str(cache)),
    ]
