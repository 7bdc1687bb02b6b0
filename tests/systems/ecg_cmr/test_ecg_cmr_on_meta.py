"""Stages of ECG and cardiac MRI on a device that is not the CPU: a step of each, and a prediction."""

import dataclasses

import pytest
import torch

from systems.ecg_cmr.generation.task import encoded_pairs
from systems.ecg_cmr.samples import Pairs
from systems.ecg_cmr.settings import (
    AutoencoderSettings,
    CineAutoencoderSettings,
    EcgToCmrSettings,
    GeneratorSettings,
)
from tests.on_meta import META, steps_on_meta
from tests.systems.ecg_cmr.test_stage import COUNT, SETTINGS, SIZES, new, pairs

AUTOENCODER = AutoencoderSettings(channels=(16, 16))


def on_meta(samples: Pairs) -> Pairs:
    """Return the same samples on the meta device."""
    return dataclasses.replace(
        samples,
        ecg=samples.ecg.to(META),
        lead_present=samples.lead_present.to(META),
        cmr=samples.cmr.to(META),
        has={name: values.to(META) for name, values in samples.has.items()},
        targets={name: values.to(META) for name, values in samples.targets.items()},
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_and_a_prediction(name):
    samples = pairs()
    task, network = new(name, samples)
    if name.endswith("mae"):  # its masks of a validation batch come from the rows, which it reads
        task.step = lambda model, batch: type(task).step(task, model.train(), batch)
    _, predictions = steps_on_meta(task, on_meta(samples), network.to(META))
    assert len(predictions) == COUNT and predictions.device == META
    assert torch.is_floating_point(predictions)


def test_the_autoencoder():
    samples = pairs()
    task, network = new("cine-autoencoder", samples, CineAutoencoderSettings(autoencoder=AUTOENCODER))
    _, errors = steps_on_meta(task, on_meta(samples), network.to(META))
    assert errors.shape == (COUNT,) and errors.device == META


def test_the_generator():
    settings = EcgToCmrSettings(
        encoder=SIZES,
        autoencoder=AUTOENCODER,
        generator=GeneratorSettings(channels=(64,), blocks=1, harmonics=1),
    )
    samples = pairs()
    task, network = new("ecg-to-cmr", samples, settings)
    network.to(META)
    encoded = encoded_pairs(on_meta(samples), network, torch.arange(COUNT).to(META))
    # the noise of a patient in validation comes from the row, which it reads
    task.step = lambda model, batch: type(task).step(task, model.train(), batch)
    _, errors = steps_on_meta(task, encoded, network)
    assert errors.shape == (COUNT,) and errors.device == META
