from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from benchmarks import speed, speed_machine, speed_training
from benchmarks.speed_training import Form, Trainee
from config import ModelSettings

CPU = torch.device("cpu")
TINY = ModelSettings(width=8, points=250, dropout=0.0)


def test_rates_are_those_of_the_calls_that_are_timed(monkeypatch):
    monkeypatch.setattr(speed_machine, "seconds_of", lambda call, device: 0.5)
    assert speed_machine.matrix_rate(CPU, torch.float32, side=10) == 2 * 10**3 / 0.5
    assert speed_machine.copy_rate(CPU, size=100) == 2 * 100 / 0.5


def test_the_median_call_counts_and_two_are_left_out(monkeypatch):
    clock = iter([0, 100, 0, 100, 0, 1, 0, 2, 0, 30])  # begin and end of five calls
    monkeypatch.setattr(speed_machine.time, "perf_counter", lambda: next(clock))
    assert speed_machine.seconds_of(lambda: None, CPU, rounds=3) == 2


def test_operations_and_bytes_of_a_step_are_counted(tmp_path):
    trainees = [Trainee(Form("plain"), TINY, batch, CPU, tmp_path) for batch in (4, 8)]
    (operations, moved), (more_operations, more_moved) = (speed_training.counted(one) for one in trainees)
    assert more_operations == 2 * operations
    assert moved < more_moved < 2 * moved  # weights and their optimizer move once a step
    wide = Trainee(Form("plain"), dataclasses.replace(TINY, width=16), 4, CPU, tmp_path)
    assert 3 < speed_training.counted(wide)[0] / operations < 4


def test_traffic_counts_what_is_read_and_written_and_no_views():
    one = torch.zeros(10)
    with speed_training._Traffic() as traffic:
        one.reshape(2, 5).t()
        assert traffic.bytes == 0
        one + one[:5].sum()
    assert traffic.bytes == 4 * ((5 + 1) + (10 + 1 + 10))


@pytest.mark.parametrize("form", speed_training.forms(CPU, compiles=False))
def test_every_form_takes_the_same_steps(form, tmp_path):
    plain = Trainee(Form("plain"), TINY, 8, CPU, tmp_path)
    other = Trainee(form, TINY, 8, CPU, tmp_path)
    tolerance = 0.05 if form.bfloat16 else 1e-3
    for _ in range(3):
        assert abs(float(plain.step()) - float(other.step())) < tolerance


def test_the_table_of_training_is_against_plain():
    rows = speed_training.measure(
        CPU, ["small"], rounds=1, compiles=False, batches={"small": 4}, sizes={"small": TINY}
    )
    speeds = [row for row in rows if row["quantity"] == "training"]
    assert [row["case"] for row in speeds[:1]] == ["small, batch 4, plain"]
    assert speeds[0]["ratio"] == 1
    for row in speeds:
        assert row["ratio"] == pytest.approx(row["value"] / row["plain"])
        assert row["plain"] == speeds[0]["value"]
    by_quantity = {row["quantity"]: row for row in rows}
    assert by_quantity["floor of operations, float32"]["value"] > 0


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
