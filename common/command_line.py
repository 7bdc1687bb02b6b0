"""The command line of the scripts: the optional task word, settings classes read by tyro, plain storage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from common.errors import UserError
from common.options import check_values, nearest, options_of

Settings = TypeVar("Settings")


def split_task(
    arguments: Sequence[str], tasks: Iterable[str], path_option: str = ""
) -> tuple[str, list[str]]:
    """Return the task that an optional first word names, and the other arguments.

    Parameters
    ----------
    arguments : sequence of str
    tasks : iterable of str
        Names of all tasks, the default first.
    path_option : str
        Option whose value a path is that stands alone, as in ``load_data.py PATH``; empty: none.

    Raises
    ------
    UserError
        If the first word is no option and names no task.
    """
    task, rest = next(iter(tasks)), list(arguments)
    if rest and rest[0] in tasks:
        task, *rest = rest
    if rest and not rest[0].startswith("-"):
        first = rest[0]
        if path_option and (os.sep in first or Path(first).exists()):
            return task, [path_option, *rest]
        raise UserError(f"There is no task {first!r}.{nearest(first, tasks)} Tasks: {', '.join(tasks)}.")
    return task, rest


def read_settings(
    kind: type[Settings],
    arguments: Sequence[str] | None,
    manual: str | None,
    default: Settings | None = None,
    more: str = "",
) -> Settings:
    """Return settings from command-line arguments; ``--help`` and unknown options end the program.

    Parameters
    ----------
    kind : type
        A settings dataclass.
    arguments : sequence of str or None
        Without the task; None: those that the program was started with.
    manual : str or None
        Text above the options in ``--help``: the docstring of the script.
    default : optional
        Settings that the options change.
    more : str
        Further text of ``--help``.

    Raises
    ------
    UserError
        If an option has a value that it does not take.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        from common.help_page import help_page

        print(help_page(program_name(), manual or "", default or kind, more))
        sys.exit(0)
    formerly: dict[str, str] = getattr(kind, "formerly", {})
    known = {option.name for option in options_of(kind)}
    settings = tyro.cli(
        kind,
        args=[
            _as_named_now(word, {old: new for old, new in formerly.items() if new.partition("=")[0] in known})
            for word in arguments
        ],
        description="",
        default=default if default is not None else tyro.MISSING_NONPROP,
        config=(tyro.conf.HelptextFromCommentsOff,),
    )
    check_values(settings)
    return settings


def program_name() -> str:
    """Return what the program was started with: the name of a script, or ``python -m`` and a module."""
    spec = sys.modules["__main__"].__spec__
    if spec is None or not Path(sys.argv[0]).is_absolute():
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def _as_named_now(word: str, formerly: dict[str, str]) -> str:
    """Return a word in which an old name of an option is the one that it has now."""
    name, equals, value = word.removeprefix("--").partition("=")
    return f"--{formerly[name]}{equals}{value}" if word.startswith("--") and name in formerly else word


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, as in "1 fold" and "2 folds"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def path_option(name: str, path: Path, usual: Path) -> str:
    """Return an option that names a folder, to be added to a command; empty if it is the usual one."""
    return "" if path == usual else f" --{name} {shlex.quote(str(path))}"


def named_early(arguments: Sequence[str], *names: str) -> dict[str, str | None]:
    """Return the values of options that decide which others there are, None where one is not given."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        early.add_argument(f"--{name.replace('_', '-')}", f"--{name}", dest=name)
    return vars(early.parse_known_args(list(arguments))[0])


# Settings in files ----------------------------------------------------------------------------------

_UNSTORED = ("config", "list")
"""Options that set nothing."""
_ONCE = (*_UNSTORED, "resume", "overwrite", "dry_run")
"""How a run was started, which no other run takes from its settings."""


def read_config(path: Path) -> dict[str, Any]:
    """Return what a file of settings holds: ``settings``, and ``task`` where it says one.

    Raises
    ------
    UserError
        If there is none, or it is no JSON of this form.
    """
    path = path / "settings.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The settings {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"The settings {path} are no JSON: {error}.") from None
    content = content if isinstance(content, dict) and "settings" in content else {"settings": content}
    if not isinstance(content["settings"], dict):
        raise UserError(f"{path} holds no settings: names and values are expected, as a run writes them.")
    return content


def with_config(defaults: Settings, settings: dict[str, Any], path: Path) -> Settings:
    """Return defaults with the settings of a file in their place.

    Raises
    ------
    UserError
        If it names a setting that there is not, or a value that it does not take.
    """
    known = {".".join(option.path): option for option in options_of(defaults)}
    words = []
    for name, value in flatten(settings).items():
        if name in _ONCE:
            continue
        if name not in known:
            raise UserError(
                f"{path} has a setting {name!r} that this task does not know.{nearest(name, known)}"
            )
        words += _words(known[name].name, value)
    try:
        return read_settings(type(defaults), words, None, defaults)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except SystemExit:
        print(f"That is a setting of {path}.", file=sys.stderr)
        raise


def _words(name: str, value: Any) -> list[str]:
    """Return a setting as words of the command line."""
    if isinstance(value, bool):
        prefix, _, last = name.rpartition(".")
        return [f"--{prefix}{'.' * bool(prefix)}{'' if value else 'no-'}{last}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def to_plain(settings: Any) -> dict[str, Any]:
    """Return settings as nested dicts of plain types, fit for JSON and for checkpoints.

    Options that no setting of a run are (``--config``, ``--list``) are left away.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in _UNSTORED}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value.as_posix() if isinstance(value, Path) else value

    return plain(dataclasses.asdict(settings))


def from_plain(kind: type[Settings], content: dict[str, Any]) -> Settings:
    """Return the settings that `to_plain` wrote down; what the class does not know is left away."""
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(typing.cast(Any, kind)) if item.name in content]
    return kind(**{name: _as_type(hints[name], content[name]) for name in names})


def _as_type(hint: Any, value: Any) -> Any:
    """Return a plain value as the type that a field asks for."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if isinstance(value, dict):
        return from_plain(hint, value)
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in options else value
