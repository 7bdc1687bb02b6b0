"""Layer-wise decay: each weight once, at the rate of its layer, and decay only where it belongs."""

from typing import Any

import pytest
import torch
from torch import nn

from models.ecg_cmr.contrast import ContrastiveModel
from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.masking import MaskedAutoencoder
from models.ecg_cmr.phenotypes import PhenotypeModel
from systems.ecg_cmr.phenotypes.layer_decay import layer_decay_groups

RATE = 1e-3


def model(**options: Any) -> PhenotypeModel:
    torch.manual_seed(0)
    return PhenotypeModel(ECGEncoder(40, 10, 3, 16, 3, 2), 2, 1, covariates=1, **options)


def of(name: str, network: nn.Module, **options: Any) -> dict[str, Any]:
    """Return the group that holds a parameter."""
    groups = [group for group in layer_decay_groups(network, RATE, **options) if name in group["names"]]
    assert len(groups) == 1, name
    return groups[0]


@pytest.mark.parametrize(
    ("name", "layer", "decays"),
    [
        ("encoder.embedding.weight", 0, True),
        ("encoder.embedding.bias", 0, False),
        ("encoder.scale_embedding.weight", 0, True),
        ("encoder.class_token", 0, False),
        ("encoder.lead_embedding", 0, False),
        ("encoder.transformer.blocks.0.attention.project.weight", 1, True),
        ("encoder.transformer.blocks.0.attention_norm.weight", 1, False),
        ("encoder.transformer.blocks.2.dense.0.weight", 3, True),
        ("encoder.transformer.blocks.2.dense_norm.bias", 3, False),
        ("encoder.transformer.norm.weight", 4, False),
        ("heads.indicators.0.weight", 4, True),
        ("heads.diseases.3.bias", 4, False),
        ("film.modulation.0.weight", 4, True),
    ],
)
def test_rate_and_decay_of_each_kind_of_weight(name, layer, decays):
    group = of(name, model(), decay=0.5, weight_decay=0.1)
    assert group["layer"] == layer
    assert group["lr"] == pytest.approx(RATE * 0.5 ** (4 - layer))
    assert group["weight_decay"] == (0.1 if decays else 0.0)


def test_every_trainable_weight_is_in_one_group_and_named_rightly():
    network = model()
    groups = layer_decay_groups(network, RATE)
    held = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in network.parameters())
    weights = dict(network.named_parameters())
    for group in groups:
        assert all(
            weight is weights[name] for name, weight in zip(group["names"], group["params"], strict=True)
        )


def test_frozen_weights_are_left_out():
    network = model(freeze_encoder=True)
    groups = layer_decay_groups(network, RATE)
    assert {name.split(".")[0] for group in groups for name in group["names"]} == {"heads", "film"}
    assert {group["layer"] for group in groups} == {4}


def test_without_decay_all_learn_alike():
    assert {group["lr"] for group in layer_decay_groups(model(), RATE, decay=1.0)} == {RATE}


def test_an_optimizer_takes_the_groups_and_moves_near_layers_less():
    network = model()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = torch.optim.AdamW(layer_decay_groups(network, RATE, decay=0.1, weight_decay=0.0))
    ecg = torch.randn(4, 3, 40, generator=torch.Generator().manual_seed(0))
    outputs = network(ecg, covariates=torch.ones(4, 1))
    network.losses(outputs, torch.ones(4, 2), torch.ones(4, 1))["loss"].backward()
    optimizer.step()
    moved = {
        name: float((weight.detach() - before[name]).abs().max())
        for name, weight in network.named_parameters()
    }
    # Adam's first step is as long as the learning rate
    assert moved["heads.indicators.3.weight"] == pytest.approx(1e-3, rel=0.01)
    assert moved["encoder.transformer.blocks.2.dense.0.weight"] == pytest.approx(1e-4, rel=0.01)
    assert moved["encoder.embedding.weight"] == pytest.approx(1e-7, rel=0.1)


def test_the_encoder_can_have_another_name():
    torch.manual_seed(0)
    network = ContrastiveModel(ECGEncoder(40, 10, 3, 16, 2, 2), ECGEncoder(40, 10, 3, 16, 1, 2), 8)
    groups = layer_decay_groups(network, RATE, encoder="ecg_encoder")
    layers = {name: group["layer"] for group in groups for name in group["names"]}
    assert layers["ecg_encoder.class_token"] == 0
    assert layers["ecg_encoder.transformer.blocks.1.dense.0.weight"] == 2
    assert layers["cmr_encoder.transformer.blocks.0.dense.0.weight"] == 3
    assert layers["log_scale"] == 3
    assert {group["weight_decay"] for group in groups if "log_scale" in group["names"]} == {0.0}


def test_mask_tokens_do_not_decay():
    torch.manual_seed(0)
    network = MaskedAutoencoder(ECGEncoder(40, 10, 3, 16, 1, 2), 0.5, 8, 1, 2)
    assert of("mask_token", network)["weight_decay"] == 0
    assert of("head.weight", network)["weight_decay"] == 0.05


def test_refusals():
    with pytest.raises(ValueError, match="decay must be above 0"):
        layer_decay_groups(model(), RATE, decay=0.0)
    with pytest.raises(ValueError, match="no blocks under 'tower'; its parts are encoder"):
        layer_decay_groups(model(), RATE, encoder="tower")
