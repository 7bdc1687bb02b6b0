"""The measurement of preparation: rows as the table wants them, memory of all processes together."""

import subprocess
import sys

import pytest

from studies.speed.preparation import measure, peak_memory, prepared


def test_a_tiny_cohort_is_measured():
    rows = measure(None, sizes=(4,))
    assert {tuple(row) for row in rows} == {("part", "case", "quantity", "value", "unit", "plain", "ratio")}
    values = {row["quantity"]: row["value"] for row in rows}
    assert list(values) == ["seconds", "seconds of the command", "recordings/s", "peak MB"]
    assert {row["part"] for row in rows} == {"preparation"}
    assert all(row["case"].startswith("simulated 4, ") for row in rows)
    assert values["recordings/s"] == pytest.approx(4 / values["seconds"])
    assert 0 < values["seconds"] < values["seconds of the command"]
    assert 50 < values["peak MB"] < 3000


def test_what_cannot_be_prepared_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match="exited with 2"):
        prepared(tmp_path)


def test_memory_is_that_of_parent_and_child_together():
    holds = "import time; held = bytearray(100_000_000); time.sleep(0.7)"
    both = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {holds!r}]); {holds}"
    process = subprocess.Popen([sys.executable, "-c", both])
    assert 2e8 < peak_memory(process) < 3e8
