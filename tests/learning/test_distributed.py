"""One process or several: each knows its place, and two learn what one learns."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy_learner import build, toy_run, train, untimed

from learning.checkpoint import load_checkpoint
from learning.distributed import (
    Processes,
    is_lost_connection,
    process_group,
    start_processes,
    stop_processes,
)
from learning.loop import unwrap

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).with_name("toy_learner.py")


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a script in two CPU processes and return how it ended."""
    done = launch(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a script in two CPU processes and return how it ended."""
    with start(*command) as process:
        try:
            said, error = process.communicate(timeout=300)
        finally:
            process.terminate()
    return subprocess.CompletedProcess(command, process.returncode, said, error)


def start(*command: str) -> subprocess.Popen[str]:
    """Start a script in two CPU processes that find each other on this machine alone."""
    words = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    places = ["--local-addr", "127.0.0.1"]
    alone = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words, *places, *command],
        cwd=ROOT,
        env=os.environ | alone | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = start_processes("cpu")
    model, value = nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    assert (processes.rank, processes.count, processes.leads) == (0, 1, True)
    assert processes.wrap(model, torch.device("cpu")) is model
    assert unwrap(model) is model
    assert processes.share({"a": 1}) == {"a": 1}
    assert torch.equal(processes.mean(value), value)
    stop_processes()


def test_only_the_first_process_leads():
    assert [Processes(rank, 3, rank).leads for rank in range(3)] == [True, False, False]


def train_alone(folder: Path, settings: dict[str, Any]) -> tuple[list[dict[str, float]], nn.Module]:
    model, progress, _ = train(toy_run(folder, **settings), build(plain=True))
    return untimed(progress.history), model


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 5},
        # without a validation part the training loss moves the learning rate: it must be one for all
        {
            "epochs": 8,
            "schedule": "plateau",
            "plateau_patience": 0,
            "learning_rate": 0.3,
            "validation": False,
        },
    ],
    ids=["followed", "plateau-on-the-training-loss"],
)
def test_two_processes_learn_what_one_learns(tmp_path, settings):
    """A network without batch statistics or dropout, the same samples in every step."""
    alone, model = train_alone(tmp_path / "one", settings)
    torchrun(str(TOY), str(tmp_path), json.dumps(settings))
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["count"] == second["count"] == 2
    assert len(first["history"]) == len(alone)
    for pair, single in zip(first["history"], alone, strict=True):
        for name in {"train/loss", "val/loss", "val/accuracy", "gradient_norm"} & single.keys():
            assert pair[name] == pytest.approx(single[name], abs=1e-5, rel=1e-4), name
    assert second["norm"] == first["norm"], "both processes have the same weights"
    assert first["left"] == second["left"] == [], "a thread that outlives the group may abort the process"
    saved = load_checkpoint(tmp_path / "last.pt")
    assert saved["progress"]["epoch"] == settings["epochs"]
    for name, weight in model.state_dict().items():
        assert torch.allclose(saved["model"][name], weight, atol=1e-4), name


def test_torchrun_trains_one_run(simulated_cache, tmp_path):
    options = "--preset small --width 8 --points 100 --epochs 1 --protocol beat --folds 0 --threads 1"
    places = ["--checkpoint-dir", str(tmp_path / "ck"), "--log-dir", str(tmp_path / "runs")]
    done = torchrun(
        str(ROOT / "training.py"),
        *options.split(),
        *("--cache", str(simulated_cache.path), "--device", "cpu", "--precision", "float32", "--overwrite"),
        *places,
    )
    assert done.stdout.count("Run ecg-pcg-pacfnet-beat-small-seed42") == 1, "only one process prints"
    run = tmp_path / "ck" / "ecg-pcg-pacfnet-beat-small-seed42"
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert found == {"settings.json", "splits.csv", "fold_0/best.pt", "fold_0/last.pt"}
    best = load_checkpoint(run / "fold_0" / "best.pt")
    assert best["progress"]["finished"]
    assert 0 <= best["threshold"] <= 1
    assert not any(name.startswith("module.") for name in best["model"]), "no trace of the wrapper"
    events = list((tmp_path / "runs").rglob("fold_0/events*"))
    assert len(events) == 1


def rank_of(pid: int) -> str | None:
    """Return the rank that torchrun gave a process, if it did."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next((word[5:].decode() for word in words if word.startswith(b"RANK=")), None)
    return None


def processes_of(parent: int) -> dict[str, int]:
    """Return the processes that torchrun started, by rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return {rank: int(pid) for pid in children if (rank := rank_of(int(pid))) is not None}


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the system does not list processes in /proc"
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_process_ends_the_run_in_a_sentence_and_it_goes_on(simulated_cache, tmp_path, rank):
    size = "--preset small --width 8 --points 100 --epochs 2 --batch-size 4 --threads 1"
    options = [
        *(*size.split(), "--protocol", "beat", "--folds", "0"),
        *("--cache", str(simulated_cache.path), "--device", "cpu", "--precision", "float32"),
        *("--checkpoint-dir", str(tmp_path / "ck"), "--log-dir", str(tmp_path / "runs"), "--run-name", "run"),
    ]
    last = tmp_path / "ck" / "run" / "fold_0" / "last.pt"
    with start(str(ROOT / "training.py"), *options) as command:
        try:
            deadline = time.monotonic() + 200
            while not last.exists():
                assert command.poll() is None, command.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(processes_of(command.pid)[rank], signal.SIGKILL)
            killed = time.monotonic()
            _, error = command.communicate(timeout=60)
        finally:
            command.terminate()
    assert command.returncode != 0
    assert time.monotonic() - killed < 60
    said = " ".join(error.split())
    assert said.count("Error: One of the 2 processes that train together was lost") == 1, error
    assert "--resume goes on" in said
    progress = load_checkpoint(last)["progress"]
    assert progress["epoch"] == 1 and not progress["finished"]
    if rank == "1":
        torchrun(str(ROOT / "training.py"), *options, "--resume")
        progress = load_checkpoint(last)["progress"]
        assert progress["epoch"] == 2 and progress["finished"]
        assert "threshold" in load_checkpoint(last.with_name("best.pt"))


def test_only_what_waited_in_vain_is_called_a_loss(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError, match="shapes"), process_group("cpu"):
        raise RuntimeError("shapes differ")
    assert not is_lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert is_lost_connection(dist.DistBackendError("NCCL error"))


WAITS = """
import threading, time
from learning.distributed import Processes, _sigterm_explained
with _sigterm_explained(Processes(rank={rank}, count=8, local_rank={rank}), threading.Lock()):
    print("waits", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("rank", "sentences"), [(0, 1), (5, 0)])
def test_a_process_that_torchrun_ends_says_why_and_not_all_do(rank, sentences):
    with subprocess.Popen(
        [sys.executable, "-c", WAITS.format(rank=rank)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
        process.terminate()
        _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert " ".join(error.split()).count("One of the 8 processes that train together was lost") == sentences
