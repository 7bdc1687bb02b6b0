"""What a setting may be: bounds and names beside the fields, checked in one place for all scripts."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

import evaluate
import export
import load_data
import predict
import training
from common.command_line import counted
from common.errors import UserError
from common.options import Bounds, Count, InnerShare, Names, check_values, options_of
from models import MODELS
from systems import registry
from systems.ecg_pcg.settings import MODELS as MODEL_NAMES


@dataclass(frozen=True)
class Inner:
    """Within another."""

    steps: Count = 3
    """Steps."""


@dataclass(frozen=True)
class Outer:
    """A few settings."""

    share: InnerShare = None
    """A share."""
    band: Annotated[tuple[float, float], Bounds(0, 10, rising=True)] = (1.0, 2.0)
    """A band,
    of two."""
    jobs: Annotated[int, Bounds(1, also=-1)] = -1
    """Jobs."""
    name: Annotated[str, Names("fruit", ("apple", "pear"))] = "pear"
    """A name."""
    free: float = 1.0
    """Any number."""
    near: tyro.conf.OmitArgPrefixes[Inner] = Inner()
    far: Inner = field(default_factory=Inner)


def test_options_have_the_names_of_the_command_line():
    found = {option.name: option for option in options_of(Outer)}
    assert list(found) == ["share", "band", "jobs", "name", "free", "steps", "far.steps"]
    assert found["band"].text == "A band,\nof two." and found["band"].value == (1.0, 2.0)
    assert found["far.steps"].path == ("far", "steps")
    given = {option.name: option.value for option in options_of(Outer(far=Inner(steps=7)))}
    assert (given["far.steps"], given["steps"]) == (7, 3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"share": 10.0}, "--share must lie between 0 and 1, and is 10.0."),
        ({"share": 0.0}, "--share must lie between 0 and 1"),
        ({"share": math.nan}, "--share must lie between 0 and 1, and is nan."),
        ({"band": (2.0, 1.0)}, "--band must rise, and is 2 1."),
        ({"band": (1.0, 11.0)}, "--band must be 0 to 10, and is 11.0."),
        ({"band": (1.0, math.inf)}, "--band must be 0 to 10, and is inf."),
        ({"free": math.inf}, "--free must be a finite number, and is inf."),
        ({"jobs": 0}, "--jobs must be 1 or more, or -1, and is 0."),
        ({"name": "peer"}, "There is no fruit 'peer'. Perhaps you meant pear. Fruits: apple, pear."),
        ({"near": Inner(steps=0)}, "--steps must be 1 or more, and is 0."),
        ({"far": Inner(steps=-2)}, "--far.steps must be 1 or more, and is -2."),
    ],
)
def test_a_value_outside_is_refused_in_one_sentence(changed, said):
    check_values(Outer())
    check_values(Outer(share=0.5, jobs=8, band=(0.0, 10.0)))
    with pytest.raises(UserError) as refusal:
        check_values(dataclasses.replace(Outer(), **changed))
    assert said in str(refusal.value)


WRONG = {
    "load_data": ["--jobs 0", "--beat-points 0", "--ecg-band 40 1", "--simulation.sessions 0", "--jobs -2"],
    "load_data ecg-multimodal": ["--simulation.patients -1", "--seconds nan", "--simulation.missing 2"],
    "load_data ecg-mae": ["--patients 0", "--frames 1", "--percentiles 99 1", "--pixel-spacing 0"],
    "training": [
        *("--learning-rate -1", "--learning-rate 0", "--learning-rate nan", "--learning-rate inf"),
        *("--epochs -3", "--epochs 0", "--batch-size 0", "--threads -1", "--validation-share 2"),
        *("--validation-share -0.1", "--fold-count 1", "--folds -1", "--seed -1", "--dropout 1.5"),
        *("--modality-dropout -0.1", "--levels 5", "--fusion-levels 0 2", "--width 0", "--at-once 0"),
        *("--weight-decay -1", "--gradient-clip -1", "--model pacfnett", "--early-stop -1"),
    ],
    "training cmr-mae": ["--mask-ratio 1", "--decoder-depth 0"],
    "training ecg-to-cmr": ["--condition-dropout 2", "--heads 0"],
    "evaluate": ["--bootstrap-draws -5", "--prevalence 10", "--prevalence 0", "--batch-size 0"],
    "evaluate ecg-to-cmr": ["--max-patients 0", "--patients -1", "--guidance -1", "--steps 0"],
    "predict": ["--prevalence 10", "--prevalence nan", "--batch-size 0", "--threads -1", "--ecg-rate 0"],
    "export": ["--threads -1", "--fold -1"],
}
SCRIPTS = {
    "load_data": load_data.main,
    "training": training.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "export": export.main,
}


@pytest.mark.parametrize(("command", "given"), [(key, words) for key in WRONG for words in WRONG[key]])
def test_every_script_refuses_wrong_values_before_anything_runs(command, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script, *task = command.split()
    renamed = {"--patients": "simulation.patients" if script == "load_data" else "max-patients"}
    name = renamed.get(given.split()[0], given.split()[0].removeprefix("--"))
    with pytest.raises(UserError) as refusal:
        SCRIPTS[script]([*task, *given.split()])
    said = str(refusal.value)
    assert said.startswith(f"--{name} must ") or said.startswith("There is no model 'pacfnett'. Perhaps you")
    assert list(tmp_path.iterdir()) == []


def test_every_default_is_allowed():
    """Presets and defaults of every task and script, or nobody could start."""
    for task in registry.TASKS:
        check_values(registry.load_data_settings(task)())
        check_values(registry.evaluation_settings(task)())
        check_values(registry.prediction_settings(task)())
        for preset in ("paper", "small"):
            check_values(registry.training_defaults(task, preset))


def test_numbers_have_bounds():
    """A number without bounds would be the next one that means nothing; the exceptions say why."""
    free = {"duration"}  # its shortest depends on what is simulated: simulated.py says so
    for task in registry.TASKS:
        kinds = [
            registry.load_data_settings(task),
            registry.evaluation_settings(task),
            registry.prediction_settings(task),
            type(registry.training_defaults(task, "small")),
        ]
        for option in (option for kind in kinds for option in options_of(kind)):
            number = isinstance(option.value, int | float) and not isinstance(option.value, bool)
            if number and option.path[-1] not in free and "Literal" not in str(option.hint):
                assert any(isinstance(mark, Bounds) for mark in option.marks), f"{task}: {option.name}"


def test_the_models_of_the_settings_are_those_there_are():
    assert tuple(MODELS) == MODEL_NAMES


@pytest.mark.parametrize(("number", "said"), [(0, "0 folds"), (1, "1 fold"), (2, "2 folds")])
def test_a_number_with_its_noun(number, said):
    assert counted(number, "fold") == said
    assert counted(1, "process", "processes") == "1 process"
    assert counted(2, "process", "processes") == "2 processes"
