"""The generator of cines: paths, targets and steps by hand; sampling with the ideal prediction."""

import math

import pytest
import torch

from models.ecg_cmr.cine_autoencoder import CineAutoencoder
from models.ecg_cmr.cine_generator import (
    LATEST,
    CineGenerator,
    alpha_sigma,
    cycle_basis,
    noise_for,
    prediction_target,
    x0_and_noise,
)
from models.ecg_cmr.ecg_encoder import ECGEncoder

OBJECTIVES = ("velocity", "noise", "flow")
FRAMES, SIZE, LEADS, POINTS = 4, 16, 3, 40


def build(**changed) -> CineGenerator:
    torch.manual_seed(0)
    encoder = ECGEncoder(POINTS, 10, LEADS, 16, 1, 2)
    autoencoder = CineAutoencoder(SIZE, (16, 16), 2)
    return CineGenerator(encoder, autoencoder, FRAMES, **({"channels": (64,)} | changed))


def ecgs(count: int = 3) -> torch.Tensor:
    return torch.randn(count, LEADS, POINTS, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> CineGenerator:
    return build().eval()


# The path ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_path_begins_at_the_data_and_ends_at_the_noise(objective):
    signal, spread = alpha_sigma(objective, torch.tensor([0.0, 1.0]))
    assert signal.flatten().tolist() == pytest.approx([1, 0], abs=1e-6)
    assert spread.flatten().tolist() == pytest.approx([0, 1], abs=1e-6)


def test_diffusion_keeps_the_variance_and_flow_is_straight():
    time = torch.tensor([0.25])
    signal, spread = alpha_sigma("velocity", time)
    assert float(signal**2 + spread**2) == pytest.approx(1)
    assert float(signal) == pytest.approx(math.cos(math.pi / 8))
    signal, spread = alpha_sigma("flow", time)
    assert (float(signal), float(spread)) == pytest.approx((0.75, 0.25))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_from_the_right_prediction_data_and_noise_come_back(objective):
    data, noise = torch.randn(2, 5, 3, 4, 4)
    time = torch.linspace(0.1, 0.9, 5)
    signal, spread = alpha_sigma(objective, time)
    found = x0_and_noise(
        objective, signal * data + spread * noise, prediction_target(objective, data, noise, time), time
    )
    assert torch.allclose(found[0], data, atol=1e-4) and torch.allclose(found[1], noise, atol=1e-4)


def test_targets_by_hand():
    data, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 5.0)
    time = torch.tensor([0.5])
    assert float(prediction_target("noise", data, noise, time)) == 5
    assert float(prediction_target("flow", data, noise, time)) == 3
    assert float(prediction_target("velocity", data, noise, time)) == pytest.approx((5 - 2) / math.sqrt(2))


# Sampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_ideal_prediction_samples_from_the_distribution(objective, monkeypatch):
    """For data of mean 3 and deviation 0.5 the ideal prediction is known: the samples have both."""
    mean, deviation = 3.0, 0.5
    model = build(objective=objective).eval()

    def ideal(point, time, condition, hidden):
        signal, spread = alpha_sigma(objective, time)
        gain = deviation**2 * signal / (signal**2 * deviation**2 + spread**2)
        data = mean + gain * (point - signal * mean)
        noise = (point - signal * data) / spread
        return prediction_target(objective, data, noise, time)

    monkeypatch.setattr(model, "_predict", ideal)
    monkeypatch.setattr(model, "cines_of", lambda data: data)
    drawn = model.sample(model.condition(ecgs(40)), range(40), steps=50)
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.06)
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.12)


def test_seeds_decide_whatever_else_is_in_the_batch(model):
    condition = model.condition(ecgs(3))
    together = model.sample(condition, [5, 6, 7], steps=3)
    alone = model.sample(condition[1:2], [6], steps=3)
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    assert not torch.allclose(together[1:2], model.sample(condition[1:2], [8], steps=3), atol=1e-3)
    assert together.shape == (3, FRAMES, SIZE, SIZE)
    assert float(together.min()) >= 0 and float(together.max()) <= 1


def test_noise_of_a_seed_is_standard_normal_and_its_own():
    first, second = noise_for([1, 2], (40, 20, 20)), noise_for([2], (40, 20, 20))
    assert torch.equal(first[1], second[0]) and not torch.equal(first[0], first[1])
    assert float(first.mean()) == pytest.approx(0, abs=0.03) and float(first.std()) == pytest.approx(
        1, abs=0.02
    )


