import numpy as np
import pytest
import torch
from torch import Tensor, nn

from systems.ecg_multimodal.explain import grad_cam, integrated_gradients_signal

UP = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
"""Bilinear interpolation from two points to four."""


class TinyImageNetwork(nn.Module):
    """A convolution of two channels, and a logit from each channel's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, kernel_size=2, stride=2, bias=False)
        self.convolution.weight.data = torch.stack([torch.ones(1, 2, 2), 2 * torch.ones(1, 2, 2)])

    def forward(self, image: Tensor) -> Tensor:
        means = self.convolution(image).mean(dim=(2, 3))
        return torch.stack([3 * means[:, 0] - means[:, 1], means[:, 1] - 5 * means[:, 0]], dim=1)


@pytest.fixture
def network() -> TinyImageNetwork:
    return TinyImageNetwork().eval()


@pytest.fixture
def image() -> Tensor:
    """Patches that sum to 1, 2, -1 and 4; and the same, negative."""
    one = torch.kron(torch.tensor([[1.0, 2], [-1, 4]]), torch.full((2, 2), 0.25))
    return torch.stack([one, -one])[:, None]


def test_grad_cam_worked_by_hand(network, image):
    # Mean gradients of the first logit are 3/4 and -1/4, activations s and 2s: the map is relu(s / 4).
    found = grad_cam(network, network.convolution, image, target=0)
    expected = torch.stack(
        [UP @ torch.tensor(part) @ UP.T for part in ([[0.25, 0.5], [0, 1]], [[0, 0], [0.25, 0]])]
    )
    torch.testing.assert_close(found, expected)
    # Of the second, -5/4 and 1/4: relu(-3 s / 4).
    found = grad_cam(network, network.convolution, image, target=1)
    parts = ([[0, 0], [0.75, 0]], [[0.75, 1.5], [0, 3]])
    torch.testing.assert_close(found, torch.stack([UP @ torch.tensor(part) @ UP.T for part in parts]))


def test_grad_cam_takes_a_class_a_patient_and_logits_without_classes(network, image):
    first, second = (grad_cam(network, network.convolution, image, target=kind) for kind in (0, 1))
    mixed = grad_cam(network, network.convolution, image, target=torch.tensor([1, 0]))
    torch.testing.assert_close(mixed, torch.stack([second[0], first[1]]))
    plain = grad_cam(lambda image: network(image)[:, 0], network.convolution, image)
    torch.testing.assert_close(plain, first)


def test_grad_cam_is_of_one_patient_at_a_time_and_scales_with_the_other_views(network, image):
    def weighed(image: Tensor, weight: Tensor) -> Tensor:
        return network(image) * weight[:, None]

    weight = torch.tensor([2.0, 0.0])
    found = grad_cam(weighed, network.convolution, image, target=0, others=(weight,))
    alone = grad_cam(network, network.convolution, image[:1], target=0)
    torch.testing.assert_close(found[:1], 2 * alone)
    assert (found[1] == 0).all()


def test_grad_cam_leaves_weights_and_image_as_they_were(network, image):
    before = image.clone()
    network.requires_grad_(False)
    with torch.no_grad():
        frozen = grad_cam(network, network.convolution, image, target=0)
    network.requires_grad_(True)
    torch.testing.assert_close(frozen, grad_cam(network, network.convolution, image, target=0))
    assert not frozen.requires_grad
    assert network.convolution.weight.grad is None
    assert not image.requires_grad
    assert torch.equal(image, before)


def test_grad_cam_refuses_what_it_cannot_explain(network, image):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        grad_cam(network, network.convolution, image[0], target=0)
    with pytest.raises(ValueError, match=r"model\.eval"):
        grad_cam(network, network.convolution.train(), image, target=0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    with pytest.raises(ValueError, match="convolutional layer"):
        grad_cam(flat, flat[1], image, target=0)
    network.eval()

    def skipping(image: Tensor) -> Tensor:
        return torch.cat([network(image[:1]), torch.zeros(1, 2)])

    with pytest.raises(ValueError, match="who have an image"):
        grad_cam(skipping, network.convolution, image, target=0)


def test_integrated_gradients_of_a_linear_network_are_weight_times_input():
    random = torch.Generator().manual_seed(0)
    weight = torch.randn((2, 3, 50), generator=random)
    signal, flat = torch.randn((4, 3, 50), generator=random), torch.full((1, 3, 50), 0.5)

    def linear(signal: Tensor) -> Tensor:
        return torch.einsum("bct,kct->bk", signal, weight) + 7

    found = integrated_gradients_signal(linear, signal, target=1)
    torch.testing.assert_close(found.values, signal * weight[1])
    torch.testing.assert_close(found.delta, torch.zeros(4), atol=1e-4, rtol=0)
    moved = integrated_gradients_signal(linear, signal, target=1, baseline=flat)
    torch.testing.assert_close(moved.values, (signal - 0.5) * weight[1])


def test_integrated_gradients_of_a_square_are_the_square():
    signal = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
    found = integrated_gradients_signal(lambda x: (x**2).sum(dim=(1, 2)), signal, baseline=1.0)
    torch.testing.assert_close(found.values, signal**2 - 1)
    assert found.values.shape == signal.shape
    assert found.delta.shape == (2,)


def test_integrated_gradients_are_complete_and_the_delta_says_how_far():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(2, 8, 5), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 1)).double().eval()
    signal = 3 * torch.randn(3, 2, 40, dtype=torch.float64)
    whole = (network(signal) - network(torch.zeros_like(signal)))[:, 0]
    deltas = []
    for steps in (2, 64):
        found = integrated_gradients_signal(network, signal, target=0, steps=steps)
        torch.testing.assert_close(found.values.sum(dim=(1, 2)) - whole, found.delta)
        deltas.append(float(found.delta.abs().max()))
    assert deltas[1] < 1e-6 < deltas[0]
    assert not found.values.requires_grad
    assert all(weight.grad is None for weight in network.parameters())


def test_other_views_stay_with_their_patient_however_many_rows_go_through_at_once():
    signal, other = torch.randn(5, 2, 30), torch.arange(5.0)
    sizes = []

    def forward(signal: Tensor, other: Tensor) -> Tensor:
        sizes.append(len(signal))
        return (signal.sum(dim=(1, 2)) * other)[:, None]

    for rows in (5, 12, 1000):
        found = integrated_gradients_signal(forward, signal, target=0, others=(other,), rows_at_once=rows)
        torch.testing.assert_close(found.values, signal * other[:, None, None])
        assert max(sizes) <= rows
        sizes.clear()


def test_a_signal_needs_leads():
    with pytest.raises(ValueError, match=r"\(B, leads, T\)"):
        integrated_gradients_signal(lambda x: x.sum(dim=1), torch.zeros(2, 10))


def test_the_point_that_decides_is_found():
    """A network that reads one moment of one lead is explained by that moment of that lead."""
    signal = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 12, 100))).float()
    found = integrated_gradients_signal(lambda x: torch.relu(x[:, 1, 40:45].sum(dim=1) + 9), signal).values[0]
    elsewhere = found.clone()
    elsewhere[1, 40:45] = 0
    assert (elsewhere == 0).all()
    assert (found[1, 40:45] != 0).all()
