"""Augmentation of training signals: each change alone, within the bounds that the settings give."""

import torch

from systems.ecg_multimodal.augmentation import vary_signals
from systems.ecg_multimodal.settings import SignalAugmentationSettings

torch.manual_seed(0)
SIGNALS = torch.randn(64, 2, 100)


def varied(**options: float) -> torch.Tensor:
    torch.manual_seed(1)
    return vary_signals(SIGNALS, SignalAugmentationSettings(**options))


def test_by_default_nothing_changes():
    assert torch.equal(varied(), SIGNALS)


def test_a_gain_is_one_number_a_patient_within_its_share():
    ratio = varied(signal_gain=0.2) / SIGNALS
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))
    gains = ratio[:, 0, 0]
    assert 0.8 <= gains.min() < 0.85 and 1.15 < gains.max() <= 1.2


def test_a_shift_moves_all_leads_of_a_patient_alike_and_goes_on_with_the_last_value():
    found = varied(signal_shift=0.1)
    shifts = set()
    for before, after in zip(SIGNALS, found, strict=True):
        for shift in range(-10, 11):
            place = (torch.arange(100) + shift).clamp(0, 99)
            if torch.equal(after, before[:, place]):
                shifts.add(shift)
                break
        else:
            raise AssertionError("no shift of up to a tenth gives this signal")
    assert len(shifts) > 10 and min(shifts) < 0 < max(shifts)


def test_noise_differs_between_leads_and_has_at_most_its_deviation():
    noise = varied(signal_noise=0.5) - SIGNALS
    deviations = noise.std(dim=2)
    assert deviations.max() < 0.65 and deviations.min() < 0.1
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_a_lead_that_holds_nothing_gets_no_noise():
    signals = SIGNALS.clone()
    signals[:8, 1] = 0.3
    found = vary_signals(signals, SignalAugmentationSettings(signal_noise=0.5))
    assert torch.equal(found[:8, 1], signals[:8, 1])
    assert (found != signals).any(dim=2).sum() == 2 * 64 - 8
