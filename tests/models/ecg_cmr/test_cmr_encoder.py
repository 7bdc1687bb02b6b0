"""Masked autoencoder of cines: its input, its loss, and that it learns."""

import math

import pytest
import torch
from torch import Tensor

from models.ecg_cmr.cmr_encoder import CMREncoder, standardize_cines
from models.ecg_cmr.masking import MaskedAutoencoder
from tests.models.ecg_cmr.small import cines, generator, train
from tests.models.ecg_cmr.small import cmr_autoencoder as autoencoder


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 64),
        ({"patch": (4, 8, 8)}, 256),
        ({"patch": (4, 16, 16), "frames": 8, "size": 32, "token_width": 36}, 8),
    ],
)
def test_shapes(options, tokens):
    model = MaskedAutoencoder(CMREncoder(**options), 0.75)
    cmr = cines(2, options.get("frames", 16), options.get("size", 64))
    found = model(cmr)
    assert found["loss"].shape == ()
    assert found["reconstruction"].shape == found["mask"].shape == cmr.shape
    assert model.encoder.encode(cmr).shape == (2, 1 + tokens, options.get("token_width", 128))
    assert found["mask"].flatten(1).double().mean(dim=1).tolist() == [0.75, 0.75]


def test_the_scale_of_the_intensities_does_not_count():
    encoder, cmr = autoencoder().encoder, cines()
    assert torch.allclose(encoder.encode(cmr), encoder.encode(0.01 * cmr - 3), atol=1e-3)


@pytest.mark.parametrize("garbage", [0.0, 37.7, math.nan, math.inf])
def test_a_cine_that_shows_nothing_is_unusable(garbage):
    cmr = cines()
    cmr[1] = garbage
    values, usable, _, _ = standardize_cines(cmr)
    assert usable.tolist() == [True, False, True, True]
    assert (values[1] == 0).all()
    model = autoencoder()
    found = model(cmr, generator=generator())
    assert found["loss"].isfinite()
    assert not found["mask"][1].any()
    assert (model.encoder.encode(cmr)[1, 1:] == 0).all()


def test_absent_cines_are_never_read():
    model, present = autoencoder(), torch.tensor([True, False, True, False])
    first = model(cines(), present, generator())
    planted = cines()
    planted[~present] = math.nan
    second = model(planted, present, generator())
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_the_loss_is_the_error_over_what_was_hidden_and_nothing_else():
    model, cmr = autoencoder(), cines()
    found = model(cmr, generator=generator())
    _, _, _, deviation = standardize_cines(cmr)
    errors = ((found["reconstruction"] - cmr) / deviation).square()
    assert found["loss"].item() == pytest.approx(errors[found["mask"]].mean().item(), rel=1e-4)
    assert torch.allclose(found["reconstruction"][~found["mask"]], cmr[~found["mask"]], atol=1e-3)


def test_hidden_values_do_not_leak():
    """Hidden pixels change places: the cine's mean and deviation stay, so must what is predicted."""
    model, cmr = autoencoder(), cines()
    first = model(cmr, generator=generator())
    swapped, mask = cmr.clone(), first["mask"]
    for row in range(len(cmr)):
        swapped[row][mask[row]] = cmr[row][mask[row]].flip(0)
    second = model(swapped, generator=generator())
    assert torch.equal(mask, second["mask"])
    assert torch.allclose(first["reconstruction"][mask], second["reconstruction"][mask], atol=1e-3)
    assert not torch.isclose(first["loss"], second["loss"])


def test_a_patch_over_all_frames_is_hidden_at_all_times():
    mask = autoencoder()(cines())["mask"]
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    mask = autoencoder(patch=(2, 4, 4))(cines())["mask"]
    assert not torch.equal(mask, mask[:, :1].expand_as(mask))


def test_regions_are_means_of_a_place_over_time():
    encoder = CMREncoder(4, 8, (2, 4, 4), 24, 1, 2)
    tokens = torch.arange(8.0).reshape(1, 8, 1).expand(2, -1, 3)
    usable = torch.tensor([True, False])[:, None].expand(-1, 8)
    parts, known = encoder.regions(tokens, usable)
    assert parts[0, :, 0].tolist() == [2, 3, 4, 5]
    assert known.tolist() == [[True] * 4, [False] * 4]


def hearts(count: int, seed: int) -> Tensor:
    """Bright disks whose place and size differ, and that shrink and grow over the frames."""
    draw = torch.rand(3, count, 1, 1, 1, generator=generator(seed))
    row, column = (torch.arange(16.0)[:, None], torch.arange(16.0)[None])
    radius = (4 + 2 * draw[0]) * (1 - 0.3 * torch.tensor([0.0, 0.5, 1.0, 0.5])[:, None, None])
    distance = ((row - 6 - 3 * draw[1]) ** 2 + (column - 6 - 3 * draw[2]) ** 2).sqrt()
    return torch.sigmoid(radius - distance)


def test_it_learns_to_reconstruct_unseen_patients():
    model = autoencoder(token_width=48, decoder_width=48, mask_ratio=0.5)
    unseen, seeds = hearts(64, 999), generator()
    with torch.no_grad():
        before = float(model(unseen, generator=generator(1))["loss"])
    train(model, lambda _: model(hearts(32, int(torch.randint(900, (), generator=seeds))))["loss"], 150, 5e-3)
    with torch.no_grad():
        after = float(model(unseen, generator=generator(1))["loss"])
    assert before > 0.9
    assert after < 0.15