def test_guidance_extrapolates_from_the_unconditional_prediction(model, monkeypatch):
    point, time = torch.zeros(2, *model.shape), torch.full((2,), 0.5)
    condition = model.condition(ecgs(2))

    def known(point, time, condition, hidden):
        return torch.where(hidden[:, None, None, None], 1.0, 4.0).expand_as(point)

    monkeypatch.setattr(model, "_predict", known)
    found = {scale: float(model.guided(point, time, condition, scale).mean()) for scale in (0.0, 1.0, 3.0)}
    assert found == {0.0: 1.0, 1.0: 4.0, 3.0: 10.0}


def test_the_ecg_has_no_effect_at_guidance_zero_and_has_one_at_one():
    model = build().eval()
    for weight in model.ema.parameters():  # MONAI's network returns zeros at first
        torch.nn.init.normal_(weight, std=0.1)
    one, two = model.condition(ecgs(2)).unsqueeze(1)
    blind = [model.sample(condition, [3], steps=2, guidance=0.0) for condition in (one, two)]
    seeing = [model.sample(condition, [3], steps=2) for condition in (one, two)]
    assert torch.equal(blind[0], blind[1])
    assert not torch.allclose(seeing[0], seeing[1])


def test_sampling_arguments_that_generate_nothing_are_refused(model):
    condition = model.condition(ecgs(2))
    for arguments in (([1], 2, 1.0), ([1, 2], 0, 1.0), ([1, 2], 2, -1.0)):
        with pytest.raises(ValueError, match="generate nothing"):
            model.sample(condition, *arguments)
    assert LATEST["noise"] < 1  # there data = (point - noise) / 0


# Learning ---------------------------------------------------------------------------------------------


def test_only_the_u_net_and_the_null_token_learn():
    model = build(condition_dropout=0.5).train()
    data = torch.randn(8, *model.shape)
    model(data, model.condition(ecgs(8)), torch.rand(8), torch.randn_like(data)).mean().backward()
    learned = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert learned == {"network", "unknown"}
    assert not model.encoder.training and not model.autoencoder.training and model.network.training


def test_the_error_of_an_untrained_network():
    """At first the network returns 0: the error of the flow is var(noise) + var(data), of the noise 1."""
    data = torch.randn(64, 8, 8, 8)
    for objective, expected in (("flow", 2.0), ("noise", 1.0), ("velocity", 1.0)):
        model = build(objective=objective).eval()
        error = model(data, model.condition(ecgs(64)), torch.rand(64), torch.randn_like(data))
        assert error.shape == (64,) and float(error.mean()) == pytest.approx(expected, rel=0.05)


def test_condition_dropout_hides_that_share(monkeypatch):
    model = build(condition_dropout=0.25).train()
    hidden: list[torch.Tensor] = []

    def remembers(point, time, condition, hides):
        hidden.append(hides)
        return torch.zeros_like(point)

    monkeypatch.setattr(model, "_predict", remembers)
    data, condition = torch.zeros(400, *model.shape), torch.zeros(400, 1 + LEADS, 16)
    model(data, condition, torch.rand(400), data)
    model.eval()
    model(data, condition, torch.rand(400), data)
    assert float(hidden[0].float().mean()) == pytest.approx(0.25, abs=0.07)
    assert not hidden[1].any()


def test_the_ema_follows_the_weights():
    model = build(ema_decay=0.5)
    weight, mean = next(model.network.parameters()), next(model.ema.parameters())
    before = mean.clone()
    with torch.no_grad():
        weight.add_(1.0)
    model.update_ema()  # (1 + 1) / (10 + 1) of the old one stays
    assert torch.allclose(mean, before + 9 / 11, atol=1e-6)
    for _ in range(20):
        model.update_ema()
    assert torch.allclose(mean, weight, atol=1e-4)
    model.get_buffer("steps").fill_(1000)
    before = mean.clone()
    with torch.no_grad():
        weight.add_(1.0)
    model.update_ema()
    assert torch.allclose(mean, before + 0.5, atol=1e-3)


def test_evaluation_uses_the_ema():
    model = build().eval()
    data = torch.randn(2, *model.shape)
    given = (data, model.condition(ecgs(2)), torch.full((2,), 0.5), torch.randn_like(data))
    before = model(*given)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(0.1)
    assert torch.equal(model(*given), before)


