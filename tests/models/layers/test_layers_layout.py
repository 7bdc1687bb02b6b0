"""Layers in either layout: torch's own numbers and gradients, memory really channels last, one state dict."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import NETWORKS, TAKES_ABSENCE, build_model
from models.ecg_multimodal.signal_branch import SignalBranch
from models.layers.layout import (
    Convolution,
    EitherLayout,
    Normalization,
    TimeMean,
    as_images,
    expand_gate,
    mean_over_time,
    pool,
    set_layout,
    start_he_normal,
)

STATE = {
    "pacfnet": (478, "151761b8009ea107"),
    "pacfnet+absence": (486, "fd35046971fa9494"),
    "ecg-network": (192, "e016b068da40df90"),
    "pcg-network": (192, "8ec744a605f924e4"),
    "last-fusion": (391, "0f46f30a57776eb1"),
    "last-fusion+absence": (393, "f7089e6d005257ba"),
    "concatenation": (398, "a98807fe230d67f0"),
    "concatenation+absence": (406, "c9b58a056f0b4d3c"),
    "spatial-attention": (462, "1260fd5b1377460b"),
    "spatial-attention+absence": (470, "d97ecaab312fc2c7"),
    "channel-attention": (414, "db14f68701514446"),
    "channel-attention+absence": (422, "2dba00458c88f5a6"),
    "early-fusion": (192, "37d4d06da47f656c"),
    "late-fusion": (384, "0562ceae4a1a2a94"),
    "cross-attention": (348, "334508591715a832"),
    "cross-attention+absence": (350, "14e01e17c208a3d5"),
    "signal": (186, "469624f2e3c77304"),
}
"""Names and shapes in the state dict of each network at width 8, how many and their digest, as they were when
every layer was torch's own: checkpoints of then are read today."""


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lies_channels_last(tensor: Tensor) -> bool:
    """Whether channels lie side by side, in a slice of channels too, by their strides."""
    assert tensor.ndim == 4 and tensor.shape[1] > 1 and tensor.shape[3] > 1
    return tensor.stride(1) == 1 and tensor.stride(3) >= tensor.shape[1]


def derived(layer: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Tensor]:
    """Return a layer's output, and the gradient of a weighted sum of it by the input."""
    given = given.detach().requires_grad_()
    found = layer(given)
    flat = found.squeeze(2) if found.ndim == 4 else found
    weights = features(*flat.shape, seed=9)
    (gradient,) = torch.autograd.grad((flat * weights).sum(), given, retain_graph=True)
    if isinstance(layer, nn.Module):
        layer.zero_grad()
        (flat * weights).sum().backward()
    return flat.detach(), gradient.squeeze(2) if gradient.ndim == 4 else gradient


def compare(layer: Any, reference: Callable[[Tensor], Tensor], given: Tensor) -> None:
    """Assert that a layer does in both layouts what the reference does with (B, C, T), backwards too."""
    expected, expected_gradient = derived(reference, given)
    for laid_out in (given, as_images(given)):
        found, gradient = derived(layer, laid_out)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-5)
        if isinstance(layer, nn.Module) and isinstance(reference, nn.Module):
            for one, other in zip(layer.parameters(), reference.parameters(), strict=True):
                torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


