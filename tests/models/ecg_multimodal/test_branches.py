"""The branches of the three views: shapes, what scalers and imputers compute, and weights from a file."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.ecg_multimodal.clinical_branch import ClinicalBranch, ClinicalScaler
from models.ecg_multimodal.image_branch import ImageBranch
from models.ecg_multimodal.signal_branch import LeadScaler, SignalBranch, is_flat

NAN = torch.nan
TABLE = torch.tensor(
    [
        [1.0, 5.0, NAN, 10.0, NAN],
        [2.0, 5.0, NAN, NAN, 7.0],
        [9.0, 5.0, NAN, 20.0, 7.0],
    ]
)
"""Columns: all there; constant; never there; one missing; constant where it is there."""


def image_branch(**options) -> ImageBranch:
    torch.manual_seed(0)
    given: dict[str, Any] = {"channels": 8, "image_size": (33, 40)} | options
    return ImageBranch(12, **given)


def signal_branch(leads: int = 2, **options) -> SignalBranch:
    torch.manual_seed(0)
    branch = SignalBranch(12, leads, **({"channels": 8} | options))
    branch.scaler.fit(torch.randn(4, leads, 100))
    return branch


def clinical_branch(table: Tensor = TABLE) -> ClinicalBranch:
    torch.manual_seed(0)
    branch = ClinicalBranch(12, table.shape[1], hidden=16)
    branch.scaler.fit(table)
    return branch


def everything() -> list[tuple]:
    return [
        (image_branch(), torch.rand(3, 1, 33, 40)),
        (signal_branch(), torch.randn(3, 2, 64)),
        (clinical_branch(), TABLE),
    ]


@pytest.mark.parametrize(
    ("options", "maps"),
    [
        ({"channels": 16, "image_size": (64, 640)}, (2, 128, 2, 20)),
        ({"channels": 8, "image_size": (33, 33)}, (2, 64, 2, 2)),
        ({"channels": 8, "image_size": (250, 2500)}, (2, 64, 8, 79)),
    ],
)
def test_image_sizes_and_maps(options, maps):
    branch = image_branch(**options).eval()
    image = torch.rand(2, 1, *options["image_size"])
    assert branch.feature_maps(image).shape == maps
    assert branch(image).shape == (2, 12)


def test_image_maps_are_those_of_the_resnet():
    branch, image = image_branch().eval(), torch.rand(3, 1, 33, 40)
    torch.testing.assert_close(branch.feature_maps(image).mean((2, 3)), branch.network(image))


def test_bytes_are_read_as_ink():
    branch = image_branch().eval()
    image = torch.randint(0, 256, (2, 1, 33, 40), dtype=torch.uint8)
    torch.testing.assert_close(branch(image), branch(image / 255))


@pytest.mark.parametrize(("leads", "points"), [(12, 1000), (1, 2500), (2, 64), (8, 999)])
def test_signal_lengths_and_leads(leads, points):
    branch = signal_branch(leads)
    assert branch(torch.randn(3, leads, points)).shape == (3, 12)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_of_one_row_or_none_trains(which, rows):
    branch, view = everything()[which]
    before = {key: value.clone() for key, value in branch.named_buffers() if "running" in key}
    found = branch.train()(view[:rows])
    found.square().sum().backward()
    assert found.shape == (rows, 12) and found.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in branch.parameters())
    rest = all(torch.equal(value, before[key]) for key, value in branch.named_buffers() if key in before)
    assert rest == (rows == 0 or not before), "batch normalization learns from rows alone"
    assert branch.empty_batch().shape[1:] == view.shape[1:] and len(branch.empty_batch()) == 0


def test_known_answers_of_the_imputer():
    scaler = ClinicalScaler(5)
    scaler.fit(TABLE)
    assert scaler.median.tolist() == [2, 5, 0, 15, 7]
    assert scaler.mean.tolist() == [4, 5, 0, 15, 7]
    deviation = (38 / 3) ** 0.5  # of 1, 2, 9: squares of -3, -2, 5
    torch.testing.assert_close(scaler.inverse_deviation, torch.tensor([1 / deviation, 0, 0, 1 / 5, 0]))
    rows = scaler(torch.tensor([[NAN] * 5, [9.0, 6.0, 1e6, 20.0, 7.0]]))
    torch.testing.assert_close(rows[0], torch.tensor([-2 / deviation, 0, 0, 0, 0, 1, 1, 1, 1, 1]))
    torch.testing.assert_close(rows[1], torch.tensor([5 / deviation, 0, 0, 1, 0, 0, 0, 1, 0, 0]))


def test_the_median_lies_between_two_middle_values_and_infinity_is_missing():
    scaler = ClinicalScaler(1)
    scaler.fit(torch.tensor([[1.0], [2.0], [4.0], [100.0], [torch.inf]]))
    assert scaler.median.item() == 3
    assert scaler(torch.tensor([[-torch.inf]]))[0, 1] == 1


def test_a_column_of_a_constant_that_binary_numbers_miss_is_constant():
    scaler = ClinicalScaler(1)
    scaler.fit(torch.full((7, 1), 0.1, dtype=torch.float64))
    assert scaler.inverse_deviation.item() == 0


def test_a_mistyped_value_is_cut():
    scaler = ClinicalScaler(5)
    scaler.fit(TABLE)
    assert scaler(torch.tensor([[1e9, 5, 0, 15, 7]]))[0, 0] == 10


def test_a_flag_never_raised_in_training_changes_nothing_later():
    table = torch.tensor([[1.0, 1.0], [2.0, NAN], [3.0, 3.0]])
    branch = clinical_branch(table)
    optimizer = torch.optim.Adam(branch.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (branch(table) * torch.arange(12)).sum().backward()
        optimizer.step()
    branch.eval()
    assert torch.equal(branch(torch.tensor([[NAN, 1.0]])), branch(torch.tensor([[2.0, 1.0]])))
    assert not torch.equal(branch(torch.tensor([[1.0, NAN]])), branch(torch.tensor([[1.0, 2.0]])))


def test_known_answers_of_the_lead_scaler():
    signals = torch.stack(
        [
            torch.tensor([[0.0, 2.0, 4.0, 2.0], [3.0, 3.0, 3.0, 3.0], [5.0, 5.0, 5.0, 5.0]]),
            torch.tensor([[7.0, 7.0, 7.0, 7.0], [1.0, NAN, 3.0, 2.0], [NAN, NAN, NAN, NAN]]),
        ]
    )
    scaler = LeadScaler(3)
    scaler.fit(signals)
    torch.testing.assert_close(scaler.mean, torch.tensor([2.0, 2.0, 0.0]))
    torch.testing.assert_close(scaler.deviation, torch.tensor([2**0.5, (2 / 3) ** 0.5, 1.0]))
    scaled = scaler(signals)
    torch.testing.assert_close(scaled[0, 0], torch.tensor([-1.0, 0.0, 1.0, 0.0]) * 2**0.5)
    torch.testing.assert_close(scaled[1, 1], torch.tensor([-1.0, 0.0, 1.0, 0.0]) * 1.5**0.5)
    assert not scaled[0, 1:].any() and not scaled[1, 0].any() and not scaled[1, 2].any()


def test_which_leads_are_flat():
    leads = torch.tensor([[1.0, 1.0], [1.0, NAN], [NAN, NAN], [1.0, 2.0], [torch.inf, 1.0]])
    assert is_flat(leads).tolist() == [True, True, True, False, True]


def test_flat_absent_and_not_finite_leads_are_one_to_the_network():
    branch = signal_branch().eval()
    signal = torch.randn(4, 2, 100)[:1].repeat(4, 1, 1)
    for row, value in enumerate((0.0, 5.0, NAN, torch.inf)):
        signal[row, 1] = value
    found = branch(signal)
    assert found.isfinite().all()
    torch.testing.assert_close(found, found[:1].expand(4, -1))


def test_one_spike_is_cut():
    scaler = LeadScaler(1)
    scaler.fit(torch.randn(2, 1, 1000))
    signal = torch.randn(1, 1, 100)
    signal[0, 0, 7] = 1e9
    assert scaler(signal).max() == 20


def test_units_do_not_matter_once_fitted():
    signals, (first, second) = torch.randn(4, 2, 100), (signal_branch().eval(), signal_branch().eval())
    first.scaler.fit(signals)
    second.scaler.fit(1000 * signals + 3)
    torch.testing.assert_close(first(signals), second(1000 * signals + 3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("which", range(3))
def test_the_seed_sets_the_weights(which):
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        make = (lambda: ImageBranch(8, 8), lambda: SignalBranch(8, 2, 8), lambda: ClinicalBranch(8, 3))[which]
        return torch.nn.utils.parameters_to_vector(make().parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def torchvision_weights(width: int = 8, colours: int = 3) -> dict[str, Tensor]:
    """Return weights at random under the names and shapes of torchvision's resnet18 (64 wide there)."""
    torch.manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, colours, 7, 7)}
    norms = {"bn1": width}
    inputs = width
    for stage in range(1, 5):
        outputs = width * 2 ** (stage - 1)
        for block in range(2):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (outputs, inputs, 3, 3)
            shapes[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
            norms |= {f"{name}.bn1": outputs, f"{name}.bn2": outputs}
            if inputs != outputs:
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                norms[f"{name}.downsample.1"] = outputs
            inputs = outputs
    weights = {
        name: torch.randn(shape) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5 for name, shape in shapes.items()
    }
    for name, count in norms.items():
        weights |= {f"{name}.weight": torch.rand(count) + 0.5, f"{name}.bias": torch.randn(count) / 9}
        weights |= {
            f"{name}.running_mean": torch.randn(count) / 9,
            f"{name}.running_var": torch.rand(count) + 0.5,
        }
    return weights | {"fc.weight": torch.randn(1000, inputs), "fc.bias": torch.randn(1000)}


def published_resnet18(weights: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """Return the last maps of ResNet-18 (He et al. 2016, table 1) for standardized colours (P, 3, H, W)."""

    def normalized(name: str, maps: Tensor) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (maps - mean) / (variance + 1e-5).sqrt() * scale + shift

    def block(name: str, maps: Tensor, stride: int) -> Tensor:
        found = functional.conv2d(maps, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
        found = functional.conv2d(
            normalized(f"{name}.bn1", found).relu(), weights[f"{name}.conv2.weight"], padding=1
        )
        if f"{name}.downsample.0.weight" in weights:
            maps = functional.conv2d(maps, weights[f"{name}.downsample.0.weight"], stride=stride)
            maps = normalized(f"{name}.downsample.1", maps)
        return (normalized(f"{name}.bn2", found) + maps).relu()

    maps = functional.conv2d(pictures, weights["conv1.weight"], stride=2, padding=3)
    maps = functional.max_pool2d(normalized("bn1", maps).relu(), 3, stride=2, padding=1)
    for stage in range(1, 5):
        for number in range(2):
            maps = block(f"layer{stage}.{number}", maps, 2 if stage > 1 and number == 0 else 1)
    return maps


@pytest.mark.parametrize("counted", [True, False])
def test_torchvision_weights_give_the_features_of_the_published_network(tmp_path, counted):
    weights = torchvision_weights(64)
    counts = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for name in weights
        if name.endswith("running_mean")
    }
    torch.save(weights | (counts if counted else {}), tmp_path / "resnet18.pth")
    branch = image_branch(channels=64, image_size=(64, 96), imagenet=True).eval()
    branch.load_weights(tmp_path / "resnet18.pth")
    ink = torch.randint(0, 256, (2, 1, 64, 96), dtype=torch.uint8)
    # dark ink on white paper in three colours, less ImageNet's mean, over its deviation
    white = 1 - ink.double().expand(-1, 3, -1, -1) / 255
    mean, deviation = (
        torch.tensor(values).double()[:, None, None]
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    expected = published_resnet18(
        {name: value.double() for name, value in weights.items()}, (white - mean) / deviation
    )
    found = branch.feature_maps(ink)
    assert found.shape == (2, 512, 2, 3)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_weights_of_another_width_name_the_width_that_fits(tmp_path):
    torch.save(torchvision_weights(64), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="of width 64, and this one has 16: give --width 64"):
        image_branch(channels=16, imagenet=True).load_weights(tmp_path / "resnet18.pth")
    torch.save(torchvision_weights(16), tmp_path / "narrow.pth")
    image_branch(channels=16, imagenet=True).load_weights(tmp_path / "narrow.pth")


def altered(change: str) -> object:
    weights = torchvision_weights()
    if change == "names":
        weights["layer9.weight"] = weights.pop("layer4.1.bn2.weight")
    elif change == "grey":
        weights = torchvision_weights(colours=1)
    elif change == "wrapped":
        return {"model": weights, "epoch": 3}
    elif change == "unsafe":
        return {"conv1.weight": Tensor, "call": pytest.fail}
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("names", r"1 missing \(layer4.1.bn2.weight\); 1 not known \(layer9.weight\)"),
        ("grey", r"1 of another shape \(conv1.weight \(8, 1, 7, 7\) instead of \(8, 3, 7, 7\)\)"),
        ("wrapped", "holds no dict of tensors"),
        ("unsafe", "cannot be read as a file of weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(tmp_path, change, message):
    torch.save(altered(change), tmp_path / "weights.pt")
    branch = image_branch(imagenet=True)
    before = {key: value.clone() for key, value in branch.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        branch.load_weights(tmp_path / "weights.pt")
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())


def test_a_file_of_weights_that_is_absent_or_foreign_is_named(tmp_path):
    (tmp_path / "foreign.pt").write_text("not weights", encoding="utf-8")
    for name in ("absent.pt", "foreign.pt"):
        with pytest.raises(ValueError, match=name):
            image_branch().load_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: SignalBranch(8, 2)(torch.randn(2, 2, 100)), "is not fitted"),
        (lambda: ClinicalBranch(8, 2)(torch.zeros(2, 2)), "not fitted"),
        (lambda: signal_branch().scaler.fit(torch.randn(4, 3, 100)), r"\(recordings, 2, points\)"),
        (lambda: signal_branch().scaler.fit(torch.randn(0, 2, 100)), "at least one"),
        (lambda: clinical_branch().scaler.fit(torch.randn(4, 3)), r"\(patients, 5\)"),
        (lambda: clinical_branch().scaler.fit(torch.randn(0, 5)), "at least one row"),
        (lambda: ImageBranch(8, 8, (32, 640)), "image_size must be"),
        (lambda: image_branch(image_size=(64,)), "image_size must be"),
        (lambda: SignalBranch(8, 0), "leads must be at least 1"),
        (lambda: SignalBranch(8, 2, 12), "multiple of 8"),
        (lambda: SignalBranch(8, 2, 8, 4), "kernel_size must be odd"),
        (lambda: ClinicalBranch(8, 0), "clinical_features must be at least 1"),
    ],
)
def test_what_must_raise(act, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        act()
