"""Command lines that the documents, manuals and the Makefile name, as a shell would split them."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))),
    *("load_data.py", "training.py", "evaluate.py", "predict.py", "export.py", "config.py", "Makefile"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "studies").rglob("*.py")),
]
SHELL = {"export", "cd", ".", "until", "do", "done", "sleep", "scontrol", "head", "["}
"""Words of the shell and of a cluster, of which nothing is checked."""
PROGRAMS = {"python", "torchrun", "tensorboard", "make", "pip", "uv", "dask", "srun", "sbatch"} | SHELL


@dataclass(frozen=True)
class Command:
    """One command of a document.

    Attributes
    ----------
    document : str
    line : int
    words : tuple of str
        As a shell would hand them to the program: without comment and ``VAR=x``; a variable is 0.
    """

    document: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        """Return where it stands, and the command."""
        return f"{self.document}:{self.line}: {' '.join(self.words)}"


def commands_of(document: str, text: str | None = None) -> list[Command]:
    """Return the commands of a document, in the order in which they stand."""
    text = (ROOT / document).read_text(encoding="utf-8") if text is None else text
    read = {".md": _of_markdown, ".py": _of_docstring}.get(Path(document).suffix, _of_makefile)
    found = sorted(read(text), key=lambda item: item[0])
    return [Command(document, line, words) for line, command in found for words in split(command)]


def python_blocks(document: str) -> list[tuple[int, str]]:
    """Return line and text of each block of Python in a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [(line, block) for line, language, block in _blocks(text) if language == "python"]


def prose_of(document: str) -> str:
    """Return what a document says beside its commands: all text, but of code blocks the comments alone."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if not document.endswith(".md"):
        return "" if document == "Makefile" else ast.get_docstring(ast.parse(text)) or ""
    blocks = re.findall(r"^```(?:bash)?$.*?^```$", text, re.MULTILINE | re.DOTALL)
    comments = re.findall(r" # (.*)", "\n".join(blocks))
    return "\n".join([_without_blocks(text), *comments])


def split(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command of a line of shell; what ``$( )`` and ``--wrap`` hold comes first."""
    line = re.sub(r"<([^>]*)>", lambda found: f"<{found[1].replace(' ', '_')}>", line)  # one word
    line = re.sub(r"\$\(\([^)]*\)\)", "0", line)
    inner = re.search(r"=\$\((.*)\)", line)
    if inner:
        yield from split(inner[1])
        line = line[: inner.start()] + "=0" + line[inner.end() :]
    lexer = shlex.shlex(re.sub(r"\$\w+", "0", line), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";&|"):
            words.append(word)
            continue
        while words and re.match(r"[A-Za-z_]+=", words[0]):
            del words[0]
        if words:
            if "--wrap" in words:
                yield from split(words[words.index("--wrap") + 1].replace(".venv/bin/", ""))
            yield tuple(words)
        words = []


def _blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield first line, language and text of each fenced block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: found.start(2)].count("\n") + 1, found[1], found[2]


def _of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each command in code blocks and in inline code."""
    for first, language, block in _blocks(text):
        if language == "yaml":
            yield from ((first, command) for command in _of_containers(block))
            continue
        lines = list(_joined(block, first))
        if lines[0][1].startswith("$ "):  # a session: command, then what it prints
            lines = [(line, command[2:]) for line, command in lines if command.startswith("$ ")]
        elif language not in ("", "bash") or not any(
            re.split(r"\s", line)[0] in PROGRAMS for _, line in lines
        ):
            continue  # a tree of files, a table, what a program prints
        yield from lines
    yield from _inline(_without_blocks(text), "`")


def _without_blocks(text: str) -> str:
    """Return a text with empty lines in place of its fenced blocks."""
    return re.sub(r"^```.*?^```$", lambda found: "\n" * found[0].count("\n"), text, flags=re.M | re.S)


def _of_containers(text: str) -> Iterator[str]:
    """Yield the commands of the containers that a file for Kubernetes lists."""
    for document in yaml.safe_load_all(text):
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", ()):
            yield shlex.join([*container["command"], *container.get("args", ())])


def _of_docstring(text: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of the docstring of a module: indented lines, and inline code."""
    manual = ast.get_docstring(ast.parse(text), clean=False) or ""
    for line, command in _joined(manual, 1):
        if re.match(r"    (python|torchrun) ", command):
            yield line, command.strip()
    yield from _inline(manual, "``")
    for found in re.finditer(r"(?<=: )(python|tensorboard) .*?(?=\.$|\. )", manual, re.MULTILINE):
        yield manual[: found.start()].count("\n") + 1, found[0]


def _of_makefile(text: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of recipes that call this project, and those that they advise."""
    for line, command in _joined(text, 1):
        found = re.search(r"\$\(BIN\)/((python (?!-m p|\|)|tensorboard).*?)\"?$", command)
        if found:
            yield line, found[1]


def _joined(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not empty, those that end in a backslash with the next."""
    for found in re.finditer(r"(?:.*\\\n)*.*\S.*", text):
        yield first + text[: found.start()].count("\n"), found[0].replace("\\\n", " ")


def _inline(text: str, quote: str) -> Iterator[tuple[int, str]]:
    """Yield the commands in inline code, which a line may break."""
    for found in re.finditer(rf"(?<!`){quote}((?:python|make) [^`]+){quote}", text):
        yield text[: found.start(1)].count("\n") + 1, " ".join(found[1].split())
