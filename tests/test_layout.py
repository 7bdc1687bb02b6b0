"""The rules of the layout (docs/ARCHITECTURE.md): who may import whom, and where a file lives."""

import ast
from collections import Counter, defaultdict
from pathlib import Path, PurePath

ROOT = Path(__file__).parents[1]
FLOORS = ("common", "datasets", "evaluation", "learning", "models", "simulation", "systems")
ALLOWED = {"models": {"models"}, "simulation": {"simulation", "common"}, "common": {"common"}}
"""What these folders may import of ours."""
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.relative_to(ROOT)
    for path in [*ROOT.glob("*.py"), *(file for floor in FLOORS for file in (ROOT / floor).rglob("*.py"))]
}


def imports() -> list[tuple[PurePath, PurePath]]:
    """Return the pairs (importing file, imported file) of the product."""
    found = set()
    for path in FILES.values():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            if isinstance(node, ast.ImportFrom):
                names = [
                    node.module or "",
                    f"{node.module}.__init__",
                    *(f"{node.module}.{name}" for name in names),
                ]
            found |= {(path, FILES[name]) for name in names if name in FILES and FILES[name] != path}
    return sorted(found)


def system(path: PurePath) -> str:
    """Return the system that a file belongs to; empty for what is shared."""
    return (
        path.parts[1]
        if path.parts[0] == "systems" and len(path.parts) > 2 and path.parts[1] != "base"
        else ""
    )


def test_no_system_imports_another_and_nothing_shared_imports_a_system():
    wrong = [
        f"{user} imports {used}"
        for user, used in imports()
        if (system(used) not in ("", system(user)) and user.name != "registry.py")
        or used.parts[0] not in ALLOWED.get(user.parts[0], {*FLOORS, "config.py"})
        or (used.parts[0] == "systems" and user.parts[0] in FLOORS and user.parts[0] != "systems")
    ]
    assert wrong == []


def test_a_file_lives_in_the_lowest_folder_that_holds_all_who_use_it():
    homes = defaultdict(set)
    for user, used in imports():
        homes[used].add(user.parent if user.parts[0] == "systems" else PurePath())
    wrong = []
    for used, users in homes.items():
        home = used.parent if system(used) else PurePath()
        common = max(
            set.intersection(*({user, *user.parents} for user in users)), key=lambda path: len(path.parts)
        )
        if used.parts[0] not in ("models", "simulation") and used.name != "__init__.py":
            shared = common in (PurePath(), PurePath("systems"), PurePath("systems/base"))
            if home != common and home in common.parents and not (home == PurePath() and shared):
                wrong.append(f"{used} is used in {common} alone")
    assert wrong == []


def test_folders_are_small_and_names_do_not_repeat_them():
    counts = Counter(path.parent for path in FILES.values())
    assert {folder: count for folder, count in counts.items() if count > 30} == {}
    assert [path for path in FILES.values() if path.stem.startswith(f"{path.parent.name}_")] == []