CONVOLUTIONS = [
    # channels in and out, kernel, stride, points; zeros before and after, as TensorFlow's "SAME" has them
    (1, 8, 7, 1, 41, (3, 3)),
    (8, 6, 16, 1, 41, (7, 8)),
    (8, 6, 7, 5, 2000, (1, 1)),
    (8, 6, 7, 5, 41, (3, 3)),
    (8, 6, 7, 5, 43, (2, 2)),
    (4, 8, 3, 2, 16, (0, 1)),
    (4, 8, 3, 2, 5, (1, 1)),
    (8, 2, 1, 1, 41, (0, 0)),
    (2, 2, 1, 3, 41, (0, 0)),
]


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride", "points", "zeros"), CONVOLUTIONS)
def test_convolution_is_that_of_torch_after_same_padding(inputs, outputs, kernel, stride, points, zeros):
    torch.manual_seed(0)
    reference = nn.Sequential(nn.ConstantPad1d(zeros, 0.0), nn.Conv1d(inputs, outputs, kernel, stride))
    layer = Convolution(inputs, outputs, kernel, stride)
    layer.load_state_dict(reference[1].state_dict())
    given = features(3, inputs, points)
    compare(layer, reference, given)
    assert layer(given).shape[-1] == -(-points // stride)


@pytest.mark.parametrize("factor", [5, 2])
def test_a_strided_convolution_is_centred_where_pooling_is(factor):
    """A kernel that averages, strided, sees a ramp where average pooling sees it."""
    layer = Convolution(1, 1, factor + 2 * (factor % 2), factor)
    layer.load_state_dict(
        {"weight": torch.full_like(layer.weight, 1 / layer.weight.numel()), "bias": torch.zeros(1)}
    )
    ramp = torch.arange(20.0 * factor).reshape(1, 1, -1)
    inner = slice(1, -1)
    torch.testing.assert_close(layer(ramp)[0, 0, inner], pool(ramp, factor)[0, 0, inner])


def test_weights_start_he_normal_and_biases_at_zero():
    torch.manual_seed(0)
    model = nn.Sequential(Convolution(64, 128, 7), Normalization(128), nn.Linear(512, 256))
    start_he_normal(model)
    state = model.state_dict()
    for number, inputs in ((0, 64 * 7), (2, 512)):
        weight, deviation = state[f"{number}.weight"], (2 / inputs) ** 0.5
        assert float(weight.std()) == pytest.approx(deviation, rel=0.01)
        assert float(weight.abs().max()) <= 2 * deviation / 0.8796
        assert not state[f"{number}.bias"].any()
    assert bool((state["1.weight"] == 1).all())


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride"), [row[:4] for row in CONVOLUTIONS if row[1] > 1]
)
def test_convolution_leaves_images_channels_last(inputs, outputs, kernel, stride):
    """The strides of one channel tell no layout: the next layer must get it all the same."""
    layer = Convolution(inputs, outputs, kernel, stride)
    given = as_images(features(3, inputs, 41)).requires_grad_()
    found = layer(given)
    assert lies_channels_last(found)
    (gradient,) = torch.autograd.grad(found.square().sum(), given)
    assert inputs == 1 or lies_channels_last(gradient)


def normalizations(channels: int) -> tuple[Normalization, nn.BatchNorm1d]:
    torch.manual_seed(0)
    layer, reference = Normalization(channels), nn.BatchNorm1d(channels, eps=1e-3)
    with torch.no_grad():
        reference.weight.uniform_(0.5, 2)
        reference.bias.normal_()
        reference.running_mean.normal_()  # type: ignore[union-attr]
        reference.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    layer.load_state_dict(reference.state_dict())
    return layer, reference


def test_normalization_in_training_is_that_of_torch_and_counts_the_same():
    given = 3 * features(4, 6, 21) + 1
    for laid_out in (given, as_images(given)):
        layer, reference = normalizations(6)
        expected, expected_gradient = derived(reference, given)
        found, gradient = derived(layer, laid_out)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name], value)
        assert layer.num_batches_tracked == 1
        for one, other in zip(layer.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_normalization_in_use_is_that_of_torch():
    layer, reference = (module.eval() for module in normalizations(6))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    compare(layer, reference, features(4, 6, 21))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_normalization_refuses_what_has_no_time():
    with pytest.raises(ValueError, match=r"Features are \(B, C, T\).*\(4, 6\)"):
        Normalization(6)(features(4, 6))


@pytest.mark.parametrize(("points", "factor"), [(20, 5), (21, 5), (24, 5), (3, 5), (9, 1)])
def test_pooling_keeps_a_remainder(points, factor):
    """The last mean is over what is left, not over zeros besides."""
    reference = nn.AvgPool1d(factor, ceil_mode=True)
    compare(lambda given: pool(given, factor), reference, features(2, 3, points))
    by_hand = torch.stack(
        [part.mean(dim=-1) for part in features(2, 3, points).split(factor, dim=-1)], dim=-1
    )
    assert torch.allclose(pool(as_images(features(2, 3, points)), factor).squeeze(2), by_hand, atol=1e-6)


@pytest.mark.parametrize("layer", [mean_over_time, TimeMean()], ids=["function", "module"])
def test_mean_over_time(layer):
    compare(layer, lambda given: given.mean(dim=-1), features(3, 5, 17))
    assert layer(as_images(features(3, 5, 17))).shape == (3, 5)


def test_gradient_of_a_mean_lies_channels_last():
    given = as_images(features(3, 5, 17)).requires_grad_()
    (gradient,) = torch.autograd.grad((mean_over_time(given) * features(3, 5)).sum(), given)
    assert lies_channels_last(gradient)


def test_a_gate_weights_channels():
    gate, given = features(3, 5), features(3, 5, 17)
    by_hand = torch.einsum("bc,bct->bct", gate, given)
    assert torch.equal(given * expand_gate(gate, given), by_hand)
    assert torch.equal((as_images(given) * expand_gate(gate, as_images(given))).squeeze(2), by_hand)


# --- networks ------------------------------------------------------------------------------------------


def build(name: str) -> Any:
    torch.manual_seed(0)
    if name == "signal":
        branch = SignalBranch(6, leads=3, channels=8)
        branch.scaler.fit(features(8, 3, 100))
        return branch
    tokens = {"absence_tokens": True} if name.endswith("+absence") else {}
    return build_model(name.removesuffix("+absence"), width=8, dropout=0.0, **tokens)


def run(name: str, model: nn.Module) -> Tensor:
    if name == "signal":
        return model(features(6, 3, 200))
    signals = {"ecg": features(6, 1, 260), "pcg": features(6, 1, 260, seed=1)}
    signals = {
        kind: signal for kind, signal in signals.items() if kind in getattr(model, "modalities", signals)
    }
    if name.endswith("+absence"):
        signals["has_ecg"] = torch.tensor([True, True, False, True, True, False])
        signals["has_pcg"] = torch.tensor([True, False, True, True, True, True])
    return model(**signals)


def either(name: str, layout: Any) -> nn.Module:
    model = build(name)
    set_layout(model, layout)
    return model


NAMES = [
    "pacfnet",
    "pacfnet+absence",
    "ecg-network",
    "early-fusion",
    "late-fusion",
    "cross-attention",
    "signal",
]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_the_same_in_both_layouts(name):
    """Double precision: what differs is then the mathematics and not the rounding of hundreds of layers."""
    found = {}
    for layout in ("channels-last", "plain"):
        model = either(name, layout).double().train()
        torch.set_default_dtype(torch.float64)
        try:
            logits = run(name, model)
            (logits * features(*logits.shape, seed=5)).sum().backward()
        finally:
            torch.set_default_dtype(torch.float32)
        gradients = {key: weight.grad for key, weight in model.named_parameters()}
        found[layout] = logits.detach(), gradients, dict(model.named_buffers())
    (logits, gradients, buffers), (others, other_gradients, other_buffers) = found.values()
    assert logits.std() > 0
    absolute, relative = (1e-6, 1e-4) if name == "late-fusion" else (1e-9, 1e-6)  # it rounds its logits
    torch.testing.assert_close(logits, others, atol=absolute, rtol=relative)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients.values()) > 40
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[key], atol=absolute, rtol=relative)
    for key, buffer in buffers.items():
        torch.testing.assert_close(buffer, other_buffers[key], atol=absolute, rtol=relative)


