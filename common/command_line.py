"""The command line of the scripts: the optional task word, settings classes read by tyro, plain storage."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from common.errors import UserError

Settings = TypeVar("Settings")


def split_task(arguments: Sequence[str], tasks: Iterable[str]) -> tuple[str, list[str]]:
    """Return the task that an optional first word names, and the other arguments.

    Parameters
    ----------
    arguments : sequence of str
    tasks : iterable of str
        Names of all tasks, the default first.

    Raises
    ------
    UserError
        If the first word is no option and names no task.
    """
    if not arguments or arguments[0].startswith("-"):
        return next(iter(tasks)), list(arguments)
    first, *rest = arguments
    if first not in tasks:
        near = difflib.get_close_matches(first, tasks, n=1, cutoff=0.4)
        hint = f" Perhaps you meant {near[0]}." if near else ""
        raise UserError(f"There is no task {first!r}.{hint} Tasks: {', '.join(tasks)}.")
    return first, rest


def read_settings(
    kind: type[Settings], arguments: Sequence[str], manual: str | None, default: Settings | None = None
) -> Settings:
    """Return settings from command-line arguments; ``--help`` and unknown options end the program.

    Parameters
    ----------
    kind : type
        A settings dataclass.
    arguments : sequence of str
        Without the task.
    manual : str or None
        Text above the options in ``--help``: the docstring of the script.
    default : optional
        Settings that the options change.
    """
    return tyro.cli(
        kind,
        args=list(arguments),
        description=manual or "",
        default=default if default is not None else tyro.MISSING_NONPROP,
        config=(tyro.conf.HelptextFromCommentsOff,),
    )


def named_early(arguments: Sequence[str], *names: str) -> dict[str, str | None]:
    """Return the values of options that decide which others there are, None where one is not given."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        early.add_argument(f"--{name.replace('_', '-')}", f"--{name}", dest=name)
    return vars(early.parse_known_args(list(arguments))[0])


def to_plain(settings: Any) -> dict[str, Any]:
    """Return settings as nested dicts of plain types, fit for JSON and for checkpoints."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
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
