"""Networks of beats on a device that is not the CPU: a step and a prediction of each."""

import dataclasses

import pytest
import torch
from torch import nn

from models import NETWORKS
from models.layers.layout import set_layout
from studies.speed.inference import recordings
from systems.ecg_pcg.settings import defaults
from systems.ecg_pcg.task import EcgPcg
from tests.on_meta import META, steps_on_meta

BEATS, POINTS = 4, 250


def task_of(model: str) -> EcgPcg:
    settings = defaults("small")
    changed = dataclasses.replace(settings.model, model=model, width=8, points=POINTS)
    return EcgPcg(dataclasses.replace(settings, model=changed))


@pytest.mark.parametrize(
    ("model", "layout"), [*((name, "channels-last") for name in NETWORKS), ("pacfnet", "plain")]
)
def test_a_step_and_a_prediction(model, layout):
    task = task_of(model)
    network = task.build().to(META)
    set_layout(network, layout)
    loss, predictions = steps_on_meta(task, recordings(BEATS, POINTS, META), network)
    assert loss.shape == () and predictions.shape == (BEATS,) and predictions.device == META


def test_a_tensor_on_the_cpu_is_found():
    class Misplaced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = task_of("pacfnet").build().to(META)

        def forward(self, *signals):
            return self.network(*signals) + torch.ones(BEATS, 2)

    with pytest.raises(RuntimeError, match="not on the expected device meta"):
        steps_on_meta(task_of("pacfnet"), recordings(BEATS, POINTS, META), Misplaced())
