"""Features of an ECG plotted on paper: MONAI's two-dimensional ResNet-18 of one input channel.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016. A strided stem and pooling
bring an image of 64 x 640 pixels to 16 x 160 before the first block, and to 2 x 20 after the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_SMALLEST_IMAGE = (33, 33)
"""Pixels that leave 2 x 2 after five halvings: batch normalization can train on one image then."""
_LARGEST_BYTE = 255
_LISTED = 3
"""Names of weights that a message lists for each problem."""


class ImageBranch(nn.Module):
    """ResNet-18, averaged over the image, and a projection.

    Parameters
    ----------
    features : int
        Length of the output.
    channels : int
        Channels after the stem; the four stages have 1, 2, 4 and 8 times as many. 64 is ResNet-18 as
        published.
    image_size : tuple of int
        Height and width in pixels.
    dropout : float
        Dropout of the output.
    """

    def __init__(
        self,
        features: int,
        channels: int = 16,
        image_size: tuple[int, int] = (64, 640),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(image_size) != 2 or any(
            given < least for given, least in zip(image_size, _SMALLEST_IMAGE, strict=True)
        ):
            raise ValueError(
                f"image_size must be (height, width) of at least {_SMALLEST_IMAGE} pixels, "
                f"and is {tuple(image_size)}."
            )
        self.image_size = tuple(image_size)
        self.network = _resnet18(channels)
        self.project = nn.Sequential(
            nn.Linear(8 * channels, features), nn.LayerNorm(features), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map images (P, 1, H, W), ink from 0 to 1 or bytes, to features (P, features); P may be 0."""
        return self.project(self.feature_maps(image).mean(dim=(2, 3)))

    def feature_maps(self, image: Tensor) -> Tensor:
        """Return the maps of the last stage, (P, 8 * channels, H / 32, W / 32), for Grad-CAM; rounded up."""
        net = self.network
        # not ResNet.forward, whose reshape fails for a batch of no images
        maps = net.maxpool(net.act(net.bn1(net.conv1(self._ink(image)))))
        return net.layer4(net.layer3(net.layer2(net.layer1(maps))))

    def empty_batch(self) -> Tensor:
        """Return a batch of no images, on this module's device."""
        return self.network.conv1.weight.new_zeros((0, 1, *self.image_size))

    def check(self, image: Tensor) -> None:
        """Refuse what is no batch of images of this size."""
        if image.ndim != 4 or image.shape[1:] != (1, *self.image_size):
            height, width = self.image_size
            raise ValueError(
                f"image must have shape (batch, 1, {height}, {width}), and has {tuple(image.shape)}: "
                "resize it with its aspect kept, or build the network with another image_size."
            )

    def load_weights(self, path: str | Path) -> None:
        """Load weights of a ResNet-18 from a local file; its classifier (``fc``) is ignored.

        Parameters
        ----------
        path : str or pathlib.Path
            A dict of tensors saved by `torch.save`, under the names that MONAI and torchvision share. A first
            layer for three colours is summed over them, which is the same for a grey image.

        Raises
        ------
        ValueError
            If the file is no such dict, or names or shapes do not fit; nothing is loaded then.
        """
        weights = _read_weights(path)
        expected = self.network.state_dict()
        first = weights.get("conv1.weight")
        if first is not None and first.ndim == 4 and first.shape[1] == 3:
            weights["conv1.weight"] = first.sum(dim=1, keepdim=True)
        problems = _mismatches(weights, expected)
        if problems:
            raise ValueError(
                f"{path} does not fit this ResNet-18 of {expected['conv1.weight'].shape[0]} channels: "
                f"{'; '.join(problems)}. ImageNet weights need a width of 64."
            )
        self.network.load_state_dict(weights)

    def _ink(self, image: Tensor) -> Tensor:
        """Return bytes as numbers from 0 to 1, and numbers as they are."""
        ink = image.to(self.network.conv1.weight.dtype)
        return ink / _LARGEST_BYTE if image.dtype == torch.uint8 else ink


def _resnet18(channels: int) -> Any:
    """Return MONAI's ResNet-18 for grey images, weights random, under the names that torchvision uses."""
    from monai.networks.nets import resnet18  # here, for its import takes seconds that other networks save

    return resnet18(
        pretrained=False,
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_size=7,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
        widen_factor=channels / 64,
    )


def _read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, without the classifier."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nine kinds for a file that is absent, foreign or unsafe
        raise ValueError(
            f"{path} cannot be read as a file of weights ({type(error).__name__}): "
            "give a dict of tensors saved by torch.save."
        ) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path} holds no dict of tensors: save model.state_dict() alone.")
    return {name: value for name, value in content.items() if not name.startswith("fc.")}


def _mismatches(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return a phrase for each way in which names and shapes differ."""
    problems = {
        "missing": [name for name in expected if name not in given],
        "not known": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if name in given and given[name].shape != value.shape
        ],
    }
    return [
        f"{len(names)} {problem} ({', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''})"
        for problem, names in problems.items()
        if names
    ]
