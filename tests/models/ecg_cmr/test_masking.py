"""Patches and random masks: inverses, shares, gathering and putting back; what both autoencoders share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.ecg_cmr.masking import (
    check_ratio,
    gather_tokens,
    patchify_cine,
    patchify_signal,
    random_masking,
    unpatchify_cine,
    unpatchify_signal,
)
from tests.models.ecg_cmr.small import cines, cmr_autoencoder, ecg_autoencoder, ecgs, generator


def test_signal_patches_run_lead_by_lead():
    signal = torch.arange(24.0).reshape(1, 2, 12)
    patches = patchify_signal(signal, 4)
    assert patches.shape == (1, 6, 4)
    assert patches[0, 1].tolist() == [4, 5, 6, 7]
    assert patches[0, 3].tolist() == [12, 13, 14, 15], "second lead, first patch"
    assert torch.equal(unpatchify_signal(patches, 2), signal)


def test_cine_patches_run_by_time_row_and_column():
    cine = torch.arange(4 * 6 * 8.0).reshape(1, 4, 6, 8)
    patches = patchify_cine(cine, (2, 3, 4))
    assert patches.shape == (1, 8, 24)
    for number, (time, row, column) in enumerate(
        (time, row, column) for time in (0, 2) for row in (0, 3) for column in (0, 4)
    ):
        cut = cine[0, time : time + 2, row : row + 3, column : column + 4]
        assert torch.equal(patches[0, number], cut.flatten()), number
    assert torch.equal(unpatchify_cine(patches, (2, 3, 4), (2, 2, 2)), cine)


@settings(max_examples=25, deadline=None)
@given(
    patch=st.tuples(*[st.integers(1, 4)] * 3),
    grid=st.tuples(*[st.integers(1, 3)] * 3),
    seed=st.integers(0, 99),
)
def test_cine_patches_can_be_put_together(patch, grid, seed):
    shape = [step * count for step, count in zip(patch, grid, strict=True)]
    cine = torch.randn(2, *shape, generator=generator(seed))
    assert torch.equal(unpatchify_cine(patchify_cine(cine, patch), patch, grid), cine)


@pytest.mark.parametrize(("patches", "ratio", "hidden"), [(300, 0.8, 240), (64, 0.75, 48), (10, 0.55, 6)])
def test_the_share_hidden_is_exact(patches, ratio, hidden):
    masking = random_masking(torch.ones(5, patches, dtype=torch.bool), ratio)
    assert masking.hidden.sum(dim=1).tolist() == [hidden] * 5
    assert torch.equal(masking.visible, ~masking.hidden)
    assert masking.ids.shape == (5, patches - hidden)
    assert masking.filled.all()


def test_each_sample_hides_the_share_of_what_it_has():
    usable = torch.zeros(4, 300, dtype=torch.bool)
    for row, count in enumerate((300, 150, 25, 0)):
        usable[row, 300 - count :] = True
    masking = random_masking(usable, 0.8, generator())
    assert masking.hidden.sum(dim=1).tolist() == [240, 120, 20, 0]
    assert masking.visible.sum(dim=1).tolist() == [60, 30, 5, 0]
    assert masking.filled.sum(dim=1).tolist() == [60, 30, 5, 0]
    assert not ((masking.visible | masking.hidden) & ~usable).any(), "unusable patches are neither"


@settings(max_examples=50, deadline=None)
@given(patches=st.integers(2, 40), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_slots_hold_exactly_the_visible_patches(patches, ratio, seed):
    usable = torch.rand(6, patches, generator=generator(seed)) < 0.6
    masking = random_masking(usable, ratio, generator(seed))
    for row in range(6):
        held = masking.ids[row][masking.filled[row]]
        assert sorted(held.tolist()) == masking.visible[row].nonzero().flatten().tolist()
        assert len(held) >= min(1, int(usable[row].sum()))
    tokens = torch.randn(6, patches, 2, generator=generator(seed))
    back = gather_tokens(gather_tokens(tokens, masking.ids), masking.slot)
    assert torch.equal(back[masking.visible], tokens[masking.visible])


def test_every_patch_is_hidden_equally_often():
    masking = random_masking(torch.ones(20_000, 10, dtype=torch.bool), 0.7, generator())
    assert torch.allclose(masking.hidden.double().mean(dim=0), torch.tensor(0.7).double(), atol=0.02)


def test_masks_follow_their_generator():
    usable = torch.ones(4, 50, dtype=torch.bool)
    first, same, other = (random_masking(usable, 0.5, generator(seed)).hidden for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1]), "samples differ"


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 0.01, 0.99])
def test_shares_that_leave_nothing_are_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio must be between 0 and 1"):
        check_ratio(ratio, 10)


AUTOENCODERS = pytest.mark.parametrize(
    ("build", "batch"), [(ecg_autoencoder, ecgs), (cmr_autoencoder, cines)], ids=["ecg", "cmr"]
)


@AUTOENCODERS
def test_every_weight_learns(build, batch):
    """A weight without gradient stops training in several processes."""
    model = build()
    model(batch())["loss"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert model.mask_token.grad.any(), "it stands for what is hidden"


@AUTOENCODERS
def test_same_seed_same_weights_other_seed_others(build, batch):
    first, same, other = (nn.utils.parameters_to_vector(build(seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (ecg_autoencoder, {"samples": 85}, "multiple of patch_length"),
        (ecg_autoencoder, {"leads": 0}, "leads at least 1"),
        (ecg_autoencoder, {"token_width": 15}, "multiple of heads"),
        (ecg_autoencoder, {"depth": 0}, "depth must be at least 1"),
        (ecg_autoencoder, {"mask_ratio": 1.0}, "mask_ratio must be"),
        (ecg_autoencoder, {"mask_ratio": 0.001}, "mask_ratio must be"),
        (cmr_autoencoder, {"patch": (3, 4, 4)}, "divide a cine"),
        (cmr_autoencoder, {"patch": (4, 4)}, "frames, rows, columns"),
        (cmr_autoencoder, {"patch": (0, 4, 4)}, "divide a cine"),
        (cmr_autoencoder, {"patch": (8, 4, 4)}, "divide a cine"),
        (cmr_autoencoder, {"mask_ratio": 0.0}, "mask_ratio must be"),
        (cmr_autoencoder, {"heads": 5}, "multiple of heads"),
    ],
)
def test_settings_that_make_no_model_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("build", "batch", "present", "message"),
    [
        (ecg_autoencoder, ecgs(leads=3), None, r"shape \(batch, 4, 80\), and has \(5, 3, 80\)"),
        (ecg_autoencoder, ecgs(samples=160), None, "resample or cut"),
        (ecg_autoencoder, ecgs()[0], None, "ecg must have shape"),
        (ecg_autoencoder, ecgs(), torch.ones(5, 4), "lead_present must be boolean"),
        (ecg_autoencoder, ecgs(), torch.ones(5, 3, dtype=torch.bool), r"of shape \(5, 4\)"),
        (cmr_autoencoder, cines(frames=8), None, r"\(batch, 4, 16, 16\), and has \(4, 8, 16, 16\)"),
        (cmr_autoencoder, cines()[0], None, "resample the cine"),
        (cmr_autoencoder, cines(), torch.ones(4), "present must be boolean"),
        (cmr_autoencoder, cines(), torch.ones(3, dtype=torch.bool), r"of shape \(4,\)"),
    ],
)
def test_batches_that_do_not_fit_are_refused(build, batch, present, message):
    with pytest.raises(ValueError, match=message):
        build()(batch, present)
