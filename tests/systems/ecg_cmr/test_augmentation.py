"""Augmentation: what is changed, and that the heart is not."""

import torch

from systems.ecg_cmr.augmentation import GAIN, OFFSET, PIXELS, shift_in_time, vary_cine


def test_an_ecg_begins_elsewhere_and_keeps_all_it_had():
    torch.manual_seed(0)
    ecg = torch.arange(50.0).repeat(8, 3, 1) + torch.arange(8.0)[:, None, None] * 100
    found = shift_in_time(ecg)
    assert torch.equal(found.sort(dim=2).values, ecg)
    starts = (found[:, :, 0] - torch.arange(8.0)[:, None] * 100).long()
    assert (starts == starts[:, :1]).all(), "all leads of a patient begin together"
    assert starts[:, 0].unique().numel() > 4, "patients do not"
    steps = found.diff(dim=2)
    assert ((steps == 1) | (steps == -49)).all()


def test_a_cine_is_varied_within_bounds_and_all_frames_alike():
    torch.manual_seed(0)
    cine = torch.full((16, 4, 12, 12), 0.5)
    cine[:, :, 6, 6] = 0.9
    found = vary_cine(cine)
    assert torch.equal(found[:, :1].expand_as(found), found)
    level = found[:, 0, 0, 0]
    assert level.unique().numel() > 8
    assert (level - 0.5).abs().max() <= 0.5 * GAIN + OFFSET + 1e-6
    bright = [divmod(int(frame.flatten().argmax()), 12) for frame in found[:, 0]]
    assert len(set(bright)) == 1 and all(abs(place - 6) <= PIXELS for place in bright[0])


def test_the_same_random_state_gives_the_same_batch_and_another_another():
    signal = torch.randn(4, 2, 30)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(shift_in_time(signal))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
