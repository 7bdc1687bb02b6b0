"""Explanation of a prediction of ``ecg-multimodal``: where in image and signal, and what each modality adds.

The attribution functions take any callable from an input to logits. Put the network into evaluation mode
first (``model.eval()``): dropout would blur the result, and batch statistics would make that of one patient
depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.special import expit
from torch import Tensor, nn

from datasets.ecg import LEADS
from evaluation.figures import new_figure
from models.ecg_multimodal.network import MultimodalNetwork
from systems.ecg_multimodal.patient_panels import checked_signal, draw_image, draw_leads, draw_steps
from systems.ecg_multimodal.samples import Patients
from systems.ecg_multimodal.shapley import Coalition, coalitions, shapley_values

_Forward = Callable[..., Tensor]
_Target = int | Tensor | None


def explain_patient(
    network: MultimodalNetwork,
    patients: Patients,
    row: int,
    *,
    empty: float = 0.0,
    watermark: str = "",
) -> Figure:
    """Draw one patient: Grad-CAM on the image, integrated gradients on the signal, contributions.

    Parameters
    ----------
    network : MultimodalNetwork
        Of one logit, trained with modality dropout where it reads several modalities.
    patients : Patients
    row : int
    empty : float
        Log-odds without any modality.
    watermark : str
        Warning on the figure.
    """
    network.eval()
    batch = patients.batch(torch.tensor([row]))
    modalities = {name: batch[name].float() for name in network.modalities if bool(batch[f"has_{name}"])}
    modalities |= {"image": modalities["image"] / 255} if "image" in modalities else {}
    contributions = _contributions(network, modalities, empty)
    image, signal = modalities.get("image"), modalities.get("signal")
    metadata = patients.table.iloc[row]
    truth = {0: "normal", 1: "abnormal"}[int(metadata["label"])]
    return patient_figure(
        contributions,
        empty,
        image=None if image is None else 1 - image[0, 0].cpu().numpy(),
        image_map=None if image is None else image_map(network, modalities),
        signal=None if signal is None else signal[0].cpu().numpy(),
        signal_map=None if signal is None else signal_map(network, modalities),
        sampling_rate=patients.signal_rate,
        leads=("II",) if signal is None else _lead_names(signal.shape[1]),
        title=f"Recording {metadata['recording']}, in truth {truth}",
        watermark=watermark,
    )


def _lead_names(count: int) -> tuple[str, ...]:
    """Return names of one lead, of twelve, or of another number."""
    known = {1: ("II",), len(LEADS): LEADS}
    return known.get(count, tuple(f"lead {number + 1}" for number in range(count)))


@torch.no_grad()
def _contributions(
    network: MultimodalNetwork, modalities: Mapping[str, Tensor], empty: float
) -> dict[str, float]:
    """Return the Shapley value of each modality of one patient, in log-odds; NaN for absent ones."""
    values: dict[Coalition, list[float]] = {
        part: [float(_logit(network, {name: modalities[name] for name in part}))]
        for part in coalitions(modalities)
    }
    found = {name: float(value[0]) for name, value in shapley_values(values, empty).items()}
    return {name: found.get(name, float("nan")) for name in network.modalities}


def _logit(network: MultimodalNetwork, modalities: Mapping[str, Tensor]) -> Tensor:
    """Return the logit of one patient from some of the modalities, shape (1,)."""
    logits = network(**modalities)
    assert isinstance(logits, Tensor)
    return logits[:, 0]


def image_map(network: MultimodalNetwork, modalities: Mapping[str, Tensor]) -> Tensor:
    """Return the Grad-CAM map (H, W) of the image of one patient, other modalities unchanged."""
    others = {name: value for name, value in modalities.items() if name != "image"}

    def forward(image: Tensor) -> Tensor:
        return _logit(network, {"image": image, **others})

    layer = network.branches["image"].get_submodule("network.layer4")
    return grad_cam(forward, layer, modalities["image"])[0].cpu()


def signal_map(network: MultimodalNetwork, modalities: Mapping[str, Tensor]) -> Tensor:
    """Return integrated gradients (leads, T) of the signal of one patient, other modalities unchanged."""
    others = {name: value for name, value in modalities.items() if name != "signal"}

    def forward(signal: Tensor) -> Tensor:
        repeated = {name: value.expand(len(signal), *value.shape[1:]) for name, value in others.items()}
        return _logit(network, {"signal": signal, **repeated})

    return integrated_gradients_signal(forward, modalities["signal"]).values[0].detach().cpu()


def patient_figure(
    contributions: Mapping[str, float],
    empty: float,
    *,
    image: ArrayLike | None = None,
    image_map: ArrayLike | None = None,
    signal: ArrayLike | None = None,
    signal_map: ArrayLike | None = None,
    sampling_rate: float = 100.0,
    leads: Sequence[str] = ("II",),
    title: str = "One patient",
    outcome: str = "abnormal",
    watermark: str = "",
) -> Figure:
    """Draw the inputs of one patient, where the model attends, and the contribution of each modality.

    Parameters
    ----------
    contributions : mapping of str to float
        Shapley value of each modality, in log-odds (`systems.ecg_multimodal.shapley.shapley_values`); NaN:
        not there.
    empty : float
        Log-odds without any modality: of the training prevalence, or 0 where classes weigh the same.
    image : array_like, shape (H, W) or (H, W, 3), optional
        Picture as it is to be shown.
    image_map : array_like, shape (H, W), optional
        From `systems.ecg_multimodal.explain.grad_cam`.
    signal, signal_map : array_like, shape (leads, T), optional
        ECG in millivolts, and what each point added
        (`systems.ecg_multimodal.explain.integrated_gradients_signal`).
    sampling_rate : float
        Of the signal, in hertz.
    leads : sequence of str
        Name of each row of the signal; one is drawn large, twelve small.
    title, outcome, watermark : str
        Title, name of label 1, and a warning to be printed on the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    traces = None if signal is None else checked_signal(signal, signal_map, leads)
    picture = None if image is None else np.asarray(image)
    heights = [] if picture is None else [0.45 + 6.6 * picture.shape[0] / picture.shape[1]]
    heights += [] if traces is None else [0.9 + (0.9 if len(leads) == 1 else 0.46 * len(leads))]
    heights += [1.0 + 0.36 * (len(contributions) + 2)]
    final = empty + float(np.nansum(list(contributions.values())))
    figure = new_figure(
        title, f"probability of {outcome} {expit(final):.3f}", "", watermark, sum(heights) + 0.8
    )
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if picture is not None:
        draw_image(parts.pop(0).subplots(), picture, image_map)
    if traces is not None:
        draw_leads(parts.pop(0), *traces, sampling_rate, leads, outcome)
    draw_steps(parts.pop(0).subplots(), contributions, empty, outcome)
    return figure


# Attribution -------------------------------------------------------------------------------------------


class SignalAttribution(NamedTuple):
    """Attribution of a logit to the points of a signal."""

    values: Tensor
    """Shape (B, leads, T): what each point added to the logit, compared with the baseline."""
    delta: Tensor
    """Shape (B,): sum of the values minus (logit of the signal - logit of the baseline); zero if exact."""


def grad_cam(
    forward: _Forward,
    layer: nn.Module,
    image: Tensor,
    *,
    target: _Target = None,
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
        What `forward` takes beside the image, such as the other modalities.

    Returns
    -------
    torch.Tensor, shape (B, H, W)
        Not negative, in units of the logit; zero where nothing raises the logit of the class.

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
    forward: _Forward,
    signal: Tensor,
    *,
    target: _Target = None,
    others: Sequence[Any] = (),
    baseline: float | Tensor = 0.0,
    steps: int = 64,
    rows_at_once: int = 256,
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
        Signal without information; 0 is a flat line.
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
