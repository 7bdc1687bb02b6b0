"""The registry: every task answers, nothing is imported but what is asked for, and --help costs little."""

import subprocess
import sys
from pathlib import Path

import pytest

from config import EvaluationSettings
from systems import registry
from systems.base.task import Task

ROOT = Path(__file__).parents[2]
OTHERS = ("systems.ecg_multimodal", "systems.ecg_cmr", "models.ecg_multimodal", "models.ecg_cmr")


def python(code: str, *arguments: str) -> str:
    """Run code in a process of its own, in the folder of the project; return what it prints."""
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", registry.TASKS)
def test_every_task_answers(name):
    task = registry.make_task(name)
    assert isinstance(task, Task) and task.name == name
    for preset in ("paper", "small"):
        settings = registry.training_defaults(name, preset)
        assert isinstance(settings, task.settings_class) and settings.preset == preset
    assert issubclass(registry.evaluation_settings(name), EvaluationSettings)
    assert callable(registry.evaluation(name))


def test_some_predict_and_some_are_exported():
    assert registry.tasks_with("predict") == ["ecg-pcg", "ecg-multimodal", "ecg-phenotypes", "ecg-to-cmr"]
    assert registry.tasks_with("export") == ["ecg-pcg"]
    assert registry.exporter("cmr-mae") is None and registry.predictor("cmr-mae") is None


def test_a_dry_run_loads_no_other_system(simulated_cache):
    code = "import sys, training; training.main(sys.argv[1:]); print(*sys.modules)"
    options = ["--cache", str(simulated_cache.path), "--threads", "1", "--device", "cpu", "--dry-run"]
    options += ["--precision", "float32"]
    loaded = python(code, *options, "--points", "100", "--width", "8").split()
    assert "systems.ecg_pcg.task" in loaded
    assert [name for name in loaded if name.startswith(OTHERS)] == []


@pytest.mark.parametrize("script", ["load_data", "training", "evaluate"])
def test_help_does_not_wait_for_what_learns_and_draws(script):
    heavy = "{'torch', 'sklearn', 'matplotlib', 'monai', 'scipy.signal'}"
    code = f"""
import contextlib, sys, {script}
with contextlib.suppress(SystemExit):
    {script}.main(["--help"])
print(sorted({heavy} & set(sys.modules)))
"""
    assert python(code).endswith("\n[]\n")
