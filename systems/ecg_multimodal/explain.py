"""Where a network of task ``ecg-multimodal`` looks in one patient, and what each view adds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from models.ecg_multimodal.network import MultimodalNetwork
from systems.ecg_multimodal.attribution import grad_cam, integrated_gradients_signal
from systems.ecg_multimodal.modality_figures import patient_figure
from systems.ecg_multimodal.samples import Patients
from systems.ecg_multimodal.shapley import Coalition, coalitions, shapley_values

TWELVE_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def explain_patient(
    network: MultimodalNetwork,
    patients: Patients,
    row: int,
    *,
    empty: float = 0.0,
    sampling_rate: float = 100.0,
    watermark: str = "",
) -> Figure:
    """Draw one patient: Grad-CAM on the image, integrated gradients on the signal, what each view adds.

    Parameters
    ----------
    network : MultimodalNetwork
        Of one logit, trained with modality dropout where it reads several views.
    patients : Patients
    row : int
    empty : float
        Log-odds before anything is known.
    sampling_rate : float
        Of the signal, hertz.
    watermark : str
        Warning on the figure.
    """
    network.eval()
    batch = patients.batch(torch.tensor([row]))
    views = {name: batch[name].float() for name in network.modalities if bool(batch[f"has_{name}"])}
    views |= {"image": views["image"] / 255} if "image" in views else {}
    contributions = contributions_of(network, views, empty)
    image, signal = views.get("image"), views.get("signal")
    names = TWELVE_LEADS if signal is not None and signal.shape[1] == len(TWELVE_LEADS) else ("II",)
    metadata = patients.table.iloc[row]
    truth = {0: "normal", 1: "abnormal"}[int(metadata["label"])]
    return patient_figure(
        contributions,
        empty,
        image=None if image is None else 1 - image[0, 0].cpu().numpy(),
        image_map=None if image is None else image_map(network, views),
        signal=None if signal is None else signal[0].cpu().numpy(),
        signal_map=None if signal is None else signal_map(network, views),
        sampling_rate=sampling_rate,
        leads=names if signal is None or signal.shape[1] == len(names) else lead_numbers(signal),
        title=f"Recording {metadata['recording']}, in truth {truth}",
        watermark=watermark,
    )


def lead_numbers(signal: Tensor) -> tuple[str, ...]:
    """Return names of leads that are neither one nor twelve."""
    return tuple(f"lead {number + 1}" for number in range(signal.shape[1]))


@torch.no_grad()
def contributions_of(
    network: MultimodalNetwork, views: Mapping[str, Tensor], empty: float
) -> dict[str, float]:
    """Return the Shapley value of each view of one patient, in log-odds; NaN for views that are absent."""
    values: dict[Coalition, list[float]] = {
        part: [float(judged(network, {name: views[name] for name in part}))] for part in coalitions(views)
    }
    found = {name: float(value[0]) for name, value in shapley_values(values, empty).items()}
    return {name: found.get(name, float("nan")) for name in network.modalities}


def judged(network: MultimodalNetwork, views: Mapping[str, Tensor]) -> Tensor:
    """Return the logit of one patient from some of the views, shape (1,)."""
    logits = network(**views)
    assert isinstance(logits, Tensor)
    return logits[:, 0]


def image_map(network: MultimodalNetwork, views: Mapping[str, Tensor]) -> Tensor:
    """Return the Grad-CAM map (H, W) of the image of one patient, the other views as they are."""
    others = {name: view for name, view in views.items() if name != "image"}

    def forward(image: Tensor) -> Tensor:
        return judged(network, {"image": image, **others})

    layer = network.branches["image"].get_submodule("network.layer4")
    return grad_cam(forward, layer, views["image"])[0].cpu()


def signal_map(network: MultimodalNetwork, views: Mapping[str, Tensor]) -> Tensor:
    """Return integrated gradients (leads, T) of the signal of one patient, the other views as they are."""
    others = {name: view for name, view in views.items() if name != "signal"}

    def forward(signal: Tensor) -> Tensor:
        repeated = {name: view.expand(len(signal), *view.shape[1:]) for name, view in others.items()}
        return judged(network, {"signal": signal, **repeated})

    return integrated_gradients_signal(forward, views["signal"]).values[0].detach().cpu()
