"""What the branches of a network start from: other runs, or ImageNet weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.command_line import from_plain
from common.errors import UserError
from learning.checkpoint import BEST, Checkpoint, load_checkpoint
from learning.loop import FoldContext
from models.ecg_multimodal.network import MultimodalNetwork
from systems.base.parents import find_parent, refuse_known
from systems.ecg_multimodal.settings import (
    ModalitySettings,
    MultimodalModelSettings,
    MultimodalTrainingSettings,
)

_SAME_INPUTS = {"image": ("image_size",), "signal": ("leads",), "clinical": ("clinical",)}
"""Of each modality, the inputs of a checkpoint that must be those of the run that starts from it."""
_SAME_PREPARATION = {
    "image": ("sheet",),
    "signal": ("signal_rate", "high_pass", "low_pass", "baseline"),
    "clinical": (),
}
"""Of each modality, the settings of the cache that must be the same."""


def starts(model: MultimodalModelSettings) -> dict[str, Path | None]:
    """Return by modality the run that its branch starts from."""
    return {"image": model.init_image, "signal": model.init_signal, "clinical": model.init_clinical}


def check_starts(model: MultimodalModelSettings) -> None:
    """Refuse starts of branches that the network does not have, and freezing what starts at random.

    Raises
    ------
    UserError
    """
    for name, path in starts(model).items():
        options = {
            f"--init-{name}": path is not None,
            "--image-weights": name == "image" and model.image_weights is not None,
            f"--freeze {name}": name in model.freeze,
        }
        init, weights, frozen = options.values()
        given = [option for option, there in options.items() if there]
        if given and name not in model.views:
            raise UserError(f"The run does not read the {name} view (--views): leave {given[0]} away.")
        if init and weights:
            raise UserError("Give --image-weights or --init-image: the branch starts from one of them.")
        if frozen and not (init or weights):
            raise UserError(f"--freeze {name} would keep a random branch: give --init-{name} as well.")


def frozen_parts(model: MultimodalModelSettings) -> tuple[str, ...]:
    """Return the branches that stay as they start; of ImageNet weights only the network that they are of."""
    return tuple(
        "image.network" if name == "image" and model.image_weights is not None else name
        for name in model.freeze
    )


def starts_from_imagenet(model: MultimodalModelSettings) -> bool:
    """Return whether pictures are read as ImageNet weights expect, by the settings or the run before."""
    if model.init_image is None:
        return model.image_weights is not None
    folds = sorted(model.init_image.glob(f"fold_*/{BEST}"))  # all of them read pictures alike
    file = folds[0] if folds else find_parent(model.init_image, option="--init-image")
    return bool(load_checkpoint(file).get("inputs", {}).get("imagenet", False))


def parent_files(model: MultimodalModelSettings, fold: int) -> dict[str, Path]:
    """Return by modality the checkpoint that the branch of a fold starts from."""
    return {
        name: find_parent(path, fold, f"--init-{name}")
        for name, path in starts(model).items()
        if path is not None
    }


def start_branches(
    network: MultimodalNetwork, settings: MultimodalTrainingSettings, run: FoldContext
) -> None:
    """Load branches, their scalers and their own heads from the runs that the settings name.

    A head is left random where the run before learned another target.

    Raises
    ------
    UserError
        If such a run was trained on a patient of this fold's test part, has no such branch, or one of
        another size or of data prepared otherwise.
    """
    for name, file in parent_files(settings.model, int(run.metadata["fold"])).items():
        parent = load_checkpoint(file)
        if parent["task"] != "ecg-multimodal" or name not in parent["settings"]["model"]["views"]:
            raise UserError(f"{file} is a run of {parent['task']} without a branch for the {name} view.")
        refuse_known(parent, file, run)
        _refuse_other_data(name, parent, file, run.metadata)
        _load(network, "branches", name, parent, file)
        learned = (parent["settings"]["target"], parent.get("inputs", {}).get("classes", []))
        if learned == (settings.target, run.metadata["inputs"]["classes"]):
            _load(network, "branch_heads", name, parent, file)


def _refuse_other_data(name: str, parent: Checkpoint, file: Path, own: Mapping[str, Any]) -> None:
    """Refuse a parent whose inputs have another meaning than those of this run."""
    compared = [(key, parent.get("inputs", {}).get(key), own["inputs"][key]) for key in _SAME_INPUTS[name]]
    prepared = [from_plain(ModalitySettings, content["cache"]["settings"]) for content in (parent, own)]
    compared += [(key, *(getattr(each, key) for each in prepared)) for key in _SAME_PREPARATION[name]]
    for key, before, now in compared:
        if before != now:
            raise UserError(
                f"{file} was trained with {key} {before}, and this run has {now}: use data prepared alike."
            )


def _load(network: MultimodalNetwork, part: str, name: str, parent: Checkpoint, file: Path) -> None:
    """Load the branch or the head of a modality from a checkpoint."""
    prefix = f"{part}.{name}."
    weights = {
        key.removeprefix(prefix): value for key, value in parent["model"].items() if key.startswith(prefix)
    }
    try:
        network.get_submodule(prefix.rstrip(".")).load_state_dict(weights)
    except RuntimeError:
        width = parent["settings"]["model"]["width"]
        raise UserError(
            f"The {name} branch of {file} has another size: give the same --width ({width}), and data "
            "prepared alike."
        ) from None
