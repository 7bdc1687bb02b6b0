import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import NETWORKS, SINGLE_MODALITY, TAKES_ABSENCE, build_model
from models.cross_attention import CrossAttentionNetwork, positions
from models.early_late_fusion import EarlyFusion, LateFusion
from models.layers.blocks import Encoder

POINTS = 125
PARAMETERS = {
    "pacfnet": (11_723_898, 756_030),
    "ecg-network": (4_331_330, 289_706),
    "pcg-network": (4_331_330, 289_706),
    "last-fusion": (9_693_828, 628_092),
    "concatenation": (11_060_130, 713_922),
    "spatial-attention": (11_677_098, 752_970),
    "channel-attention": (11_106_930, 716_982),
    "early-fusion": (4_334_914, 290_602),
    "late-fusion": (8_662_660, 579_412),
    "cross-attention": (9_864_322, 648_442),
}
"""Trainable parameters at width 64 and 16; 11,723,898 is the published network's."""
BOTH = [name for name in NETWORKS if name not in SINGLE_MODALITY]


def small(name: str, **options) -> Any:
    torch.manual_seed(0)
    return build_model(name, **({"width": 8, "dropout": 0.0} | options))


def signals(count: int = 4, points: int = POINTS, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ecg, pcg = torch.randn(2, count, 1, points, generator=generator)
    return ecg, pcg


def toy(count: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, and in class 1 a bump in the ECG and an oscillation in the heart sound."""
    ecg, pcg = signals(count)
    label = torch.arange(count) % 2
    time = torch.linspace(0, 1, POINTS)
    ecg = 0.3 * ecg + 2 * label[:, None, None] * torch.exp(-(((time - 0.4) / 0.05) ** 2))
    pcg = 0.3 * pcg + label[:, None, None] * torch.sin(80 * time) * (time > 0.6)
    return ecg, pcg, label


def leaky(network: nn.Module) -> Any:
    """A gate of one hidden unit, as narrow networks have, may be dead by chance; not with this."""
    for module in list(network.modules()):
        for key, part in module.named_children():
            if isinstance(part, nn.ReLU):
                setattr(module, key, nn.LeakyReLU())
    return network


def test_the_networks_of_this_table_keep_their_order_and_what_they_take():
    assert [name for name in NETWORKS if name in PARAMETERS] == list(PARAMETERS)
    assert {name: SINGLE_MODALITY.get(name) for name in PARAMETERS} == dict.fromkeys(PARAMETERS) | {
        "ecg-network": "ecg",
        "pcg-network": "pcg",
    }
    rest = {"ecg-network", "pcg-network", "early-fusion", "late-fusion"}
    assert set(TAKES_ABSENCE) & set(PARAMETERS) == set(PARAMETERS) - rest


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes(name):
    for width, expected in zip((64, 16), PARAMETERS[name], strict=True):
        with torch.device("meta"):
            network = build_model(name, width=width)
        assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == expected


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("width", "kernel_size", "shape"),
    [(8, 7, (2, 1, 500)), (16, 5, (3, 1, 126)), (8, 3, (2, 1, 25)), (8, 7, (1, 1, 2000))],
)
def test_shapes(name, width, kernel_size, shape):
    network = build_model(name, width=width, kernel_size=kernel_size, dropout=0.1).eval()
    with torch.no_grad():
        logits = network(torch.randn(shape), torch.randn(shape))
    assert logits.shape == (shape[0], 2)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_prediction_does_not_depend_on_the_order_of_the_batch(name):
    network, (ecg, pcg) = small(name).eval(), signals(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(network(ecg, pcg)[order], network(ecg[order], pcg[order]))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_weight(name):
    network, (ecg, pcg, label) = leaky(small(name)), toy(8)
    functional.cross_entropy(network(ecg, pcg), label).backward()
    assert not [key for key, weight in network.named_parameters() if weight.grad is None]
    still = [key for key, weight in network.named_parameters() if weight.ndim > 1 and not weight.grad.any()]
    assert not still


@pytest.mark.parametrize("name", NETWORKS)
def test_same_seed_same_network_and_another_seed_another(name):
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(nn.utils.parameters_to_vector(build_model(name, width=8).parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_toy_problem_is_learned_in_a_few_steps(name):
    network, (ecg, pcg, label) = small(name), toy()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(30):
        loss = functional.cross_entropy(network(ecg, pcg), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert (network(ecg, pcg).argmax(dim=1) == label).all()


@pytest.mark.parametrize(("name", "modality"), SINGLE_MODALITY.items())
def test_a_network_of_one_modality_ignores_the_other(name, modality):
    network, (ecg, pcg) = small(name).eval(), signals()
    own = {"ecg": ecg, "pcg": pcg}[modality]
    expected = network(ecg, pcg)
    assert torch.equal(network(**{modality: own}), expected)
    assert torch.equal(network(**{"ecg": own * torch.nan, "pcg": own * torch.nan, modality: own}), expected)
    assert not torch.allclose(network(**{modality: own + 1}), expected)


@pytest.mark.parametrize("name", BOTH)
def test_the_others_read_both(name):
    network, (ecg, pcg) = small(name).eval(), signals()
    ecg.requires_grad_(), pcg.requires_grad_()
    network(ecg, pcg)[:, 0].sum().backward()
    assert ecg.grad is not None and ecg.grad.abs().amax(dim=(1, 2)).gt(0).all()
    assert pcg.grad is not None and pcg.grad.abs().amax(dim=(1, 2)).gt(0).all()


def test_early_fusion_is_one_encoder_of_two_channels():
    network = small("early-fusion")
    encoders = [module for module in network.modules() if isinstance(module, Encoder)]
    assert len(encoders) == 1
    assert next(encoders[0].parameters()).shape == (8, 2, 7)
    both = torch.cat(signals(), dim=1)
    expected = network.eval().head(network.encoder(both)[-1])
    torch.testing.assert_close(network(both[:, :1], both[:, 1:]), expected, rtol=1e-5, atol=1e-6)


def test_late_fusion_is_the_mean_of_its_two_parts():
    network, (ecg, pcg) = small("late-fusion").eval(), signals()
    alone = [network.networks["ecg"](ecg=ecg).softmax(1), network.networks["pcg"](pcg=pcg).softmax(1)]
    torch.testing.assert_close(network(ecg, pcg).softmax(1), (alone[0] + alone[1]) / 2)


def test_late_fusion_by_hand():
    network, (ecg, pcg) = small("late-fusion").eval(), signals(1)
    for part, logits in (("ecg", [0.0, 0.0]), ("pcg", [0.0, 1.0986123])):
        nn.init.zeros_(network.networks[part].head[-1].weight)
        network.networks[part].head[-1].bias.data = torch.tensor(logits)
    torch.testing.assert_close(
        network(ecg, pcg).exp(), torch.tensor([[3 / 8, 5 / 8]]), msg="1/2 and 3/4 have the mean 5/8"
    )


@pytest.mark.parametrize("crossing", [True, False])
def test_cross_attention_crosses_and_without_it_nothing_does(crossing):
    torch.manual_seed(0)
    network = CrossAttentionNetwork(8, crossing=crossing).eval()
    ecg, pcg = signals()
    before, after = network.tokens(ecg, pcg), network.tokens(ecg, pcg.flip(-1))
    assert not torch.allclose(before[1], after[1])
    assert torch.equal(before[0], after[0]) is not crossing
    turned = network.tokens(ecg.flip(-1), pcg)
    assert torch.equal(before[1], turned[1]) is not crossing


def test_a_token_stands_for_25_samples_and_encodes_its_position():
    network = small("cross-attention").eval()
    assert [part.shape for part in network.tokens(*signals(3, 500))] == [(3, 20, 32)] * 2
    code = positions(3, 4)
    two = torch.tensor([2.0, 0.02])
    expected = torch.stack([two.sin(), two.cos()], dim=1).flatten()
    torch.testing.assert_close(code[2], expected, msg="rates 1 and 1/100, sine and cosine")
    assert torch.equal(code[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    still = torch.ones(1, 1, 2000)
    first, _ = network.tokens(still, still)
    assert not torch.allclose(first[0, 35], first[0, 45]), "far from both ends, only their places differ"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (functools.partial(EarlyFusion, width=12), "width must be a multiple of 8, and is 12"),
        (functools.partial(LateFusion, kernel_size=4), "kernel_size must be odd, and is 4"),
        (functools.partial(CrossAttentionNetwork, width=0), "width must be a multiple of 8"),
        (functools.partial(CrossAttentionNetwork, kernel_size=2), "kernel_size must be odd"),
        (functools.partial(CrossAttentionNetwork, layers=1), "layers must be 2 to 4, and is 1"),
        (functools.partial(CrossAttentionNetwork, layers=5), "layers must be 2 to 4, and is 5"),
        (functools.partial(CrossAttentionNetwork, heads=5), "heads must divide 4"),
        (functools.partial(CrossAttentionNetwork, heads=0), "heads must divide 4"),
        (functools.partial(EarlyFusion, dropout=1.5), "dropout probability"),
        (functools.partial(build_model, "ecg-network", absence_tokens=True), "needs both modalities"),
    ],
)
def test_constructors_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("ecg", "pcg", "message"),
    [
        (torch.zeros(2, 1, 125), None, r"needs the PCG signal, shape \(batch, 1, points\)"),
        (None, torch.zeros(2, 1, 125), "needs the ECG signal"),
        (torch.zeros(2, 1, 24), torch.zeros(2, 1, 24), "at least 25 points"),
        (
            torch.zeros(2, 125),
            torch.zeros(2, 1, 125),
            r"ecg must have shape \(batch, 1, points\).*\(2, 125\)",
        ),
        (torch.zeros(2, 2, 125), torch.zeros(2, 1, 125), r"ecg must have shape .*\(2, 2, 125\)"),
    ],
)
def test_networks_refuse_what_is_no_pair_of_beats(name, ecg, pcg, message):
    with pytest.raises(ValueError, match=message):
        small(name)(ecg, pcg)


@pytest.mark.parametrize("name", ["early-fusion", "cross-attention"])
def test_two_lengths_are_refused(name):
    with pytest.raises(ValueError, match="must have one shape"):
        small(name)(torch.zeros(2, 1, 125), torch.zeros(2, 1, 150))
