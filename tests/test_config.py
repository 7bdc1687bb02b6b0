"""Settings: the command line, the presets of the issue, the optional task word, and plain storage."""

import ast
import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import evaluate
import learning.devices
import load_data
import training
from common.command_line import from_plain, read_settings, split_task, to_plain
from common.errors import UserError
from config import EvaluationSettings, OptimizationSettings
from systems.ecg_pcg.settings import (
    EcgPcgEvaluationSettings,
    LoadDataSettings,
    ModelSettings,
    TrainingSettings,
    defaults,
)
from systems.registry import TASKS, training_defaults

SCRIPTS = {
    "load_data": (load_data.main, LoadDataSettings),
    "training": (training.main, TrainingSettings),
    "evaluate": (evaluate.main, EcgPcgEvaluationSettings),
}


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """Let auto be a CPU, whatever there is; return the list of device names that were asked for."""
    asked = []

    def choose_device(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cuda" if "cuda" in name else "cpu")

    monkeypatch.setattr(learning.devices, "choose_device", choose_device)
    return asked


def read(*arguments: str) -> TrainingSettings:
    settings = training.read_training_settings(*split_task(arguments, TASKS))
    assert isinstance(settings, TrainingSettings)
    return settings


# --- presets -------------------------------------------------------------------------------------------


def test_paper_preset_is_as_published():
    settings = defaults("paper", "paper")
    model, optimization = settings.model, settings.optimization
    assert (model.model, model.width, model.points, model.kernel_size) == ("pacfnet", 64, 2000, 7)
    assert (model.dropout, model.attention) == (0.5, None)  # None: cascaded, where a model has it
    assert (optimization.batch_size, optimization.epochs) == (32, 100)
    assert (optimization.optimizer, optimization.learning_rate) == ("adam", 1e-3)
    assert optimization.weight_decay == 0
    assert (optimization.schedule, optimization.plateau_patience) == ("plateau", 5)
    assert (optimization.gradient_clip, optimization.clip) == (5, "tensor")
    assert (optimization.early_stop, optimization.least_improvement) == (20, 0)
    assert (optimization.adam_epsilon, optimization.plateau_floor) == (1e-7, 1e-6)
    assert not optimization.drop_last
    assert (model.start, model.norm_momentum) == ("he-normal", 0.01)
    assert optimization.class_weights


@pytest.mark.parametrize(
    ("protocol", "epochs"), [("paper", 12), ("beat", 12), ("recording", 12), ("session", 8)]
)
def test_small_preset(protocol, epochs):
    settings = defaults("small", protocol)
    model, optimization = settings.model, settings.optimization
    assert settings.protocol == protocol
    assert (model.width, model.points) == (16, 500)
    assert (optimization.batch_size, optimization.optimizer) == (64, "adamw")
    assert (optimization.schedule, optimization.learning_rate) == ("one-cycle", 2e-3)
    assert optimization.epochs == epochs
    assert optimization.early_stop == 0
    assert optimization.class_weights


def test_unknown_preset_is_a_fault_of_the_caller():
    with pytest.raises(ValueError, match="choose paper or small"):
        defaults("auto", "session")  # type: ignore[arg-type]


def test_defaults_of_the_project():
    settings = read()
    assert (settings.protocol, settings.folds, settings.fold_count) == ("session", "all", 5)
    assert settings == defaults("small", "session")
    assert read("--device", "cuda") == dataclasses.replace(defaults("paper", "session"), device="cuda")


@pytest.mark.parametrize("protocol", ["paper", "beat", "recording", "session"])
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_preset_and_protocol_are_read_before_the_other_options(preset, protocol):
    expected = defaults(preset, protocol)
    assert read("--preset", preset, "--protocol", protocol) == expected
    assert read(f"--protocol={protocol}", f"--preset={preset}") == expected


def test_auto_is_resolved_by_the_device_and_the_outcome_is_stored(device):
    settings = read("--device", "cuda:1")
    assert device == ["cuda:1"]
    assert settings.preset == "paper"
    assert read("--preset", "auto").preset == "small"


def test_options_win_over_the_preset_wherever_they_stand():
    before = read("--epochs", "3", "--width", "24", "--preset", "small", "--protocol", "session")
    after = read("--protocol", "session", "--preset", "small", "--width", "24", "--epochs", "3")
    assert before == after
    assert (before.optimization.epochs, before.model.width) == (3, 24)
    untouched = defaults("small", "session")
    assert before.optimization == dataclasses.replace(untouched.optimization, epochs=3)
    assert before.model == dataclasses.replace(untouched.model, width=24)


@pytest.mark.parametrize(
    ("words", "folds"),
    [(("all",), "all"), (("none",), "none"), (("0",), (0,)), (("2", "0", "4"), (2, 0, 4))],
)
def test_folds(words, folds):
    assert read("--folds", *words).folds == folds


# --- the task word -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [(), ("--protocol", "beat"), ("--protocol", "beat", "--epochs", "3"), ("--folds", "0", "1")],
)
def test_task_word_is_optional(options):
    assert split_task(options, TASKS) == ("ecg-pcg", list(options))
    assert split_task(["ecg-pcg", *options], TASKS) == ("ecg-pcg", list(options))
    assert read(*options) == read("ecg-pcg", *options)


