"""The page that ``--help`` prints, as wide as the terminal: what is used first, then the rest."""

from __future__ import annotations

import re
import shutil
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, Literal

import tyro

from common.options import Option, options_of

_WIDEST = 110
_PLACE = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def help_page(program: str, manual: str, settings: Any, more: str = "") -> str:
    """Return what ``--help`` prints.

    Parameters
    ----------
    program : str
        Name of the script.
    manual : str
        Docstring of the script.
    settings : dataclass
        Object or class; its ``first`` names the settings that people use first.
    more : str
        Further paragraphs under the manual.
    """
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    options = list(options_of(settings))
    usual = getattr(settings, "first", ())
    first = sorted((option for option in options if option.path[-1] in usual), key=_order(usual))
    groups: dict[str, list[Option]] = {"options": list(first)}
    for option in options:
        if option not in first:
            beside = f", {option.path[0].replace('_', ' ')}" if len(option.path) > 1 else ""
            groups.setdefault(f"advanced{beside}" if first else "options", []).append(option)
    places = [f"[{option.path[-1].upper()} ...]" for option in options if _positional(option)]
    places = places or (["[TASK]"] if more else [])
    words = " ".join([f"usage: {program}", *places, "[OPTIONS]"])
    parts = [words, *(_wrapped(text, width) for text in (manual.strip(), more.strip()) if text)]
    for title, listed in groups.items():
        lines = ["  -h, --help\n      Show this page."] if title == "options" else []
        parts.append("\n".join([f"{title}:", *lines, *(_entry(option, width) for option in listed)]))
    return "\n\n".join(parts)


def _order(usual: tuple[str, ...]) -> Any:
    return lambda option: usual.index(option.path[-1])


def _wrapped(text: str, width: int) -> str:
    """Return paragraphs wrapped to a width; indented lines stay lines, a comment may go below its command."""
    parts: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") or not line or not parts or not parts[-1] or parts[-1].startswith(" "):
            parts.append(line)
        else:
            parts[-1] += f" {line}"
    return "\n".join(filled for part in parts for filled in _filled(part, width))


def _filled(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    command, *said = re.split(r"\s+# ", line.rstrip(), maxsplit=1)
    if len(line) <= width or not said:
        return _lines(line.strip(), width, indent, indent + "    " * bool(indent))
    return [
        *_lines(command.strip(), width, indent, indent + "    "),
        *_lines(f"# {said[0]}", width, indent + "    ", indent + "    # "),
    ]


def _lines(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [""]


def _entry(option: Option, width: int) -> str:
    """Return an option, what it takes, and the text under it."""
    takes = _takes(option.hint)
    positional = _positional(option)
    name = option.path[-1].upper() if positional else f"--{option.name}"
    if takes == "FLAG":
        name += f", --no-{option.name}" * bool(option.value)
    elif not positional:
        name += f" {takes}"
    default = _default(option.value)
    text = option.text + (f" (default: {default})" if default else "")
    return "\n".join([*_lines(name, width, "  ", "    "), *_lines(text, width, " " * 6, " " * 6)])


def _positional(option: Option) -> bool:
    return any(mark in option.marks for mark in typing.get_args(tyro.conf.Positional[int])[1:])


def _default(value: Any) -> str:
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else ""
    return " ".join(str(each) for each in value) if isinstance(value, tuple) else str(value)


def _takes(hint: Any) -> str:
    """Return what an option takes, as in INT or {all,none}."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _takes(inner[0])
    if origin is Literal:
        return "{" + ",".join(str(value) for value in inner) + "}"
    if origin in (typing.Union, types.UnionType):
        return "|".join(_takes(each) for each in inner if each is not type(None))
    if origin is tuple:
        kinds = [_takes(each) for each in inner if each is not Ellipsis]
        return " ".join(kinds) + " ..." * (Ellipsis in inner)
    return "FLAG" if hint is bool else _PLACE.get(hint, "VALUE")
