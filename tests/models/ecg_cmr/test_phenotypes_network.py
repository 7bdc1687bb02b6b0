"""Indicators and diseases: FiLM, masked targets, scales, and that both kinds of encoder serve."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.ecg_cmr.cmr_encoder import CMREncoder
from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.phenotypes import CovariateFiLM, PhenotypeModel, column_statistics
from tests.models.ecg_cmr.small import generator, train

NAN = math.nan


def build(seed: int = 0, kind: str = "ecg", **options: Any) -> PhenotypeModel:
    torch.manual_seed(seed)
    encoder = ECGEncoder(40, 10, 3, 16, 1, 2) if kind == "ecg" else CMREncoder(2, 8, (2, 4, 4), 16, 1, 2)
    settings: dict[str, Any] = {"indicators": 3, "diseases": 2, "hidden": 16, "dropout": 0.0}
    return PhenotypeModel(encoder, **(settings | options))


def signals(count: int = 5, kind: str = "ecg", seed: int = 0) -> Tensor:
    shape = (3, 40) if kind == "ecg" else (2, 8, 8)
    return torch.randn(count, *shape, generator=generator(seed))


COVARIATES = torch.tensor([[60.0, 1.0], [45.0, 0.0], [NAN, 1.0], [71.0, NAN], [NAN, NAN]])


@pytest.mark.parametrize("kind", ["ecg", "cmr"])
@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, {"indicators": (5, 3), "diseases": (5, 2)}),
        ({"diseases": 0}, {"indicators": (5, 3)}),
        ({"indicators": 0, "diseases": 8}, {"diseases": (5, 8)}),
    ],
)
@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_shapes(kind, counts, expected, pooling):
    found = build(kind=kind, pooling=pooling, **counts)(signals(kind=kind))
    assert {name: tuple(values.shape) for name, values in found.items()} == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indicators": 0, "diseases": 0}, "there must be an indicator or a disease"),
        ({"covariates": -1}, "count columns"),
        ({"pooling": "max"}, "pooling must be"),
        ({"token_dropout": 1.0}, "token_dropout must be"),
    ],
)
def test_settings_that_make_no_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_covariates_must_be_as_many_as_promised():
    with pytest.raises(ValueError, match="takes 2 covariates, and 0 were given"):
        build(covariates=2)(signals())
    with pytest.raises(ValueError, match="takes 0 covariates, and 2 were given"):
        build()(signals(), covariates=COVARIATES)


def test_film_begins_as_identity():
    model = build(covariates=2)
    plain = build()
    plain.load_state_dict(
        {name: model.state_dict()[name] for name in plain.state_dict() if "cov" not in name}, strict=False
    )
    expected, found = plain(signals()), model(signals(), covariates=COVARIATES)
    for name in expected:
        assert torch.equal(found[name], expected[name])


def test_film_can_scale_both_up_and_down_and_learns_from_the_start():
    film = CovariateFiLM(1, 4)
    features, known = (
        torch.randn(3, 4, generator=generator()),
        torch.tensor([[-1.0, 1.0], [0.0, 1.0], [2.0, 1.0]]),
    )
    film(features, known).square().sum().backward()
    last = film.modulation[-1]
    assert isinstance(last, nn.Linear)
    assert last.weight.grad is not None
    assert last.weight.grad.abs().sum() > 0
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-2.0, -1.0, 0.0, 1.0, 0.5, -0.5, 0.0, 0.0]))
    by_hand = features * torch.tensor([-1.0, 0.0, 1.0, 2.0]) + torch.tensor([0.5, -0.5, 0.0, 0.0])
    assert torch.allclose(film(features, known), by_hand)


@pytest.mark.parametrize("film", [True, False])
def test_unknown_covariates_count_as_the_mean_and_are_marked(film):
    model = build(covariates=2, film=film)
    model.fit_targets(covariates=COVARIATES)
    assert model.covariate_mean.tolist() == pytest.approx([(60 + 45 + 71) / 3, 2 / 3])
    seen = []
    model.get_submodule("film.modulation" if film else "heads.indicators").register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0][:, -4:])
    )
    outputs = model(signals(), covariates=COVARIATES)
    assert all(values.isfinite().all() for values in outputs.values())
    assert seen[0][4].tolist() == [0, 0, 0, 0]
    assert seen[0][2].tolist() == pytest.approx([0, math.sqrt(0.5), 0, 1], abs=1e-6)


def test_losses_by_hand_over_known_values_only():
    model = build()
    model.fit_targets(torch.tensor([[1.0, 10.0, 0.0], [3.0, 30.0, 4.0]]))
    outputs = {
        "indicators": torch.tensor([[0.0, 2.0, 5.0], [1.0, 9.0, 9.0]]),
        "diseases": torch.tensor([[0.0, 30.0], [2.0, -4.0]]),
    }
    indicators = torch.tensor([[3.0, NAN, 2.0], [3.0, NAN, math.inf]])  # z-scores 1, -, 0 and 1, -, -
    diseases = torch.tensor([[1.0, NAN], [0.0, NAN]])
    found = model.losses(outputs, indicators, diseases, disease_weight=0.5)
    assert found["indicator_loss"].item() == pytest.approx((1 + 25 + 0) / 3)
    disease = (math.log(2) + math.log1p(math.exp(2))) / 2
    assert found["disease_loss"].item() == pytest.approx(disease)
    assert found["loss"].item() == pytest.approx(26 / 3 + 0.5 * disease)
    assert set(model.losses(outputs, diseases=diseases)) == {"loss", "disease_loss"}
    with pytest.raises(ValueError, match="nothing to compare"):
        model.losses(outputs)


def test_unknown_targets_send_no_gradient():
    model = build()
    outputs = model(signals())
    targets = torch.randn(5, 3, generator=generator(1))
    targets[1, 2] = targets[4] = NAN
    for values in outputs.values():
        values.retain_grad()
    diseases = torch.full((5, 2), NAN)
    losses = model.losses(outputs, targets, diseases)
    losses["loss"].backward()
    assert losses["disease_loss"].item() == 0
    indicator_gradient, disease_gradient = (outputs[name].grad for name in ("indicators", "diseases"))
    assert torch.equal(indicator_gradient != 0, targets.isfinite())
    assert (disease_gradient == 0).all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_columns_are_scaled_by_what_is_known():
    table = torch.tensor([[1.0, 5.0, NAN], [3.0, 5.0, 2.0], [NAN, 5.0, math.inf], [5.0, 5.0, 4.0]])
    mean, deviation = column_statistics(table)
    assert mean.tolist() == pytest.approx([3.0, 5.0, 3.0])
    assert deviation.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0, 1.0]), "constant: only centered"
    model = build()
    model.fit_targets(table)
    zero_and_one = torch.stack([torch.zeros(3), torch.ones(3)])
    assert torch.allclose(model.in_units(zero_and_one), torch.stack([mean, mean + deviation]))


def test_large_offsets_keep_their_deviation():
    table = 1e4 + torch.randn(500, 1, generator=generator())
    mean, deviation = column_statistics(table)
    assert mean.item() == pytest.approx(1e4, abs=0.2)
    assert deviation.item() == pytest.approx(1, abs=0.1)


def test_a_column_that_nobody_has_is_named():
    table = torch.ones(4, 3)
    table[:, 1] = NAN
    with pytest.raises(ValueError, match=r"value in indicator columns \[1\]"):
        build().fit_targets(table)


def test_scales_travel_with_the_weights():
    model, other = build(covariates=2), build(seed=1, covariates=2)
    model.fit_targets(torch.randn(9, 3, generator=generator()) * 7 + 50, COVARIATES)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.indicator_deviation, model.indicator_deviation)
    assert torch.equal(other.covariate_mean, model.covariate_mean)
    assert not torch.equal(other.indicator_mean, torch.zeros(3))


def test_every_weight_learns_and_a_frozen_encoder_does_not():
    for frozen in (False, True):
        model = build(freeze_encoder=frozen, covariates=2)
        model.losses(model(signals(), covariates=COVARIATES), torch.ones(5, 3), torch.ones(5, 2))[
            "loss"
        ].backward()
        without = {name for name, weight in model.named_parameters() if weight.grad is None}
        assert {name.split(".")[0] for name in without} == ({"encoder"} if frozen else set())
        assert model.encoder.training is not frozen
    assert not model.train().encoder.training


def test_tokens_are_left_out_in_training_only():
    model = build(token_dropout=0.5)
    assert not torch.equal(model(signals())["indicators"], model(signals())["indicators"])
    model.eval()
    assert torch.equal(model(signals())["indicators"], model(signals())["indicators"])
    frozen = build(token_dropout=0.5, freeze_encoder=True)
    assert torch.equal(frozen(signals())["indicators"], frozen(signals())["indicators"])


def test_absent_leads_do_not_count():
    model, present = build(), torch.tensor([True, True, False]).expand(5, -1)
    planted = signals()
    planted[:, 2] = NAN
    assert torch.equal(model(signals(), present)["indicators"], model(planted, present)["indicators"])


def test_it_learns_voltage_from_waves_that_are_else_alike():
    """Leads are standardized; the added voltage must be enough to measure it."""
    model = build(indicators=1, diseases=1)
    voltage = torch.exp(0.4 * torch.randn(160, 1, 1, generator=generator(3)))
    wave = torch.sin(torch.arange(40) / 3 + torch.arange(3)[:, None])
    ecg, target = 0.2 * voltage * wave, 30 + 5 * voltage[:, :, 0]
    model.fit_targets(target[:128])
    known = target[:128], (target[:128] > 35.0).float()
    train(model, lambda _: model.losses(model(ecg[:128]), *known)["loss"], 60, 5e-3)
    with torch.no_grad():
        outputs = model.eval()(ecg[128:])
    measured = model.in_units(outputs["indicators"])
    assert torch.corrcoef(torch.cat([measured, target[128:]], dim=1).T)[0, 1] > 0.95
    assert (measured - target[128:]).abs().mean() < 0.25 * target[128:].std()
    right = (outputs["diseases"] > 0) == (target[128:] > 35.0)
    assert right.double().mean() > 0.9


# Classes, and balance ---------------------------------------------------------------------------------


def test_the_loss_of_classes_is_that_of_what_is_known():
    model = build(indicators=0, diseases=0, classes=(2, 3))
    outputs = {"classes": torch.tensor([[0.0, 0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 0.0, 0.0]])}
    classes = torch.tensor([[1.0, NAN], [0.0, 2.0]])
    expected = (math.log(2) + math.log(1 + math.exp(-1)) + math.log(3)) / 3
    assert model.losses(outputs, classes=classes)["loss"].item() == pytest.approx(expected)
    nothing = model.losses(outputs, classes=torch.full((2, 2), NAN))["loss"]
    assert nothing.item() == 0
    found = model.probabilities(outputs)["classes"]
    assert found[:, :2].sum(dim=1).tolist() == pytest.approx([1, 1])
    assert found[:, 2:].sum(dim=1).tolist() == pytest.approx([1, 1])
    assert found[1].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_balance_weighs_both_sides_the_same_and_probabilities_keep_the_share_of_training(share):
    """A model that knows nothing but the share: balanced it learns one half, and the share comes back."""
    count = 200
    disease = (torch.arange(count) < share * count).float()[:, None]
    classes = torch.where(torch.arange(count) < share * count, 0.0, 1.0 + torch.arange(count) % 2)[:, None]
    model = build(indicators=0, diseases=1, classes=(3,), balance=True)
    model.fit_weights(disease, classes)
    logits = {
        "diseases": torch.zeros(1, 1, requires_grad=True),
        "classes": torch.zeros(1, 3, requires_grad=True),
    }
    outputs = {name: values.expand(count, -1) for name, values in logits.items()}
    model.losses(outputs, diseases=disease, classes=classes)["loss"].backward()
    for values in logits.values():
        assert values.grad is not None and values.grad.abs().max() < 1e-5, (
            "equal shares are the optimum of the balanced loss"
        )
    found = model.probabilities(logits)
    assert found["diseases"].item() == pytest.approx(share, abs=1e-5)
    shares = [(classes == number).float().mean().item() for number in range(3)]
    assert found["classes"][0].tolist() == pytest.approx(shares, abs=1e-5)


def test_a_class_without_a_patient_is_not_weighed_infinitely():
    model = build(indicators=0, diseases=2, balance=True)
    model.fit_weights(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, NAN], [1.0, 0.0]]), torch.empty(4, 0))
    assert model.log_weights.exp().tolist() == pytest.approx([1, 3 / 4, 1, 3 / 2])
