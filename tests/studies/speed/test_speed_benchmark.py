from __future__ import annotations

import dataclasses
import os
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from studies.speed import benchmark as speed
from studies.speed import machine, training
from studies.speed.training import AtOnce, Form, Trainee, forms
from systems.ecg_pcg.settings import ModelSettings

CPU = torch.device("cpu")
TINY = ModelSettings(width=8, points=250, dropout=0.0)


def test_rates_are_those_of_the_calls_that_are_timed(monkeypatch):
    monkeypatch.setattr(machine, "seconds_of", lambda call, device: 0.5)
    assert machine.matrix_rate(CPU, torch.float32, side=10) == 2 * 10**3 / 0.5
    assert machine.copy_rate(CPU, size=100) == 2 * 100 / 0.5


@pytest.mark.parametrize("native", [True, False])
def test_products_in_emulated_bfloat16_are_not_timed(monkeypatch, native):
    """One took a minute on a processor with AVX2 only, and there are eleven."""
    chosen = torch.bfloat16 if native else torch.float32
    monkeypatch.setattr(machine, "choose_precision", lambda name, device: chosen)
    monkeypatch.setattr(machine, "matrix_rate", lambda device, kind: {torch.float32: 1e9}.get(kind, 4e9))
    monkeypatch.setattr(machine, "copy_rate", lambda device: 5e9)
    rows = [(row["case"].split(", ")[-1], row["value"], row["ratio"]) for row in machine.measure(CPU)]
    half = [("bfloat16", 4.0, 4.0)] if native else []
    assert rows == [("float32", 1.0, 1.0), *half, ("read and written", 5.0, None)]


def test_the_median_call_counts_and_two_are_left_out(monkeypatch):
    clock = iter([0, 100, 0, 100, 0, 1, 0, 2, 0, 30])  # begin and end of five calls
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    assert machine.seconds_of(lambda: None, CPU, rounds=3) == 2


def test_operations_and_bytes_of_a_step_are_counted(tmp_path):
    trainees = [Trainee(Form("plain"), TINY, batch, CPU, tmp_path) for batch in (4, 8)]
    (operations, moved), (more_operations, more_moved) = (training.counted(one) for one in trainees)
    assert more_operations == 2 * operations
    assert moved < more_moved < 2 * moved  # weights and their optimizer move once a step
    wide = Trainee(Form("plain"), dataclasses.replace(TINY, width=16), 4, CPU, tmp_path)
    assert 3 < training.counted(wide)[0] / operations < 4


def test_traffic_counts_what_is_read_and_written_and_no_views():
    one = torch.zeros(10)
    with training._Traffic() as traffic:
        one.reshape(2, 5).t()
        assert traffic.bytes == 0
        one + one[:5].sum()
    assert traffic.bytes == 4 * ((5 + 1) + (10 + 1 + 10))


@pytest.mark.parametrize("form", forms(CPU, compiles=False))
def test_every_form_takes_the_same_steps(form, tmp_path):
    plain = Trainee(Form("plain"), TINY, 8, CPU, tmp_path)
    other = Trainee(form, TINY, 8, CPU, tmp_path)
    tolerance = 0.05 if form.bfloat16 else 1e-3
    for _ in range(3):
        assert abs(float(plain.step()) - float(other.step())) < tolerance


def test_folds_at_once_share_the_threads_and_count_together(monkeypatch, tmp_path):
    clock = iter([10.0, 16.0])
    with AtOnce(Form("plain"), TINY, 4, CPU, tmp_path, 2) as two:
        assert two.name == "plain, 2 folds at once"
        threads = [pool.submit(torch.get_num_threads).result() for pool in two.pools]
        assert threads == [max(1, torch.get_num_threads() // 2)] * 2
        monkeypatch.setattr(training, "_take", partial(meet, tmp_path))
        monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
        assert two.seconds(3) == 1.0, "two that take three steps each in six seconds"


def meet(folder: Path, steps: int) -> None:
    """Return when a second process has come; what is asked for no steps is not waited with."""
    (folder / f"{steps}-{os.getpid()}").touch()
    deadline = time.monotonic() + 60
    while steps and len(list(folder.glob(f"{steps}-*"))) < 2:
        assert time.monotonic() < deadline, "nobody beside this one"
        time.sleep(0.01)


class TwoAtOnce:
    """Stands in for processes: a step takes a second."""

    precision = torch.float32

    def __init__(self, form, settings, batch_size, device, folder, count):
        self.name = f"{form.name}, {count} at once"

    def seconds(self, steps):
        return 1.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_the_table_of_training_is_against_plain(monkeypatch):
    monkeypatch.setattr(training, "AtOnce", TwoAtOnce)
    monkeypatch.setattr(training, "matrix_rates", lambda device: {torch.float32: 1e9, torch.bfloat16: 2e9})
    rows = training.measure(
        CPU, ["small"], rounds=1, compiles=False, batches={"small": 4}, sizes={"small": TINY}, at_once=2
    )
    speeds = [row for row in rows if row["quantity"] == "training"]
    assert [row["case"] for row in speeds[:1]] == ["small, batch 4, plain"]
    assert speeds[0]["ratio"] == 1
    for row in speeds:
        assert row["ratio"] == pytest.approx(row["value"] / row["plain"])
        assert row["plain"] == speeds[0]["value"]
    beside = {row["case"]: row["value"] for row in speeds if "2 at once" in row["case"]}
    assert len(beside) == 3 and set(beside.values()) == {4.0}, "a batch of 4 in a second"
    assert "small, batch 4, plain, 2 at once" in beside
    by_quantity = {row["quantity"]: row for row in rows}
    floors = [by_quantity[f"floor of operations, {kind}"]["value"] for kind in ("float32", "bfloat16")]
    assert floors[0] == pytest.approx(2 * floors[1]) and floors[1] > 0


def test_parts_that_are_not_measured_again_keep_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda settings, device: [new(part) for part in settings.parts])
    monkeypatch.setattr(speed, "set_threads", lambda count: None)
    place = ["--results-dir", str(tmp_path), "--device", "cpu"]
    speed.main([*place, "--parts", "machine", "training"])
    monkeypatch.setattr(speed, "measure", lambda settings, device: [new("training") | {"value": 2.0}])
    speed.main([*place, "--parts", "training"])
    table = pd.read_csv(tmp_path / "speed-cpu.csv")
    assert dict(zip(table["part"], table["value"], strict=True)) == {"machine": 1.0, "training": 2.0}
    assert table["machine"].str.contains("torch").all()


def new(part: str) -> dict[str, object]:
    return {
        "part": part,
        "case": "a",
        "quantity": "b",
        "value": 1.0,
        "unit": "s",
        "plain": None,
        "ratio": None,
    }
