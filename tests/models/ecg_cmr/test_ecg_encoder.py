"""Masked autoencoder of ECGs: its input, its loss, and that it learns."""

import math

import pytest
import torch
from torch import Tensor

from models.ecg_cmr.ecg_encoder import ECGEncoder, standardize_leads
from models.ecg_cmr.masking import MaskedAutoencoder
from tests.models.ecg_cmr.small import ecg_autoencoder as autoencoder
from tests.models.ecg_cmr.small import ecgs, generator, train


def some_leads(count: int = 5) -> Tensor:
    """Row k lacks the first k leads; the last of five rows lacks all."""
    return torch.arange(4)[None] >= torch.arange(count)[:, None]


@pytest.mark.parametrize(
    ("options", "shape", "tokens"),
    [
        ({}, (2, 12, 2500), 300),
        ({"samples": 1000, "depth": 1}, (3, 12, 1000), 120),
        ({"samples": 500, "patch_length": 50, "leads": 1, "token_width": 32}, (2, 1, 500), 10),
    ],
)
def test_shapes(options, shape, tokens):
    model = MaskedAutoencoder(ECGEncoder(**options), 0.8)
    ecg = ecgs(*shape)
    found = model(ecg)
    assert found["loss"].shape == ()
    assert found["reconstruction"].shape == found["mask"].shape == shape
    assert found["mask"].dtype == torch.bool
    assert model.encoder.encode(ecg).shape == (shape[0], 1 + tokens, options.get("token_width", 128))
    assert found["mask"].flatten(1).double().mean(dim=1).tolist() == pytest.approx([0.8] * shape[0])


