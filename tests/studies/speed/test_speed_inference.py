"""What the table of inference speeds says of a tiny network, and of times that are known."""

import numpy as np
import pytest
import torch

from studies.speed import inference as speed_inference
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings
from systems.ecg_pcg.task import EcgPcg

TINY = {"small": ModelSettings(width=8, points=100, levels=2)}
KEYS = ["part", "case", "quantity", "value", "unit", "plain", "ratio"]


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """Return all forms of a tiny network that there are here."""
    torch.manual_seed(0)
    settings = TrainingSettings(model=TINY["small"])
    network = EcgPcg(settings).build().eval()
    folder = tmp_path_factory.mktemp("forms")
    return speed_inference.open_forms(network, settings.model.points, torch.device("cpu"), folder)


def test_rows_of_a_tiny_network(forms, monkeypatch):
    monkeypatch.setattr(speed_inference, "open_forms", lambda *_: forms)
    rows = speed_inference.measure(torch.device("cpu"), ["small"], repeats=3, batch=8, sizes=TINY)
    assert all(list(row) == KEYS and row["part"] == "inference" for row in rows)
    assert all(np.isfinite([row["value"], row["plain"], row["ratio"]]).all() for row in rows)
    plain = [row for row in rows if row["case"].endswith(", eager float32")]
    assert [(row["quantity"], row["ratio"]) for row in plain] == [
        *([("p50", 1.0), ("p95", 1.0)] * 2),
        *(("samples/s", 1.0), ("recordings/s", 1.0)),
    ]
    forms = {row["case"].split(", ")[-1] for row in rows}
    assert {"eager float32", "torch.export"} <= forms
    if speed_inference.has_onnx():
        assert "onnxruntime" in forms
    assert {row["unit"] for row in rows} == {"ms", "beats/s", "recordings/s"}


def test_a_ratio_over_one_is_better():
    found = {"eager float32": np.full(20, 0.02), "other": np.array([0.01] * 18 + [0.04] * 2)}
    latency = {
        (row["case"], row["quantity"]): (row["value"], row["ratio"])
        for row in speed_inference.latency_rows("one", found)
    }
    assert latency["one, other", "p50"] == pytest.approx((10.0, 2.0))
    assert latency["one, other", "p95"] == pytest.approx((40.0, 0.5))
    assert latency["one, eager float32", "p95"] == pytest.approx((20.0, 1.0))
    plain, other = speed_inference.throughput_rows("many", found, 100)
    assert (plain["value"], plain["ratio"]) == pytest.approx((5000.0, 1.0))
    assert (other["value"], other["plain"], other["ratio"]) == pytest.approx((10_000.0, 5000.0, 2.0))


def test_forms_say_the_same(forms):
    beats = speed_inference.random_inputs(4, 100)
    said = {name: run(beats) for name, run in forms.items()}
    values = [value["probability"] if isinstance(value, dict) else value for value in said.values()]
    for value in values:
        assert torch.allclose(value, values[0], atol=0.01)