# Latents ----------------------------------------------------------------------------------------------


def test_latents_are_standardized_by_channel_and_come_back():
    model = build(harmonics=FRAMES).eval()
    scale = torch.tensor([2.0, 0.5])[:, None, None]
    latents = torch.randn(60, FRAMES, *model.autoencoder.latent_shape) * scale
    latents[:, :, 1] += 7
    model.fit_latents(latents)
    data = model.standardized(latents)
    assert data.shape[1:] == model.shape
    assert torch.allclose(data.mean(0), torch.zeros(model.shape), atol=1e-4)
    assert torch.allclose(data.movedim(1, 0).flatten(1).std(1), torch.ones(model.shape[0]), atol=1e-3)
    assert torch.allclose(model.cines_of(data), model.autoencoder.decode(latents), atol=1e-4)


def test_the_basis_of_a_cycle_is_orthonormal_and_begins_with_the_mean():
    for frames, harmonics in ((16, 4), (16, 8), (15, 7), (4, 99)):
        basis = cycle_basis(frames, harmonics)
        assert len(basis) == min(2 * harmonics + 1, frames)
        assert torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=1e-6)
        assert torch.allclose(basis[0], torch.full((frames,), frames**-0.5))


def test_what_beats_faster_than_the_harmonics_is_left_out():
    phase = torch.arange(16) * (2 * torch.pi / 16)
    slow, fast = 3 + torch.cos(2 * phase + 1), torch.sin(5 * phase)
    basis = cycle_basis(16, 4)
    assert torch.allclose((slow + fast) @ basis.T @ basis, slow, atol=1e-5)


def test_motion_counts_as_much_as_shape():
    model = build(harmonics=1).eval()
    phase = torch.arange(FRAMES) * (2 * torch.pi / FRAMES)
    shape = torch.randn(80, 1, *model.autoencoder.latent_shape)
    motion = (
        0.01 * torch.randn(80, 1, *model.autoencoder.latent_shape) * torch.cos(phase)[:, None, None, None]
    )
    model.fit_latents(shape + motion)
    data = model.standardized(shape + motion).unflatten(1, (3, -1))
    assert torch.allclose(data[:, 0].std(), torch.tensor(1.0), atol=0.02)
    assert torch.allclose(data[:, 1].std(), torch.tensor(1.0), atol=0.02)


# Condition --------------------------------------------------------------------------------------------


def test_tokens_are_standardized_and_those_of_missing_leads_are_the_mean():
    model = build().eval()
    signals = ecgs(40)
    model.fit_tokens(model.condition(signals))
    tokens = model.condition(signals)
    assert torch.allclose(tokens.mean(0), torch.zeros_like(tokens[0]), atol=1e-4)
    assert torch.allclose(tokens.std(0), torch.ones_like(tokens[0]), atol=1e-2)
    present = torch.ones(40, LEADS, dtype=torch.bool)
    present[0, 1] = False
    assert not model.condition(signals, present)[0, 2].any()


def test_the_ecg_as_a_whole_reaches_every_block():
    model = build().eval()
    with torch.no_grad():
        for name, weight in model.ema.named_parameters():
            if "attn2" in name or "cross" in name:
                weight.zero_()  # nothing comes through cross-attention
            elif "class_embedding" in name:
                torch.nn.init.normal_(weight)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    data, condition = torch.randn(2, *model.shape), torch.randn(2, 1 + LEADS, 16)
    noise, time = torch.randn_like(data), torch.full((2,), 0.5)
    before = model(data, condition, time, noise)
    assert not torch.allclose(before, model(data, condition.flip(0), time, noise))


def test_the_condition_is_the_class_token_and_a_token_a_lead(model):
    assert model.condition(ecgs(2)).shape == (2, 1 + LEADS, 16)
    assert build(tokens="all").condition(ecgs(2)).shape == (2, 1 + LEADS * 4, 16)
    present = torch.tensor([[True, False, True]])
    tokens = model.condition(ecgs(1), present)
    assert not tokens[0, 2].any() and tokens[0, 1].any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"harmonics": 0},
        {"channels": (96,)},
        {"channels": ()},
        {"objective": "score"},
        {"tokens": "beats"},
        {"condition_dropout": 1.0},
        {"ema_decay": 1.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|there are"):
        build(**wrong)
