"""The page of --help: as wide as the terminal, what is used first, tasks and models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.help_page import help_page
from common.options import options_of
from systems import registry
from systems.ecg_pcg.settings import MODELS, LoadDataSettings, defaults

ROOT = Path(__file__).parents[2]
KINDS = {
    "load_data.py": registry.load_data_settings,
    "evaluate.py": registry.evaluation_settings,
    "predict.py": registry.prediction_settings,
    "training.py": lambda task: registry.training_defaults(task, "small"),
}


@pytest.mark.parametrize("script", KINDS)
@pytest.mark.parametrize("task", registry.TASKS)
@pytest.mark.parametrize("width", [50, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_every_option_is_there(script, task, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    settings = KINDS[script](task)
    manual = (ROOT / script).read_text(encoding="utf-8").split('"""')[1]
    page = help_page(script, manual, settings, registry.overview(task))
    assert max(map(len, page.splitlines())) <= width
    words = page.split()
    for option in options_of(settings):
        assert {f"--{option.name}", f"--{option.name},", option.path[-1].upper()} & set(words), option.name
    assert [line for line in page.split("\n\n") if line.startswith("options:")]


def test_what_people_use_first_comes_first_and_the_rest_is_advanced(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = help_page("training.py", "Train.", defaults("small"), registry.overview("ecg-pcg"))
    first, advanced = page.split("\nadvanced:\n")
    shown = [line.split()[0] for line in first.splitlines() if line.startswith("  --")]
    assert shown[:4] == ["--protocol", "--model", "--preset", "--folds"] and len(shown) in range(9, 13)
    assert "--adam-epsilon" not in first and "--adam-epsilon" in advanced
    assert "  --epochs INT\n      Passes over the training samples, at most. (default: 8)\n" in first
    assert "  --class-weights, --no-class-weights\n" in advanced and "  --resume\n" in first
    for name in registry.TASKS:
        assert f"\n    {name}" in first
    assert all(name in first for name in MODELS)


def test_a_study_says_how_it_is_started_and_has_one_list_of_options():
    command = [sys.executable, "-m", "studies.sessions_needed", "--help"]
    page = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert page.startswith("usage: python -m studies.sessions_needed [OPTIONS]\n")
    assert "\noptions:\n" in page and "advanced" not in page


def test_a_command_too_long_for_the_line_has_its_comment_below(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    manual = "Do it.\n\n    python load_data.py --raw-dir X   # all of it\n\nThen\ngo on."
    lines = help_page("load_data.py", manual, LoadDataSettings).splitlines()
    assert lines[4:6] == ["    python load_data.py --raw-dir X", "        # all of it"]
    assert "Then go on." in lines


@pytest.mark.parametrize("script", KINDS)
def test_help_costs_less_than_a_second_and_needs_no_torch(script):
    code = (
        "import resource, runpy, sys\n"
        f"sys.argv = ['{script}', '--help']\n"
        "try:\n"
        f"    runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print(end.code, used.ru_utime + used.ru_stime, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    status, seconds, torch = done.stderr.split()[-3:]
    assert status == "0" and torch == "False" and float(seconds) < 1.0
    assert done.stdout.startswith(f"usage: {script} ")
