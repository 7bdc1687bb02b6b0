"""The autoencoder of frames: shapes, ranges, folding, losses by hand, and that it learns."""

from typing import Any

import pytest
import torch

from models.ecg_cmr.cine_autoencoder import CineAutoencoder
from tests.models.ecg_cmr.small import generator, train


def build(**changed) -> CineAutoencoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"size": 16, "channels": (16, 16), "latent_channels": 2}
    return CineAutoencoder(**(settings | changed))


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (2, 4, 4)),
        ({"fold": 1}, (2, 8, 8)),
        ({"fold": 4, "channels": (16,)}, (2, 4, 4)),
        ({"latent_channels": 3, "channels": (16, 16, 32)}, (3, 2, 2)),
    ],
)
def test_shapes_there_and_back(settings, shape):
    model = build(**settings).eval()
    latents = model.encode(torch.rand(3, 5, 16, 16))
    assert latents.shape == (3, 5, *shape) and model.latent_shape == shape
    found = model.decode(latents)
    assert found.shape == (3, 5, 16, 16) and float(found.min()) >= 0 and float(found.max()) <= 1


def test_frames_are_scaled_to_minus_one_to_one_and_folding_loses_nothing():
    model = build()
    frames = torch.rand(3, 16, 16)
    folded = model._folded(frames)
    assert folded.shape == (3, 4, 8, 8)
    assert float(model._folded(torch.zeros(1, 16, 16)).max()) == -1
    assert float(model._folded(torch.ones(1, 16, 16)).min()) == 1
    assert torch.allclose(model._unfolded(folded), frames, atol=1e-6)


def test_losses_by_hand(monkeypatch):
    """A decoder that returns 0 (grey) for black frames is wrong by 1; latents of mean 1 and deviation 1."""
    model = build(kl_weight=0.1).eval()
    shape = (3, *model.latent_shape)
    monkeypatch.setattr(model.network, "encode", lambda folded: (torch.ones(shape), torch.ones(shape)))
    monkeypatch.setattr(model.network, "decode", lambda latents: torch.zeros(3, 4, 8, 8))
    found = model(torch.zeros(3, 16, 16))
    assert float(found["error"]) == 1 and found["error_of_frame"].tolist() == [0.25] * 3
    assert float(found["divergence"]) == pytest.approx(0.5 * 2 * 4 * 4)
    assert float(found["loss"]) == pytest.approx(1 + 0.1 * 16)


def test_training_samples_latents_and_evaluation_does_not():
    model, frames = build(), torch.rand(2, 16, 16)
    assert not torch.equal(model(frames)["error"], model(frames)["error"])
    model.eval()
    assert torch.equal(model(frames)["error"], model(frames)["error"])


def test_memory_is_bounded_without_changing_the_answer(monkeypatch):
    model, cines = build().eval(), torch.rand(3, 5, 16, 16)
    whole = model.encode(cines)
    monkeypatch.setattr("models.ecg_cmr.cine_autoencoder.FRAMES_AT_ONCE", 4)
    assert torch.allclose(model.encode(cines), whole, atol=1e-5)
    assert torch.allclose(model.decode(whole), model.decode(whole), atol=1e-5)


def test_it_learns_to_tell_bright_from_dark():
    model = build()
    random = generator()

    def loss_of(step: int) -> torch.Tensor:
        return model(torch.rand(16, 1, 1, generator=random).expand(16, 16, 16))["loss"]

    train(model, loss_of, 60, 5e-3, decay=0.0)
    model.eval()
    shades = torch.linspace(0.1, 0.9, 8)[:, None, None].expand(8, 16, 16)
    assert float(model(shades)["error_of_frame"].detach().mean()) < 0.03  # their mean is wrong by 0.075


@pytest.mark.parametrize(
    "wrong", [{"size": 18}, {"channels": (20,)}, {"channels": ()}, {"latent_channels": 0}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        build(**wrong)


def test_wrong_shapes_are_refused():
    model = build()
    with pytest.raises(ValueError, match="16 x 16 pixels"):
        model(torch.rand(2, 18, 18))
    with pytest.raises(ValueError, match="cines must have shape"):
        model.encode(torch.rand(2, 16, 16))
    with pytest.raises(ValueError, match="latents must have shape"):
        model.decode(torch.rand(2, 2, 4, 4))
