"""PACFNet: size, shapes, the input of its attention and branches, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from models.pacfnet import FusionLevel, PACFNet

MULTIPLY_ACCUMULATES = 1.57e9
OPEN = 100.0
"""Bias that opens a sigmoid gate fully; its negative shuts it."""


def beats(count: int = 2, points: int = 500, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ecg, pcg = torch.randn(2, count, 1, points, generator=generator)
    return ecg, pcg


def network(seed: int = 0, **options: Any) -> PACFNet:
    torch.manual_seed(seed)
    return PACFNet(**({"width": 8, "dropout": 0.0} | options))


def fusion_levels(model: PACFNet) -> list[FusionLevel]:
    levels = [level for level in model.fusions.children() if isinstance(level, FusionLevel)]
    assert len(levels) == len(model.fusion_levels)
    return levels


def set_gate(gate: nn.Module | None, bias: float) -> None:
    """Make the layer before a sigmoid ignore its input and give this bias everywhere."""
    assert gate is not None
    layers = [layer for layer in gate.modules() if isinstance(layer, nn.Conv1d | nn.Linear)]
    nn.init.zeros_(layers[-1].weight)
    assert layers[-1].bias is not None
    nn.init.constant_(layers[-1].bias, bias)


def test_multiply_accumulates_of_one_beat():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        PACFNet().eval()(*beats(1, 2000))
    assert counter.get_total_flops() / 2 == pytest.approx(MULTIPLY_ACCUMULATES, rel=0.03)


@pytest.mark.parametrize(
    ("options", "points", "levels"),
    [
        ({}, 2000, [(8, 2000), (16, 400), (24, 80), (32, 16)]),
        ({}, 500, [(8, 500), (16, 100), (24, 20), (32, 4)]),
        ({}, 501, [(8, 501), (16, 101), (24, 21), (32, 5)]),
        ({}, 1999, [(8, 1999), (16, 400), (24, 80), (32, 16)]),
        ({}, 25, [(8, 25), (16, 5), (24, 1), (32, 1)]),
        ({"width": 16}, 500, [(16, 500), (32, 100), (48, 20), (64, 4)]),
        ({"levels": 1}, 500, [(8, 500)]),
        ({"levels": 2}, 500, [(8, 500), (16, 100)]),
        ({"levels": 3}, 501, [(8, 501), (16, 101), (24, 21)]),
        ({"kernel_size": 3}, 501, [(8, 501), (16, 101), (24, 21), (32, 5)]),
        ({"kernel_size": 9}, 2000, [(8, 2000), (16, 400), (24, 80), (32, 16)]),
        ({"attention": "parallel"}, 500, [(8, 500), (16, 100), (24, 20), (32, 4)]),
        ({"channel": False}, 501, [(8, 501), (16, 101), (24, 21), (32, 5)]),
        ({"spatial": False}, 501, [(8, 501), (16, 101), (24, 21), (32, 5)]),
        ({"spatial": False, "channel": False}, 501, [(8, 501), (16, 101), (24, 21), (32, 5)]),
        ({"fusion_levels": (4,)}, 501, [(32, 5)]),
        ({"fusion_levels": (1, 4)}, 501, [(8, 501), (32, 5)]),
        ({"fusion_levels": (2, 3), "levels": 3}, 2000, [(16, 400), (24, 80)]),
        ({"modalities": ("ecg",)}, 501, []),
        ({"modalities": ("pcg",)}, 2000, []),
        ({"classes": 3}, 500, [(8, 500), (16, 100), (24, 20), (32, 4)]),
    ],
)
def test_shapes_of_logits_and_attention(options, points, levels):
    model = network(**options).eval()
    logits, attention = model.forward_with_attention(*beats(3, points))
    assert logits.shape == (3, options.get("classes", 2))
    assert len(attention) == len(levels)
    for maps, (channels, length) in zip(attention, levels, strict=True):
        expected = {"spatial": (3, 2, length), "channel": (3, channels)}
        expected = {name: shape for name, shape in expected.items() if options.get(name, True)}
        assert {name: tuple(found.shape) for name, found in maps.items()} == expected
        for found in maps.values():
            assert found.min() >= 0
            assert found.max() <= 1
            assert found.std() > 0, "an attention that is the same everywhere attends to nothing"


@pytest.mark.parametrize("points", [2000, 501])
def test_encoder_features_have_the_published_lengths(points):
    model = network().eval()
    model.channels_last = False
    features = [model._encode(name, beats(1, points)[0]) for name in ("ecg", "pcg")]
    lengths = [-(-points // factor) for factor in (1, 5, 25, 125)]
    for levels in features:
        assert [tuple(level.shape) for level in levels] == [
            (1, 8 * number, length) for number, length in enumerate(lengths, start=1)
        ]


def test_deeper_levels_read_the_pooled_raw_signal():
    model = network().eval()
    model.channels_last = False
    ecg, pcg = beats(2, 500)
    seen: list[Tensor] = []
    for level in model.encoders["pcg"].children():
        level.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(ecg, pcg)
    assert [tensor.shape[1] for tensor in seen] == [1, 8, 17, 25]
    assert torch.allclose(seen[2][:, -1], pcg.reshape(2, 100, 5).mean(dim=-1), atol=1e-6)
    assert torch.allclose(seen[3][:, -1], pcg.reshape(2, 20, 25).mean(dim=-1), atol=1e-6)


def test_residual_block_adds_its_input_and_scales_by_its_gate():
    block = next(module for module in network().modules() if type(module).__name__ == "ResidualBlock").eval()
    squeeze = next(module for module in block.modules() if type(module).__name__ == "SqueezeExcitation")
    features = torch.randn(2, 8, 40)
    set_gate(squeeze, -OPEN)
    assert torch.equal(block(features), features)
    set_gate(squeeze, OPEN)
    run = block(features) - features
    set_gate(squeeze, 0.0)
    assert torch.allclose(block(features) - features, run / 2, atol=1e-6)
    assert run.abs().max() > 0


def test_fusion_merges_weighted_modalities_and_what_was_fused_before():
    model = network().eval()
    model.channels_last = False
    given: list[tuple[Tensor, ...]] = []
    merged: list[Tensor] = []
    outputs: list[Tensor] = []
    for level in fusion_levels(model):
        level.merge.register_forward_pre_hook(lambda _, inputs: merged.append(inputs[0]))
        level.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
        level.register_forward_hook(lambda _, inputs, result: outputs.append(result[0]))
    _, attention = model.forward_with_attention(*beats(2, 500))
    for number, (maps, level) in enumerate(zip(attention, fusion_levels(model), strict=True)):
        ecg, pcg, previous = given[number]
        gate = maps["channel"].unsqueeze(-1)
        parts = [ecg * maps["spatial"][:, :1] * gate, pcg * maps["spatial"][:, 1:] * gate]
        if level.bring is not None:
            assert previous is outputs[number - 1]
            pooled = functional.avg_pool1d(previous, 5)
            parts.append(functional.conv1d(pooled, level.bring.weight, level.bring.bias))
        assert torch.allclose(merged[number], torch.cat(parts, dim=1), atol=1e-6)
    assert [level.bring is None for level in fusion_levels(model)] == [True, False, False, False]


def attention_of_first_level(mode: str, shut: bool) -> tuple[Tensor, Tensor]:
    """Return channel gates for two different beats, with the spatial maps as they are or shut."""
    model = network(attention=mode, width=32).eval()  # hidden layers of a few units die less
    if shut:
        set_gate(fusion_levels(model)[0].spatial, -OPEN)
    _, attention = model.forward_with_attention(*beats(2, 500))
    return attention[0]["channel"], attention[0]["spatial"]


def test_cascaded_channel_attention_depends_on_the_spatial_maps():
    gate, _ = attention_of_first_level("cascaded", shut=False)
    blind, maps = attention_of_first_level("cascaded", shut=True)
    assert maps.max() < 1e-20
    assert torch.allclose(blind[0], blind[1], atol=1e-7), "nothing passes: all beats look the same"
    assert not torch.allclose(gate[0], gate[1], atol=1e-6)
    assert not torch.allclose(gate, blind, atol=1e-4)


def test_parallel_channel_attention_does_not_depend_on_the_spatial_maps():
    gate, _ = attention_of_first_level("parallel", shut=False)
    blind, maps = attention_of_first_level("parallel", shut=True)
    assert maps.max() < 1e-20
    assert torch.equal(gate, blind)
    assert not torch.allclose(gate[0], gate[1], atol=1e-6)


@pytest.mark.parametrize(("mode", "factor"), [("cascaded", 0.5), ("parallel", 1.0)])
def test_channel_attention_by_hand(mode, factor):
    level = fusion_levels(network(attention=mode).eval())[1]
    assert level.channel is not None
    set_gate(level.spatial, 0.0)  # both maps are 0.5 everywhere
    ecg, pcg, previous = torch.randn(3, 16, 100), torch.randn(3, 16, 100), torch.randn(3, 8, 500)
    _, maps = level(ecg, pcg, previous)
    first, second = (layer for layer in level.channel.modules() if isinstance(layer, nn.Linear))
    assert (first.in_features, first.out_features) == (32, 2)
    means = factor * torch.cat([ecg.mean(dim=-1), pcg.mean(dim=-1)], dim=1)
    expected = torch.sigmoid(second(torch.relu(first(means))))
    assert torch.allclose(maps["channel"], expected, atol=1e-6)


def test_encoders_share_no_weights():
    model = network()
    ecg, pcg = (
        {weight.data_ptr() for weight in model.encoders[name].parameters()} for name in ("ecg", "pcg")
    )
    assert ecg
    assert len(ecg) == len(pcg)
    assert not ecg & pcg
    signal = beats()[0]
    assert not torch.allclose(model._encode("ecg", signal)[0], model._encode("pcg", signal)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 12}, r"width must be a multiple of 8, and is 12"),
        ({"width": 0}, r"width must be a multiple of 8, and is 0"),
        ({"width": -8}, r"width .* is -8"),
        ({"levels": 0}, r"levels must be 1 to 4, and is 0"),
        ({"levels": 5}, r"levels must be 1 to 4, and is 5"),
        ({"kernel_size": 8}, r"kernel_size must be odd, and is 8"),
        ({"attention": "serial"}, r"cascaded or parallel, and is 'serial'"),
        ({"modalities": ()}, r"modalities must be among"),
        ({"modalities": ("ecg", "eeg")}, r"modalities must be among .* 'eeg'"),
        ({"fusion_levels": ()}, r"fusion_levels must be rising numbers from 1 to 4"),
        ({"fusion_levels": (4, 2)}, r"fusion_levels must be rising .* \(4, 2\)"),
        ({"fusion_levels": (0, 4)}, r"fusion_levels must be rising numbers from 1 to 4"),
        ({"fusion_levels": (1, 2)}, r"last level, 4, must be fused"),
        ({"dropout": 1.5}, r"dropout probability"),
    ],
)
def test_refuses_options_that_make_no_network(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_gradient_reaches_every_parameter_under_parallel_attention():
    model = network(width=32, attention="parallel")
    functional.cross_entropy(model(*beats(8, 250)), torch.tensor([0, 1] * 4)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        if weight.ndim > 1:  # a bias before batch normalization has none but for rounding
            assert weight.grad.abs().max() > 0, name


def test_same_seed_same_weights_and_output_other_seed_others():
    first, again, other = (network(seed).eval() for seed in (0, 0, 1))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(first(*beats()), again(*beats()))
    assert not torch.allclose(first(*beats()), other(*beats()), atol=1e-6)


def test_dropout_acts_in_training_only():
    model = network(dropout=0.5)
    probabilities = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert probabilities == {0.5}
    signals = beats(8)
    model.eval()
    assert torch.equal(model(*signals), model(*signals))
    model.train()
    assert not torch.equal(model(*signals), model(*signals))


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch():
    model = network().eval()
    ecg, pcg = beats(4)
    assert torch.allclose(model(ecg, pcg)[:1], model(ecg[:1], pcg[:1]), atol=1e-6)


REFERENCE = Path(__file__).parent / "pacfnet-w8.npz"
"""The original network at width 8, in use: weights, four beats, probabilities, spatial attention."""


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("attention", ["cascaded", "parallel"])
def test_equals_the_original_network(attention, channels_last):
    with np.load(REFERENCE) as stored:
        known = {name: torch.from_numpy(stored[name]) for name in stored}
    model = network(attention=attention).eval()
    model.channels_last = channels_last
    model.load_state_dict({name.removeprefix("state."): known[name] for name in known if "state." in name})
    logits, levels = model.forward_with_attention(known["ecg"], known["pcg"])
    torch.testing.assert_close(logits.softmax(dim=1), known[f"{attention}.probability"], atol=1e-5, rtol=0)
    for number, maps in enumerate(levels, start=1):
        torch.testing.assert_close(maps["spatial"], known[f"{attention}.spatial.{number}"], atol=1e-5, rtol=0)
