"""Cycle-shape: what a microphone adds has no effect, and the terms of the grid add up."""

import pytest
import torch

from models import build_model, takes
from models.cycle_shape import CycleShape

GRID = 3, 22, 34


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = CycleShape()
    with torch.no_grad():
        built.pcg.weight.normal_()
        built.pcg.bias.fill_(0.3)
        built.pcg.mean.normal_()
        built.pcg.fitted.fill_(True)
    return built


def grids(count=4):
    return torch.randn(count, *GRID, generator=torch.Generator().manual_seed(1)).flatten(1)


def log_odds(model, values):
    has = torch.ones(len(values), dtype=torch.bool)
    return model(values, torch.full((len(values), 13), torch.nan), has, ~has)


def test_a_filter_that_is_the_same_all_cycle_long_changes_nothing(model):
    values = grids()
    microphone = torch.randn(34).expand(4, *GRID).flatten(1)
    assert torch.allclose(log_odds(model, values), log_odds(model, values + microphone), atol=1e-5)
    louder_systole = values.reshape(4, *GRID).clone()
    louder_systole[:, :, 3:9] += 1.0
    assert not torch.allclose(log_odds(model, values), log_odds(model, louder_systole.flatten(1)), atol=0.1)


def test_features_worked_by_hand():
    """Four bands, two together; the last four cells are the silence that is subtracted."""
    small = CycleShape(percentiles=1, cells=5, bands=4, together=2)
    grid = torch.arange(20.0).reshape(1, 20)
    silence = [(4.5 + 8.5 + 12.5 + 16.5) / 4, (6.5 + 10.5 + 14.5 + 18.5) / 4]
    expected = [[0.5 + 4 * cell - silence[0], 2.5 + 4 * cell - silence[1]] for cell in range(5)]
    assert small.features(grid).reshape(5, 2).tolist() == expected


def test_only_the_lowest_percentile_is_read(model):
    values = grids().reshape(4, *GRID)
    changed = values.clone()
    changed[:, 1:] += torch.randn(4, 2, 22, 34)
    assert torch.equal(log_odds(model, values.flatten(1)), log_odds(model, changed.flatten(1)))


def test_the_terms_of_the_grid_and_the_bias_are_the_log_odds(model):
    values = grids()
    total = model.terms(values).sum(dim=1) + model.pcg.bias
    assert torch.allclose(total, log_odds(model, values))


def test_it_takes_the_heart_sound_alone(model):
    assert takes("cycle-shape").modalities == ("pcg",)
    assert model.reads("pcg")
    assert not model.reads("ecg")
    nothing = torch.zeros(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="4 of 4 recordings have no heart sound"):
        model(grids(), torch.zeros(4, 13), nothing, ~nothing)
    with pytest.raises(ValueError, match="not fitted"):
        log_odds(build_model("cycle-shape"), grids())
