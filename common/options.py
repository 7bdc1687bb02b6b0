"""Settings as options: their names, the values they may take, and the text that stands under each."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import textwrap
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from common.errors import UserError

# What stands beside a setting -----------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """The values that a number, or each of several, may take, as in ``Annotated[int, Bounds(1)]``.

    Parameters
    ----------
    low, high : float
        They belong to the values.
    open : bool
        They do not.
    also : float, optional
        A value that is allowed beside these.
    rising : bool
        Several have to rise.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    also: float | None = None
    rising: bool = False

    def hold(self, value: float) -> bool:
        """Return whether a value is allowed."""
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        return inside or value == self.also

    def text(self) -> str:
        """Return what is allowed, as in "must be 1 or more"."""
        low, high = f"{self.low:.10g}", f"{self.high:.10g}"
        if math.isfinite(self.high):
            text = f"must lie between {low} and {high}" if self.open else f"must be {low} to {high}"
        else:
            text = f"must be above {low}" if self.open else f"must be {low} or more"
        return text + ("" if self.also is None else f", or {self.also:g}")


@dataclass(frozen=True)
class Names:
    """The names that a text may be, of something, as in ``Annotated[str, Names("model", ...)]``."""

    noun: str
    known: tuple[str, ...]


Count = Annotated[int, Bounds(1)]
Natural = Annotated[int, Bounds(0)]
Share = Annotated[float, Bounds(0, 1)]
InnerShare = Annotated[float | None, Bounds(0, 1, open=True)]
Positive = Annotated[float, Bounds(0, open=True)]
NotNegative = Annotated[float, Bounds(0)]
Seed = Annotated[int, Bounds(0, 2**32 - 1)]


# Settings as options --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """A setting as the command line knows it.

    Attributes
    ----------
    name : str
        Without the dashes in front, as in "simulation.ecg-noise".
    path : tuple of str
        Names of the fields that lead to it.
    hint : type
        Its type, with what stands beside it.
    value : object
    text : str
        What stands under it.
    """

    name: str
    path: tuple[str, ...]
    hint: Any
    value: Any
    text: str

    @property
    def marks(self) -> tuple[Any, ...]:
        """What stands beside the type, or beside one of several that it may be (``Count | None``)."""
        parts = (self.hint, *typing.get_args(self.hint))
        return tuple(mark for part in parts for mark in getattr(part, "__metadata__", ()))


def options_of(settings: Any, path: tuple[str, ...] = (), prefix: str = "") -> Iterator[Option]:
    """Yield every setting, those of settings within settings too, as an option.

    Parameters
    ----------
    settings : dataclass
        An object, or a class: then with the defaults.
    """
    kind = settings if isinstance(settings, type) else type(settings)
    hints, texts = typing.get_type_hints(kind, include_extras=True), _texts(kind)
    for item in dataclasses.fields(kind):
        hint, value = hints[item.name], getattr(settings, item.name, item.default)
        if value is dataclasses.MISSING and item.default_factory is not dataclasses.MISSING:
            value = item.default_factory()
        here = (*path, item.name)
        name = prefix + item.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            hidden = set(typing.get_args(tyro.conf.OmitArgPrefixes[int])[1:])
            omits = not hidden.isdisjoint(getattr(hint, "__metadata__", ()))
            yield from options_of(value, here, prefix if omits else f"{name}.")
        else:
            yield Option(name, here, hint, value, texts[item.name])


@functools.cache
def _texts(kind: type) -> dict[str, str]:
    """Return the text under each field of a class or of those it is made from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        lines = typing.cast(ast.ClassDef, node).body
        for field, below in zip(lines, [*lines[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = getattr(getattr(below, "value", None), "value", None)
                found[field.target.id] = inspect.cleandoc(text) if isinstance(text, str) else ""
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a sentence that names what was perhaps meant; empty if nothing is like it."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f" Perhaps you meant {near[0]}." if near else ""


def check_values(settings: Any) -> None:
    """Refuse a value that its setting does not take.

    Raises
    ------
    UserError
        It names the option, what was given and what is allowed.
    """
    for option in options_of(settings):
        values = option.value if isinstance(option.value, tuple) else (option.value,)
        numbers = [value for value in values if isinstance(value, int | float)]
        for mark in option.marks:
            if isinstance(mark, Bounds):
                _check_bounds(option.name, numbers, mark)
            elif isinstance(mark, Names) and option.value not in mark.known:
                raise UserError(
                    f"There is no {mark.noun} {option.value!r}.{nearest(option.value, mark.known)} "
                    f"{mark.noun.capitalize()}s: {', '.join(mark.known)}."
                )
        for value in numbers:
            if not math.isfinite(value):
                raise UserError(f"--{option.name} must be a finite number, and is {value}.")


def _check_bounds(name: str, numbers: list[float], bounds: Bounds) -> None:
    for value in numbers:
        if not bounds.hold(value):
            raise UserError(f"--{name} {bounds.text()}, and is {value}.")
    if bounds.rising and any(low >= high for low, high in itertools.pairwise(numbers)):
        raise UserError(f"--{name} must rise, and is {' '.join(f'{value:g}' for value in numbers)}.")
