"""Every command of a document is one that its script takes: options, values, task, run and placeholders."""

import argparse
import contextlib
import importlib
import importlib.util
import io
import itertools
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.run
import tyro
from distributed.cli import dask_scheduler, dask_worker

import evaluate
import export
import load_data
import predict
import studies
import training
from common.command_line import to_plain
from common.errors import UserError
from common.options import check_values, options_of
from config import ExportSettings, RunSettings
from systems import registry
from tests.documented_commands import (
    DOCUMENTS,
    PROGRAMS,
    ROOT,
    SHELL,
    Command,
    commands_of,
    prose_of,
    python_blocks,
)

SCRIPTS = {f"{script.__name__}.py": script for script in (load_data, training, evaluate, predict, export)}
PLACEHOLDERS = {
    "NAME": "linear",
    "<protocol>": "session",
    "CONTRAST": "run-of-ecg-cmr-contrast",
    **{f"<run_of_{task}>": f"run-of-{task}" for task in registry.TASKS},
    **dict.fromkeys(("PATH", "ACDC", "HOST", "FOLDER", "RECORDING", "ECG", "ECGS", "REVISION"), ""),
    **dict.fromkeys(("MY_COHORT", "MY_FOLDER", "MY_PAIRS", "MY_PATIENTS", "MY_RECORDING", "MY_SOUNDS"), ""),
    **dict.fromkeys(("RUN_A", "RUN_B", "<name>", "<other>"), ""),
}
"""What a user puts something else for, and what stands for it here; empty: the placeholder itself will do.
``<run>`` is the run that the document trained last."""

FOREIGN = {"help", "index-url", "no-nanny", "array", "nproc-per-node", "logdir"}
"""Options of other programs that documents mention."""


class Read(BaseException):
    """A command line was read without complaint; holds what it became."""


def stopping(read: Callable[..., Any]) -> Callable[..., Any]:
    """Return a reader of command lines that ends the script when it has read one."""

    def read_and_stop(*arguments: Any, **options: Any) -> None:
        raise Read(read(*arguments, **options))

    return read_and_stop


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    """Stand in a folder with a cohort and a run of each task; a script ends when its command line is read."""
    monkeypatch.chdir(tmp_path)
    for script in SCRIPTS.values():
        monkeypatch.setattr(script, "read_settings", stopping(script.read_settings))
    for task in registry.TASKS:
        begin_run(f"run-of-{task}", task, registry.training_defaults(task, "small"))
    Path("MY_COHORT").mkdir()
    Path("settings.json").write_text('{"task": "ecg-pcg", "settings": {}}')


def begin_run(name: str, task: str, settings: RunSettings) -> None:
    """Write what the scripts look at to know the task of a run."""
    fold = Path("checkpoints", name, "fold_0")
    fold.mkdir(parents=True, exist_ok=True)
    (fold / "best.pt").touch()
    content = json.dumps({"task": task, "settings": to_plain(settings)})
    (fold.parent / "settings.json").write_text(content)


