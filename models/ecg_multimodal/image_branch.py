"""Features of an ECG plotted on paper: MONAI's two-dimensional ResNet-18, of ink or of an ImageNet picture.

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
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue, 0 to 1: torchvision's ImageNet weights expect colours standardized by these."""
_COUNTS = "num_batches_tracked"
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
    imagenet : bool
        Whether the network is given what ImageNet weights expect: a black trace on white in three colours,
        standardized by mean and deviation of ImageNet. Otherwise one channel of ink, 0 on paper.
    """

    colour_mean: Tensor
    colour_deviation: Tensor

    def __init__(
        self,
        features: int,
        channels: int = 16,
        image_size: tuple[int, int] = (64, 640),
        dropout: float = 0.0,
        *,
        imagenet: bool = False,
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
        self.imagenet = imagenet
        for name, values in (("mean", IMAGENET_MEAN), ("deviation", IMAGENET_DEVIATION)):
            self.register_buffer(f"colour_{name}", torch.tensor(values)[:, None, None], persistent=False)
        self.network = _resnet18(channels, 3 if imagenet else 1)
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
        maps = net.maxpool(net.act(net.bn1(net.conv1(self._pixels(image)))))
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
            A dict of tensors saved by `torch.save`, under torchvision's names, as
            ``resnet18-f37072fd.pth`` or ``resnet18-5c106cde.pth``. Counts of batches
            (``num_batches_tracked``) may be lacking, for they have no effect.

        Raises
        ------
        ValueError
            If the file is no such dict, or names or shapes do not fit; nothing is loaded then.
        """
        expected = self.network.state_dict()
        counts = {name: count for name, count in expected.items() if name.endswith(_COUNTS)}
        weights = counts | _read_weights(path)
        first, width = weights.get("conv1.weight"), len(expected["conv1.weight"])
        if first is not None and first.ndim == 4 and len(first) != width:
            raise ValueError(
                f"{path} holds a ResNet-18 of width {len(first)}, and this one has {width}: "
                f"give --width {len(first)}."
            )
        problems = _mismatches(weights, expected)
        if problems:
            raise ValueError(f"{path} does not fit this ResNet-18 of width {width}: {'; '.join(problems)}.")
        self.network.load_state_dict(weights)

    def _pixels(self, image: Tensor) -> Tensor:
        """Return what the first layer reads: ink (P, 1, H, W), or standardized colours (P, 3, H, W)."""
        ink = image.to(self.network.conv1.weight.dtype)
        ink = ink / _LARGEST_BYTE if image.dtype == torch.uint8 else ink
        return (1 - ink - self.colour_mean) / self.colour_deviation if self.imagenet else ink


def _resnet18(channels: int, inputs: int) -> Any:
    """Return MONAI's ResNet-18 for so many input channels, weights random, under torchvision's names."""
    from monai.networks.nets import resnet18  # here, for its import takes seconds that other networks save

    return resnet18(
        pretrained=False,
        spatial_dims=2,
        n_input_channels=inputs,
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
