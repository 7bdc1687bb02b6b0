"""Folds in processes of their own: how many at a time, where, what is said, and how all of them end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from learning.parallel_folds import (
    check_at_once,
    devices_at_once,
    fold_command,
    folds_beside,
    last_lines,
    stop,
    threads_each,
    train_at_once,
)
from systems.registry import TASKS
from training import read_training_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys):
    """Return what runs a piece of Python for each fold and returns the messages, without what varies."""

    def run(folder: Path, codes: dict[str, str]) -> list[str]:
        python = [sys.executable, "-S", "-c"]
        commands = {
            name: [*python, f"import sys; place = sys.argv[-1]\n{code}"] for name, code in codes.items()
        }
        errors = []
        try:
            train_at_once(commands, ("0", "1"), folder)
        except UserError as error:
            errors.append(str(error))
        said = re.split(r"\n(?=fold_)", capsys.readouterr().out.strip())
        return [re.sub(r"process \d+|\d+ s", "-", text) for text in [*said, *errors]]

    return run


def test_each_fold_writes_its_log_and_is_reported_of_in_a_line(tmp_path, run):
    said = run(tmp_path, {"fold_0": "print('one')", "fold_1": "print('two')"})
    assert said[:2] == [f"fold_{k} begins, as -: {tmp_path / f'fold_{k}.log'}" for k in (0, 1)]
    assert sorted(said[2:]) == ["fold_0 is trained, after -.", "fold_1 is trained, after -."]
    assert (tmp_path / "fold_1.log").read_text() == "two\n"


WAITS = """
import pathlib, time
mine, other = pathlib.Path({mine!r}), pathlib.Path({other!r})
mine.touch()
deadline = time.monotonic() + 30
while not other.exists():
    assert time.monotonic() < deadline, "nobody beside this one"
    time.sleep(0.02)
"""


def test_two_run_at_the_same_time_and_no_third(tmp_path, run):
    """The first two wait for each other; the third finds that one of them is through."""
    a, b, through = (tmp_path / name for name in ("a", "b", "through"))
    codes = {
        "fold_0": WAITS.format(mine=str(a), other=str(b)) + f"time.sleep(0.3); open({str(through)!r}, 'w')",
        "fold_1": WAITS.format(mine=str(b), other=str(a)) + f"time.sleep(0.3); open({str(through)!r}, 'w')",
        "fold_2": f"import os; assert os.path.exists({str(through)!r}); print('place', place)",
    }
    said = run(tmp_path, codes)
    assert sum("is trained" in text for text in said) == 3, said
    assert (tmp_path / "fold_2.log").read_text() in ("place 0\n", "place 1\n")


def test_one_that_fails_is_shown_and_the_others_finish(tmp_path, run):
    said = run(tmp_path, {"fold_0": "print('the cause'); raise SystemExit(3)", "fold_1": "", "fold_2": ""})
    failed = next(text for text in said if "failed (exit" in text)
    assert "fold_0 failed (exit status 3)" in failed and failed.endswith("fold_0.log:\n    the cause")
    assert sum("is trained" in text for text in said) == 2
    assert said[-1].startswith("fold_0 failed, as said above;") and "--resume" in said[-1]


def test_one_that_is_killed_is_a_failure(tmp_path, run):
    said = run(tmp_path, {"fold_0": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"})
    assert "fold_0 was killed by SIGKILL" in said[1] and "(nothing)" in said[1]


TRAINER = """
import sys
from pathlib import Path
from common.script import run_script
from learning.parallel_folds import train_at_once
code = "import time\\ntry:\\n    print('up', flush=True)\\n    time.sleep(60)\\nfinally:\\n    print('tidy')"
commands = {f"fold_{k}": [sys.executable, "-S", "-c", code] for k in range(2)}
run_script(lambda: train_at_once(commands, ("0", "1"), Path(sys.argv[1])))
"""


def hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background, which these tests may be."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "told-to-end"])
def test_stopping_stops_all(tmp_path, number):
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    ) as process:
        try:
            deadline = time.monotonic() + 120
            logs = [tmp_path / f"fold_{k}.log" for k in range(2)]
            while not all(log.exists() and "up" in log.read_text() for log in logs):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Stopped. What was finished is kept" in error and "Traceback" not in error
    for pid in re.findall(r"process (\d+)", out):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert all("tidy" in log.read_text() for log in logs), "each could clean up"


def test_one_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr("learning.parallel_folds.GRACE", 0.3)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", f"{code}; time.sleep(60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == b"deaf\n"
    stop([process])
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_of_a_progress_bar_the_last_state_is_shown(tmp_path):
    (tmp_path / "log").write_bytes(b"first\n\n 1%|\r 50%|\r 99%|\nError: \xff\n")
    assert last_lines(tmp_path / "log") == ["first", " 99%|", "Error: �"]


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_is_refused(count):
    with pytest.raises(UserError, match=f"--at-once {count} trains nothing"):
        check_at_once(count)


def test_under_torchrun_it_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_at_once(1)
    with pytest.raises(UserError, match="torchrun shares each fold out"):
        check_at_once(2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_at_once(2)


@pytest.mark.parametrize(("threads", "count", "each"), [(8, 2, 4), (8, 3, 2), (2, 5, 1)])
def test_threads_are_shared(threads, count, each):
    assert threads_each(threads, count) == each


def test_the_last_folds_share_the_threads_among_fewer():
    assert folds_beside(5, 2) == [2, 2, 2, 2, 1]
    assert folds_beside(4, 2) == [2] * 4
    assert folds_beside(2, 3) == [2, 2]
    assert folds_beside(5, 3) == [3, 3, 3, 2, 2]


def test_without_a_number_the_threads_of_this_process_are_shared(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert threads_each(0, 3) == 2


@pytest.mark.parametrize(
    ("name", "gpus", "devices"),
    [
        ("auto", 0, ["auto"] * 5),
        ("cpu", 2, ["cpu"] * 5),
        ("auto", 1, ["cuda:0"] * 5),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        ("auto", 8, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4"]),
        ("cuda:1", 2, ["cuda:1"] * 5),
    ],
)
def test_gpus_are_taken_in_turn(monkeypatch, name, gpus, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert devices_at_once(name, 5) == devices


@pytest.mark.parametrize("task", TASKS)
def test_the_last_words_win_in_every_task(task, tmp_path):
    given = ["--folds", "0", "1", "--at-once", "2", "--overwrite", "--threads", "4", "--seed", "3"]
    _, _, *words = fold_command(Path("training.py"), given, "1", 2, tmp_path)
    settings = read_training_settings(task, [*words, "--device", "cpu"])
    assert (settings.folds, settings.at_once, settings.threads, settings.seed) == ((1,), 1, 2, 3)
    assert settings.resume and not settings.overwrite
    assert (settings.device, settings.cache) == ("cpu", tmp_path)
    _, _, *words = fold_command(Path("training.py"), given, "none", 2, tmp_path)
    assert read_training_settings(task, [*words, "--device", "cpu"]).folds == "none"
