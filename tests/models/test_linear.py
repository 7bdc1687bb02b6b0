"""Log-odds of the modalities that are there are added; tensors are all that the model is."""

import math

import pytest
import torch

from models.linear import PhaseGridLinear, StandardizedLogistic

BOTH = torch.tensor([True, True])


def by_hand():
    """Return a model whose log-odds can be worked out on paper."""
    model = PhaseGridLinear(pcg_features=2, ecg_features=1)
    state = {
        "pcg.mean": [1.0, 2.0],
        "pcg.scale": [2.0, 4.0],
        "pcg.weight": [3.0, -1.0],
        "pcg.bias": 0.5,
        "pcg.fitted": True,
        "ecg.mean": [10.0],
        "ecg.scale": [5.0],
        "ecg.weight": [2.0],
        "ecg.bias": -1.0,
        "ecg.fitted": True,
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return model


PCG = torch.tensor([[5.0, 6.0], [1.0, 2.0]])  # 3 * 2 - 1 * 1 + 0.5 = 5.5, and 0.5
ECG = torch.tensor([[20.0], [10.0]])  # 2 * 2 - 1 = 3, and -1


@pytest.mark.parametrize(
    ("has_pcg", "has_ecg", "expected"),
    [
        ([True, True], [True, True], [8.5, -0.5]),
        ([True, True], [False, False], [5.5, 0.5]),
        ([False, False], [True, True], [3.0, -1.0]),
        ([True, False], [False, True], [5.5, -1.0]),
    ],
)
def test_log_odds_are_the_sum_worked_out_by_hand(has_pcg, has_ecg, expected):
    has_pcg, has_ecg = torch.tensor(has_pcg), torch.tensor(has_ecg)
    pcg, ecg = PCG.clone(), ECG.clone()
    pcg[~has_pcg], ecg[~has_ecg] = math.nan, math.nan  # what is absent does not count
    log_odds = by_hand()(pcg, ecg, has_pcg, has_ecg)
    assert log_odds.tolist() == expected
    assert log_odds.dtype == torch.float64


def test_a_recording_without_any_modality_is_refused():
    with pytest.raises(ValueError, match="1 of 2 recordings have no modality"):
        by_hand()(PCG, ECG, torch.tensor([True, False]), torch.tensor([True, False]))


def test_a_modality_that_was_not_fitted_has_no_effect():
    model = by_hand()
    model.ecg.fitted.fill_(False)
    assert model(PCG, ECG, BOTH, BOTH).tolist() == [5.5, 0.5]
    with pytest.raises(ValueError, match=r"fitted on \(pcg\)"):
        model(PCG, ECG, ~BOTH, BOTH)
    with pytest.raises(ValueError, match="not fitted yet"):
        PhaseGridLinear(2, 1)(PCG, ECG, BOTH, BOTH)


def test_default_shapes_are_those_of_the_recipe():
    model = PhaseGridLinear()
    assert (model.pcg.weight.shape, model.ecg.weight.shape) == ((2244,), (13,))
    assert model(torch.zeros(0, 2244), torch.zeros(0, 13), BOTH[:0], BOTH[:0]).shape == (0,)


def test_no_features_are_refused():
    with pytest.raises(ValueError, match="at least one feature"):
        StandardizedLogistic(0)


def test_the_gradient_ends_at_what_is_absent():
    model = by_hand()
    ecg = torch.full((2, 1), math.nan)
    model(PCG, ecg, BOTH, ~BOTH).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