def test_leads_are_standardized_one_by_one():
    ecg = torch.tensor([[[1.0, 3.0, 1.0, 3.0], [10.0, 10.0, 10.0, 30.0]]])
    values, usable, mean, deviation = standardize_leads(ecg)
    assert torch.allclose(values[0, 0], torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert torch.allclose(values[0, 1, 3], torch.tensor(math.sqrt(3)))
    assert usable.all()
    assert mean.flatten().tolist() == [2.0, 15.0]
    assert torch.allclose(values * deviation + mean, ecg)


@pytest.mark.parametrize("garbage", [0.0, 250.0, math.nan, math.inf, 1e30])
def test_leads_without_a_signal_are_unusable_and_become_zero(garbage):
    ecg = ecgs(2)
    ecg[0, 1] = garbage
    values, usable, _, deviation = standardize_leads(ecg)
    assert usable.tolist() == [[True, False, True, True], [True] * 4]
    assert (values[0, 1] == 0).all()
    assert deviation[0, 1] == 1
    assert values.isfinite().all()


def test_the_loss_is_the_error_over_what_was_hidden_and_nothing_else():
    model, ecg = autoencoder(), ecgs()
    present = some_leads()
    found = model(ecg, present, generator())
    mask, (_, usable, _, deviation) = found["mask"], standardize_leads(ecg, present)
    errors = ((found["reconstruction"] - ecg) / deviation).square()
    assert found["loss"].item() == pytest.approx(errors[mask].mean().item(), rel=1e-5)
    seen = ~mask & usable.unsqueeze(-1)
    assert torch.allclose(found["reconstruction"][seen], ecg[seen], atol=1e-6), "what was visible is kept"
    assert (found["reconstruction"][~usable] == 0).all()
    assert not mask[~usable].any()


def test_each_ecg_hides_the_share_of_its_own_leads():
    mask = autoencoder(mask_ratio=0.75)(ecgs(), some_leads())["mask"]
    assert mask.sum(dim=(1, 2)).tolist() == [240, 180, 120, 60, 0]


def test_hidden_values_do_not_leak():
    """Hidden values of a lead change places: its mean and deviation stay, so must what is predicted.

    Rows with fewer leads have slots left over, and what these hold must not leak either.
    """
    model, ecg, present = autoencoder(), ecgs(), some_leads()
    first = model(ecg, present, generator())
    swapped = ecg.clone()
    for row in range(len(ecg)):
        for lead in range(4):
            hidden = first["mask"][row, lead].nonzero().flatten()
            swapped[row, lead, hidden] = ecg[row, lead, hidden.flip(0)]
    second = model(swapped, present, generator())
    mask = first["mask"]
    assert torch.equal(mask, second["mask"])
    assert not torch.allclose(ecg[mask], swapped[mask])
    assert torch.allclose(first["reconstruction"][mask], second["reconstruction"][mask], atol=1e-5)
    assert not torch.isclose(first["loss"], second["loss"]), "the target did change"


@pytest.mark.parametrize("garbage", [0.0, math.nan, 1e6])
def test_absent_leads_are_never_read(garbage):
    model, ecg, present = autoencoder(), ecgs(), some_leads()
    planted = ecg.where(present.unsqueeze(-1), garbage)
    first, second = (model(signal, present, generator()) for signal in (ecg, planted))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    tokens = model.encoder.encode(ecg, present)
    assert torch.equal(tokens, model.encoder.encode(planted, present))
    assert (tokens[:, 1:].unflatten(1, (4, 8))[~present] == 0).all()
    assert (tokens[:, 1:].unflatten(1, (4, 8))[present] != 0).any(dim=-1).all()


def test_an_absent_lead_is_as_if_the_encoder_had_fewer_leads():
    """Standardized alone, a row with two leads gives the tokens a two-lead encoder gives."""
    torch.manual_seed(0)
    four = ECGEncoder(80, 10, 4, 16, 2, 2)
    two = ECGEncoder(80, 10, 2, 16, 2, 2)
    weights = four.state_dict()
    weights["lead_embedding"] = weights["lead_embedding"][2:]
    two.load_state_dict(weights)
    ecg = ecgs()
    present = torch.tensor([False, False, True, True]).expand(5, -1)
    found, expected = four.encode(ecg, present), two.encode(ecg[:, 2:])
    assert torch.allclose(found[:, 0], expected[:, 0], atol=1e-6)
    assert torch.allclose(found[:, 17:], expected[:, 1:], atol=1e-6)


def test_flat_leads_give_finite_gradients():
    model, ecg = autoencoder(), ecgs()
    ecg[0] = 0.0
    ecg[1, 2] = -5.0
    ecg[2, 1] = math.nan
    ecg.requires_grad_(True)
    loss = model(ecg)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert ecg.grad is not None
    assert ecg.grad.isfinite().all(), "attribution needs gradients of the signal, too"
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_a_batch_without_any_signal_costs_nothing():
    model = autoencoder()
    found = model(torch.zeros(3, 4, 80))
    found["loss"].backward()
    assert float(found["loss"].detach()) == 0
    assert not found["mask"].any()


def test_tokens_tell_the_voltage_the_time_and_the_lead():
    encoder, ecg = autoencoder().encoder, ecgs()
    assert not torch.allclose(encoder.encode(ecg), encoder.encode(3 * ecg), atol=1e-3)
    assert torch.allclose(encoder.encode(ecg), encoder.encode(ecg + 0.5), atol=1e-3), "offsets do not count"
    table = encoder.positions().unflatten(0, (4, 8))
    assert len(table.flatten(0, 1).unique(dim=0)) == 32
    assert torch.allclose(table[0] - table[1], (table[0] - table[1])[:1].expand(8, -1), atol=1e-6)


def test_regions_are_means_of_a_lead_over_time():
    encoder = ECGEncoder(80, 10, 4, 16, 1, 2)
    tokens = torch.arange(32.0).reshape(1, 32, 1).expand(2, -1, 3)
    usable = torch.ones(2, 32, dtype=torch.bool)
    usable[1, :8] = False
    parts, known = encoder.regions(tokens, usable)
    assert parts[0, :, 0].tolist() == [3.5, 11.5, 19.5, 27.5]
    assert known.tolist() == [[True] * 4, [False, True, True, True]]


def waves(count: int, seed: int) -> Tensor:
    """One sine in all leads, whose phase differs by patient: only what is visible can tell the rest."""
    phase = torch.rand(count, 1, 1, generator=generator(seed))
    return torch.sin(2 * torch.pi * (3 * torch.arange(80) / 80 + phase)).expand(-1, 4, -1)


def test_it_learns_to_reconstruct_unseen_patients():
    model = autoencoder(depth=1, token_width=32, decoder_width=32, mask_ratio=0.5)
    unseen = waves(64, 99)
    with torch.no_grad():
        before = model(unseen, generator=generator(1))["loss"].item()
    train(model, lambda step: model(waves(16, 1000 + step))["loss"], 200, 1e-2, one_cycle=True)
    with torch.no_grad():
        found = model(unseen, generator=generator(1))
    assert before > 0.9, "untrained it misses by the signal's own variance"
    assert found["loss"] < 0.2
    mask = found["mask"]
    agreement = torch.corrcoef(torch.stack([found["reconstruction"][mask], unseen[mask]]))[0, 1]
    assert agreement > 0.9
