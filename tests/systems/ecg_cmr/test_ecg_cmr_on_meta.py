"""Stages of ECG and cardiac MRI on a device that is not the CPU: a step of each, and a prediction."""

import dataclasses

import pytest
import torch

from systems.ecg_cmr.samples import Pairs
from tests.on_meta import META, steps_on_meta
from tests.systems.ecg_cmr.test_stage import COUNT, SETTINGS, new, pairs


def on_meta(samples: Pairs) -> Pairs:
    """Return the same samples on the meta device."""
    tensors = {name: getattr(samples, name).to(META) for name in ("ecg", "lead_present", "cmr")}
    mappings = {
        name: {key: values.to(META) for key, values in getattr(samples, name).items()}
        for name in ("has", "targets")
    }
    return dataclasses.replace(samples, **tensors, **mappings)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_and_a_prediction(name):
    samples = pairs()
    task, network = new(name, samples)
    if name.endswith("mae"):  # its masks of a validation batch come from the rows, which it reads
        task.step = lambda model, batch: type(task).step(task, model.train(), batch)
    _, predictions = steps_on_meta(task, on_meta(samples), network.to(META))
    assert len(predictions) == COUNT and predictions.device == META
    assert torch.is_floating_point(predictions)