class Reader:
    """Reads the commands of one document in their order; each method raises what is wrong with one."""

    def __init__(self) -> None:
        self.run = "run-of-ecg-pcg"

    def read(self, words: Sequence[str]) -> None:
        program, *rest = words
        assert program in PROGRAMS, f"{program!r} is no program that a document may call"
        if program not in SHELL:
            getattr(self, program)(rest)

    def python(self, words: Sequence[str]) -> None:
        if words[0] == "-c":
            compile(words[1], "command", "exec")
            return
        name, *rest = [self.fill(word) for word in words]
        if name == "-m":
            self.module(rest)
        elif name in SCRIPTS:
            found = settings_of(lambda: SCRIPTS[name].main(rest))
            if name == "training.py" and found is not None:
                self.run = found.run_name or "the-run"
                begin_run(self.run, training.read_task(rest)[0], found)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args)
                )
                patch.setattr(sys, "argv", [name, *rest])
                assert (ROOT / name).is_file(), f"there is no {name}"
                settings_of(importlib.import_module(name.removesuffix(".py").replace("/", ".")).main)

    def module(self, words: Sequence[str]) -> None:
        name, *rest = words
        assert importlib.util.find_spec(name), f"there is no {name}"
        package = (ROOT / name.replace(".", "/")).is_dir()
        module = importlib.import_module(f"{name}.__main__" if package else name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tyro, "cli", stopping(tyro.cli))
            check_values(settings_of(lambda: module.main(rest)))

    def fill(self, word: str) -> str:
        """Return a word with its placeholders filled."""
        known = PLACEHOLDERS | {"<run>": self.run}
        for found in re.findall(r"<[^>]*>|\b[A-Z][A-Z_]{2,}\b", word):
            assert found in known, f"{found} is no placeholder that tests know"
            word = word.replace(found, known[found] or found)
        run = re.match(r"checkpoints/([^/]+)", word)
        assert not run or Path(run[0]).is_dir(), f"no command of the document trains the run {run and run[1]}"
        return word

    def torchrun(self, words: Sequence[str]) -> None:
        given = torch.distributed.run.get_args_parser().parse_args(words)
        self.python([given.training_script, *given.training_script_args])

    def srun(self, words: Sequence[str]) -> None:
        self.read(words[next(at for at, word in enumerate(words) if not word.startswith("--")) :])

    def sbatch(self, words: Sequence[str]) -> None:
        assert all(word.startswith("--") for word in words[:1])

    def dask(self, words: Sequence[str]) -> None:
        {"scheduler": dask_scheduler, "worker": dask_worker}[words[0]].main.make_context(
            "dask", list(words[1:])
        )

    def make(self, words: Sequence[str]) -> None:
        makefile = (ROOT / "Makefile").read_text()
        for word in words:
            variable, equals, _ = word.partition("=")
            rule = rf"^{variable} \?=" if equals else rf"^([\w-]+ )*{word}( [\w-]+)*:"
            assert re.search(rule, makefile, re.MULTILINE), f"the Makefile has no {variable}"

    def pip(self, words: Sequence[str]) -> None:
        assert words[0] == "install"
        files = [after for word, after in itertools.pairwise(words) if word == "-r"]
        assert all((ROOT / file).is_file() for file in files), f"there is no {files}"

    def tensorboard(self, words: Sequence[str]) -> None:
        assert list(words) == ["--logdir", str(RunSettings.log_dir)]


def settings_of(main: Callable[[], object]) -> Any:
    """Return what a command line becomes, None if it asks for help; a complaint of the parser is raised."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except Read as read:
        return read.args[0]
    except SystemExit as end:
        assert not end.code, " ".join(re.sub(r"-{3,}|[^\w\s.,:'<>=/-]", "", said.getvalue()).split())
        return None
    raise AssertionError("the script did not read its command line")


def complaints(commands: Sequence[Command]) -> list[str]:
    """Return a line for each command that would not be understood."""
    reader, found = Reader(), []
    for command in commands:
        try:
            reader.read(command.words)
        except (AssertionError, UserError) as error:
            found.append(f"{command}\n    {error}")
    return found


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if commands_of(name)])
def test_every_command_is_understood(document):
    found = complaints(commands_of(document))
    assert not found, "\n" + "\n".join(found)


def test_python_in_documents_is_python():
    blocks = [(name, block) for name in DOCUMENTS if name.endswith(".md") for _, block in python_blocks(name)]
    assert blocks
    for name, block in blocks:
        compile(block, name, "exec")


def settings_classes() -> Iterator[Any]:
    """Yield the settings of every script, of each task its own, and of every study."""
    yield ExportSettings
    for task in registry.TASKS:
        yield from (registry.load_data_settings(task), registry.training_defaults(task, "small"))
        yield from (registry.evaluation_settings(task), registry.prediction_settings(task))
    for place in pkgutil.walk_packages(studies.__path__, "studies."):
        if not place.name.endswith("__main__"):
            kinds = vars(importlib.import_module(place.name)).items()
            yield from (kind for name, kind in kinds if name.endswith("Settings") and is_dataclass(kind))


def option_names(kind: Any) -> set[str]:
    """Return the options of settings, with those that turn one off and those of earlier versions."""
    names = {option.name for option in options_of(kind)}
    off = {re.sub(r"([^.]+)$", r"no-\1", name) for name in names}
    return names | off | set(getattr(kind, "formerly", {}))


def test_every_option_that_a_document_mentions_exists():
    """Also where it stands in a sentence or a comment, without the command that takes it."""
    names = {name for kind in settings_classes() for name in option_names(kind)} | FOREIGN
    for document in DOCUMENTS:
        found = re.findall(r"(?<=[\s`])--([a-z][a-z.-]*[a-z])", prose_of(document))
        assert not set(found) - names, f"{document}: no script has {sorted(set(found) - names)}"
