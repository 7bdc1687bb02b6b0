"""Where in the image and in the signal a network found what it says.

Both functions take any callable from an input to logits, so that they fit every network. Put the network
into evaluation mode first (``model.eval()``): dropout would blur the answer, and batch statistics would
make that of one patient depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from torch import Tensor, nn

Forward = Callable[..., Tensor]
Target = int | Tensor | None
STEPS = 64
ROWS_AT_ONCE = 256


class SignalAttribution(NamedTuple):
    """Attribution of a logit to the points of a signal."""

    values: Tensor
    """Shape (B, leads, T): what each point added to the logit, compared with the baseline."""
    delta: Tensor
    """Shape (B,): sum of the values minus (logit of the signal - logit of the baseline); zero if exact."""


def grad_cam(
    forward: Forward,
    layer: nn.Module,
    image: Tensor,
    *,
    target: Target = None,
    others: Sequence[Any] = (),
) -> Tensor:
    """Class activation map of an image (Selvaraju et al., Grad-CAM, ICCV 2017).

    ``relu(sum over channels of (mean gradient of the logit) * activation)``, brought to the size of the
    image by bilinear interpolation.

    Parameters
    ----------
    forward : callable
        ``forward(image, *others)`` gives logits (B,) or (B, classes), and runs `layer` once.
    layer : torch.nn.Module
        A convolutional layer of the image branch, mostly its last: its output is (B, channels, h, w).
    image : torch.Tensor, shape (B, C, H, W)
    target : int or torch.Tensor of shape (B,), optional
        Class whose logit is explained; None where logits are (B,).
    others : sequence
        What `forward` takes beside the image, such as the other views.

    Returns
    -------
    torch.Tensor, shape (B, H, W)
        Not negative, in units of the logit; zero where nothing speaks for the class.

    Raises
    ------
    ValueError
        Where the image or the output of the layer has another shape, or the layer is in training mode. A
        network that leaves out patients without an image is to be given only those who have one.
    """
    if image.ndim != 4:
        raise ValueError(f"Grad-CAM needs images (B, C, H, W), not {tuple(image.shape)}.")
    if layer.training:
        raise ValueError("The layer is in training mode: call model.eval() before Grad-CAM.")
    found = LayerGradCam(forward, layer).attribute(
        image, target=target, additional_forward_args=tuple(others) or None, relu_attributions=True
    )
    if found.ndim != 4 or len(found) != len(image):
        raise ValueError(
            f"The layer gave maps {tuple(found.shape)} of {len(image)} images: choose a convolutional layer, "
            "and give only patients who have an image."
        )
    size = (image.shape[2], image.shape[3])
    return LayerAttribution.interpolate(found, size, "bilinear")[:, 0].detach()


def integrated_gradients_signal(
    forward: Forward,
    signal: Tensor,
    *,
    target: Target = None,
    others: Sequence[Any] = (),
    baseline: float | Tensor = 0.0,
    steps: int = STEPS,
    rows_at_once: int = ROWS_AT_ONCE,
) -> SignalAttribution:
    """Attribution of a logit to every point of a signal (Sundararajan et al., ICML 2017).

    ``(signal - baseline) * mean of the gradient on the straight line from baseline to signal``.

    Parameters
    ----------
    forward : callable
        ``forward(signal, *others)`` gives logits (B,) or (B, classes).
    signal : torch.Tensor, shape (B, leads, T)
    target : int or torch.Tensor of shape (B,), optional
        Class whose logit is explained; None where logits are (B,).
    others : sequence
        What `forward` takes beside the signal. Tensors have B rows; they are repeated with the signal.
    baseline : float or torch.Tensor of the shape of the signal or (1, leads, T)
        Signal that says nothing; 0 is a flat line.
    steps : int
        Points on the line.
    rows_at_once : int
        Signals that go through the network together: limits the memory.

    Returns
    -------
    SignalAttribution
        The values and how far they are from complete; more steps bring the delta down.
    """
    if signal.ndim != 3:
        raise ValueError(f"Integrated gradients need signals (B, leads, T), not {tuple(signal.shape)}.")
    values, delta = IntegratedGradients(forward).attribute(
        signal,
        baselines=baseline,
        target=target,
        additional_forward_args=tuple(others) or None,
        n_steps=steps,
        internal_batch_size=max(rows_at_once, len(signal)),
        return_convergence_delta=True,
    )
    return SignalAttribution(values.detach().to(signal.dtype), delta.detach().to(signal.dtype))
