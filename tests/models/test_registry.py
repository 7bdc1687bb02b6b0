"""The list of models: complete, each one works on beats, and a wrong name is answered with the right one."""

import importlib
import inspect
from pathlib import Path

import pytest
from torch import nn

import models
from models import MODELS, NETWORKS, Takes, build_model, takes
from models.ecg_multimodal.network import MultimodalNetwork

FOLDER = Path(models.__file__).parent
OF_OTHER_TASKS = {MultimodalNetwork}
"""Networks that are no choice of --model, as they are the only one of their task."""
SMALL = {"width": 8, "kernel_size": 7, "dropout": 0.0}


def test_every_network_of_the_folder_is_registered():
    """A network is a public class that takes a width; parts take channels."""
    built = {type(module) for name in NETWORKS for module in build_model(name, **SMALL).modules()}
    missing = [
        f"{path.name}: {name}"
        for path in FOLDER.rglob("*.py")
        if path.name != "__init__.py"
        for name, thing in vars(
            importlib.import_module(".".join(path.relative_to(FOLDER.parent).with_suffix("").parts))
        ).items()
        if inspect.isclass(thing)
        and issubclass(thing, nn.Module)
        and "width" in inspect.signature(thing).parameters
        and thing not in built | OF_OTHER_TASKS
    ]
    assert missing == [], "models/__init__.py does not list these networks"


def test_models_import_nothing_of_ours_but_models():
    ours = {path.stem for path in FOLDER.parent.glob("*.py")} | {
        path.parent.name for path in FOLDER.parent.glob("*/__init__.py")
    }
    for path in FOLDER.rglob("*.py"):
        imported = {
            line.split()[1].split(".")[0]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith(("import ", "from "))
        }
        assert imported & ours <= {"models"}, path.name


def test_unknown_model_is_refused_with_the_nearest_name_and_the_list():
    with pytest.raises(ValueError, match=r"no model 'packfnet'. Perhaps you meant pacfnet") as refusal:
        build_model("packfnet")
    assert all(name in str(refusal.value) for name in MODELS)


@pytest.mark.parametrize(
    ("settings", "modalities", "any_subset"),
    [
        (("pacfnet",), ("ecg", "pcg"), False),
        (("pacfnet", 0.5), ("ecg", "pcg"), True),
        (("pacfnet", 0.0, "ecg"), ("pcg",), False),
        (("ecg-network",), ("ecg",), False),
        (("linear",), ("ecg", "pcg"), True),
        (("phase-fusion",), ("ecg", "pcg"), True),
    ],
)
def test_which_signals_a_model_takes(settings, modalities, any_subset):
    assert takes(*settings) == Takes(modalities, any_subset)


def test_options_that_a_network_has_not_are_refused_and_none_is_no_option():
    with pytest.raises(
        ValueError, match=r"early-fusion has no --attention to choose; these have: pacfnet, .*"
    ):
        build_model("early-fusion", **SMALL, attention="parallel")
    with pytest.raises(
        ValueError, match="last-fusion has no --fusion-levels to choose; these have: pacfnet, "
    ):
        build_model("last-fusion", **SMALL, fusion_levels=(2, 4))
    build_model("early-fusion", **SMALL, attention=None, levels=None)
    assert build_model("pacfnet", **SMALL, levels=3, fusion_levels=(1, 3)).fusion_levels == (1, 3)