@pytest.mark.parametrize("word", ["ecgpcg", "ecg_pcg", "ecg-pgc"])
def test_unknown_task_is_refused_with_a_suggestion(word):
    with pytest.raises(UserError, match=rf"no task '{word}'. Perhaps you meant ecg-pcg.*Tasks: .*ecg-pcg"):
        split_task([word, "--epochs", "3"], TASKS)


def test_task_unlike_any_other_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"There is no task 'zebra'. Tasks: .*ecg-pcg"):
        split_task(["zebra"], TASKS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_refuses_an_unknown_task(script):
    with pytest.raises(UserError, match="Perhaps you meant ecg-pcg"):
        SCRIPTS[script][0](["ecg-pgc", "--dry-run"])


# --- help, and what is refused -------------------------------------------------------------------------


def documented_fields(kind: type) -> dict[str, str]:
    """Return the fields of a settings class (and of those it is made of) with the text under each."""
    modules = {inspect.getsource(sys.modules[base.__module__]) for base in kind.__mro__ if base is not object}
    texts = {}
    for node in [node for source in modules for node in ast.walk(ast.parse(source))]:
        if isinstance(node, ast.ClassDef):
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    shown = text.value if isinstance(text, ast.Expr) else None
                    said = shown.value if isinstance(shown, ast.Constant) else None
                    texts[node.name, field.target.id] = said if isinstance(said, str) else ""
    found: dict[str, str] = {}
    for item in dataclasses.fields(kind):
        made = item.default_factory if dataclasses.is_dataclass(item.default_factory) else type(item.default)
        if dataclasses.is_dataclass(made):
            nested = documented_fields(made)
            prefix = f"{item.name}." if item.name == "simulation" else ""
            found |= {prefix + name: text for name, text in nested.items()}
        else:
            owner = next(base for base in kind.__mro__ if (base.__name__, item.name) in texts)
            found[item.name] = texts[owner.__name__, item.name]
    return found


def words(text: str) -> str:
    """Return text without the frame, line breaks and spaces of the help page."""
    return re.sub(r"[\s│╭╮╰╯─|+-]+", "", text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_setting(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    main, kind = SCRIPTS[script]
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    shown = words(page)
    fields = documented_fields(kind)
    assert len(fields) >= 10
    for name, text in fields.items():
        assert text, f"{name} has no text"
        assert re.search(rf"--{name.replace('_', '-')}\b", page), f"{name} is not in --help"
        assert words(text) in shown, f"the text of {name} is not in --help"


def test_quantities_say_their_unit():
    fields = documented_fields(LoadDataSettings)
    for name, unit in {"simulation.duration": "seconds", "ecg_band": "hertz", "pcg_band": "hertz"}.items():
        assert unit in fields[name]


@pytest.mark.parametrize(
    ("script", "given", "meant"),
    [
        ("training", ["--epoch", "3"], "--epochs"),
        ("training", ["ecg-pcg", "--learningrate", "3"], "--learning-rate"),
        ("load_data", ["--raw-dri", "x"], "--raw-dir"),
        ("evaluate", ["--checkpiont", "x"], "--checkpoint"),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(script, given, meant, capsys):
    with pytest.raises(SystemExit) as end:
        SCRIPTS[script][0](given)
    assert end.value.code == 2
    assert re.search(rf"Perhaps you meant.*{meant}\b", capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    "given",
    [
        ["--preset", "tiny"],
        ["--protocol", "person"],
        ["--epochs", "many"],
        ["--folds", "first"],
        ["--optimizer", "sgd"],
        ["--preset"],
    ],
)
def test_values_that_mean_nothing_are_refused(given, capsys):
    with pytest.raises(SystemExit) as end:
        training.main([*given, "--dry-run"])
    assert end.value.code == 2
    assert given[0] in capsys.readouterr().err


# --- settings from a file ------------------------------------------------------------------------------


def stored(tmp_path, settings, task="ecg-pcg") -> str:
    """Write settings as a run does; return the file."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"task": task, "cache": "abc", "settings": to_plain(settings)}))
    return str(path)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_a_run_is_set_as_its_file_says(task, preset, tmp_path):
    settings = training_defaults(task, preset)
    path = stored(tmp_path, settings, task)
    assert training.read_training_settings(task, ["--config", path]) == settings


def test_settings_of_a_file_are_taken_and_options_beside_it_win(tmp_path):
    settings = read(*("--preset", "paper", "--protocol", "beat", "--folds", "0", "2", "--epochs", "7"))
    settings = dataclasses.replace(settings, run_name="-odd name", cache=Path("a/b"))
    path = stored(tmp_path, settings)
    assert read("--config", path) == settings
    changed = read("--epochs", "9", "--config", path, "--protocol", "session", "--no-class-weights")
    assert changed.optimization == dataclasses.replace(settings.optimization, epochs=9, class_weights=False)
    assert (changed.protocol, changed.preset, changed.folds) == ("session", "paper", (0, 2))
    assert read("--config", str(tmp_path)) == settings, "the folder of the run"


def test_how_a_run_was_started_is_not_taken(tmp_path):
    begun = dataclasses.replace(defaults("small"), overwrite=True, resume=True, dry_run=True)
    assert read("--config", stored(tmp_path, begun)) == defaults("small")
    assert read("--config", stored(tmp_path, begun), "--resume").resume


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"optimization": {"epoch": 3}},
            "'optimization.epoch' that this task does not know. Perhaps you meant optimization.epochs",
        ),
        ({"modle": {"width": 8}}, "'modle.width'.*Perhaps you meant model.width"),
        ({"optimization": {"epochs": -3}}, "settings.json: --epochs must be 1 or more, and is -3"),
        ({"model": {"model": "pacfnett"}}, "no model 'pacfnett'. Perhaps you meant pacfnet"),
        ({"generator": {"blocks": 3}}, "'generator.blocks'"),
        ([1, 2], "holds no settings"),
    ],
)
def test_a_file_with_what_there_is_not_is_refused_and_named(content, said, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        read("--config", str(path))


@pytest.mark.parametrize(
    "content", [{"optimization": {"epochs": "many"}}, {"protocol": "person"}, {"compile": "perhaps"}]
)
def test_a_file_with_values_of_another_kind_is_refused_and_named(content, tmp_path, capsys):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as end:
        read("--config", str(path))
    assert end.value.code == 2 and f"That is a setting of {path}." in capsys.readouterr().err


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name, said in (("nowhere.json", "cannot be read: No such file"), ("broken.json", "are no JSON")):
        with pytest.raises(UserError, match=said):
            read("--config", str(tmp_path / name))


def test_the_task_is_that_of_the_file(tmp_path):
    path = stored(tmp_path, training_defaults("ecg-mae", "small"), "ecg-mae")
    assert training.read_task(["--config", path]) == ("ecg-mae", ["--config", path])
    assert training.read_task(["ecg-mae", "--config", path])[0] == "ecg-mae"
    with pytest.raises(UserError, match="is of task ecg-mae: write ecg-mae in place of ecg-pcg"):
        training.read_task(["ecg-pcg", "--config", path])
    with pytest.raises(UserError, match="is of task 'ecg-x', which there is not"):
        training.read_task(["--config", stored(tmp_path, defaults("small"), "ecg-x")])
    with pytest.raises(UserError, match="leave --preset away"):
        read("--config", path, "--preset", "paper")


# --- plain storage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--preset", "paper", "--protocol", "paper"),
        ("--folds", "2", "0", "--cache", "some/cache", "--epochs", "3", "--attention", "parallel"),
        ("--folds", "none", "--no-class-weights", "--run-name", "mine", "--device", "cpu"),
    ],
)
def test_plain_and_back(arguments, tmp_path):
    settings = read(*arguments)
    plain = to_plain(settings)
    assert from_plain(TrainingSettings, plain) == settings
    assert from_plain(TrainingSettings, json.loads(json.dumps(plain, allow_nan=False))) == settings
    torch.save(plain, tmp_path / "settings.pt")
    assert torch.load(tmp_path / "settings.pt", weights_only=True) == plain


def test_plain_has_only_plain_types():
    def kinds(value: object) -> set[type]:
        if isinstance(value, dict):
            return set().union(*(kinds(item) for item in [*value, *value.values()]))
        if isinstance(value, list):
            return set().union({list}, *(kinds(item) for item in value))
        return {type(value)}

    plain = to_plain(read("--folds", "0", "1", "--cache", "a/b"))
    assert kinds(plain) <= {str, int, float, bool, list, type(None)}
    assert (plain["cache"], plain["folds"]) == ("a/b", [0, 1])
    assert plain["model"]["width"] == 16


def test_settings_cannot_be_changed():
    for settings in (ModelSettings(), OptimizationSettings(), TrainingSettings(), EvaluationSettings()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.__setattr__(dataclasses.fields(settings)[0].name, "other")


def test_nested_settings_of_load_data():
    settings = read_settings(
        LoadDataSettings,
        ["--raw-dir", "here", "--bandpass", "--ecg-band", "1", "40", "--simulation.sessions", "7"],
        None,
    )
    assert settings.raw_dir == Path("here")
    assert settings.preparation.bandpass
    assert settings.preparation.ecg_band == (1.0, 40.0)
    assert settings.simulation.sessions == 7
    assert settings.preparation.pcg_band == LoadDataSettings().preparation.pcg_band