@pytest.mark.parametrize("name", NAMES)
def test_in_single_precision_they_differ_by_rounding(name):
    one, other = (run(name, either(name, layout).eval()) for layout in ("channels-last", "plain"))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_of_one_layout_loads_in_the_other(name):
    one, other = either(name, "channels-last").eval(), either(name, "plain").eval()
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(0.05 * features(*weight.shape, seed=3))
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(run(name, one), run(name, other), atol=1e-4, rtol=1e-3)
    assert all(value.ndim <= 3 for value in one.state_dict().values()), "weights are those of Conv1d"


def test_every_network_of_the_list_is_registered():
    assert set(STATE) <= {*NETWORKS, *(f"{name}+absence" for name in TAKES_ABSENCE), "signal"}


@pytest.mark.parametrize("name", STATE)
def test_state_dicts_have_the_names_and_shapes_they_always_had(name):
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in build(name).state_dict().items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), digest) == STATE[name], "\n".join(lines)


@pytest.mark.parametrize("name", ["pacfnet", "early-fusion", "cross-attention", "signal"])
def test_inside_a_network_all_images_lie_channels_last_forwards_and_backwards(name):
    model, images = build(name).train(), 0
    wrong: list[str] = []

    def look(key: str, tensor: Tensor) -> None:
        nonlocal images
        if tensor.shape[1] > 2 and tensor.shape[3] > 1:  # maps of attention have two, and little to move
            images += 1
            wrong.extend([] if lies_channels_last(tensor) else [f"{key} {tensor.stride()}"])

    def watch(key: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            look(f"{key} forwards", output)
            if output.requires_grad:
                output.register_hook(lambda gradient: look(f"{key} backwards", gradient))

        return hook

    for key, module in model.named_modules():
        if isinstance(module, Convolution | Normalization):
            module.register_forward_hook(watch(key))
    run(name, model).square().sum().backward()
    assert images > 40
    assert not wrong, wrong


def test_a_layout_is_chosen_for_every_part_of_a_model():
    model = nn.ModuleDict(
        {"beats": build("late-fusion"), "signal": build("signal"), "other": nn.Linear(2, 2)}
    )
    parts = [module for module in model.modules() if isinstance(module, EitherLayout)]
    assert len(parts) == 3 and all(part.channels_last for part in parts)
    set_layout(model, "plain")
    assert not any(part.channels_last for part in parts)
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, Convolution):
            module.register_forward_hook(lambda _, inputs, output: seen.append(output.ndim))
    run("late-fusion", model["beats"])
    run("signal", model["signal"])
    assert set(seen) == {3}
    set_layout(model, "channels-last")
    run("signal", model["signal"])
    assert seen[-1] == 4
