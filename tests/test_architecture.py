"""The floors of both packages: every import points down, none runs in a circle, and no function outgrows a screen."""

import ast
import shutil
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The one place that states the floors. A room is a file or folder of a package; beside it stand the rooms that it may
# import, all of them further down. Every room may import itself, and the ground.
FLOORS = {
    "fastgen": {  # imports pipelines wherever it likes
        "__init__": "api models",
        "train": "cli",
        "__main__": "cli",
        "cli": "quickstart doctor paper memorization bench owndata sweeps report training sets runs recipe",
        "quickstart": "runs",
        "api": "training sets runs recipe",
        "doctor": "",
        "paper": "sweeps report runs theory recipe models",
        "memorization": "sweeps report sets runs recipe",
        "bench": "report training sets runs recipe optim",
        "owndata": "sweeps sets runs recipe",
        "sweeps": "training runs recipe models",
        "report": "sets runs recipe",
        "training": "sets runs recipe models optim",
        "sets": "recipe",
        "runs": "recipe",
        "theory": "",
        "recipe": "models optim",
        "models": "",
        "optim": "",
    },
    "pipelines": {  # imports nothing of fastgen
        "backends": "view baked",
        "view": "",
        "baked": "sources corruptions",
        "sources": "",
        "corruptions": "",
        "__init__": "",
    },
}
GROUND = {
    "fastgen": "terminal errors",
    "pipelines": "sampler indices registry errors randomness durable locations progress prefetch provenance",
}
LONGEST_FUNCTION = 80  # lines, a screen
LONGEST_LOOP = 110  # lines of the training loop, its iterator and its optimizer step together
DEEPEST_LOOP = 4  # blocks within each other


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of both packages."""
    found = {}
    for package in FLOORS:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """The modules of both packages that a module imports anywhere: at its top, in functions, for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: None if path.name == "__init__.py" else -1]
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return {each for each in found if each.split(".")[0] in FLOORS}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def faults(root: Path) -> list[str]:
    """What is wrong with the imports of the packages below `root`, a line each; of each package's circles the first."""
    files = modules(root)
    graph = {name: imports(name, path, set(files)) for name, path in files.items()}
    wrong = []
    for package, floors in FLOORS.items():
        ground = GROUND[package].split()
        own = {name: used for name, used in graph.items() if name.split(".")[0] == package}
        for name, used in own.items():
            if room(name) not in (*floors, *ground):
                wrong.append(f"{name} stands on no floor")
                continue
            below = {*floors.get(room(name), "").split(), room(name), *ground}
            for other in sorted(used):
                inside = other.split(".")[0] == package
                if room(other) not in below if inside else package == "pipelines":
                    wrong.append(f"{name} imports {other}")
        try:
            TopologicalSorter(own).prepare()
        except CycleError as error:
            circle = error.args[1][:0:-1]  # each imports the next
            at = circle.index(min(circle))
            wrong.append("a circle: " + " -> ".join([*circle[at:], *circle[:at], circle[at]]))
    return wrong


def test_the_floors_are_floors():
    for package, floors in FLOORS.items():
        rooms = list(floors)
        for name, below in floors.items():
            assert set(below.split()) <= set(rooms[rooms.index(name) + 1 :]), f"{package}: {name}"
        assert not set(rooms) & set(GROUND[package].split())


def test_every_import_points_down_and_none_runs_in_a_circle():
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        (
            "fastgen/recipe/load.py",
            "def late():\n    from fastgen.report import page",
            "fastgen.recipe.load imports fastgen.report.page",
        ),
        (
            "fastgen/theory/points.py",
            "if TYPE_CHECKING:\n    import fastgen.recipe.schema",
            "fastgen.theory.points imports fastgen.recipe.schema",
        ),
        ("fastgen/errors.py", "from fastgen import cli", "fastgen.errors imports fastgen.cli"),
        (
            "pipelines/view/regions.py",
            "from ..backends import columns",
            "pipelines.view.regions imports pipelines.backends.columns",
        ),
        ("pipelines/durable.py", "import fastgen.terminal", "pipelines.durable imports fastgen.terminal"),
        ("fastgen/utils.py", "", "fastgen.utils stands on no floor"),
        (
            "pipelines/errors.py",
            "from pipelines import registry",
            "a circle: pipelines.errors -> pipelines.registry -> pipelines.errors",
        ),
        (
            "pipelines/view/preparation.py",
            "def late():\n    import pipelines.view.augment",
            "a circle: pipelines.view.augment -> pipelines.view.preparation -> pipelines.view.augment",
        ),
    ],
)
def test_a_wrong_import_is_found(file, text, fault, tmp_path):
    package = file.split("/")[0]
    shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / file, "a") as source:
        source.write(f"\n{text}\n")
    assert fault in faults(tmp_path)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def depth(node: ast.AST) -> int:
    """Blocks within each other; an elif is as deep as its if."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                is_elif = (
                    isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If) and len(value) == 1
                )
                block = isinstance(child, ast.stmt) and any(hasattr(child, name) for name in ("body", "cases"))
                deepest = max(deepest, depth(child) + (block and not is_elif))
    return deepest


def test_depth_counts_blocks():
    tree = ast.parse(
        "for x in y:\n    if a:\n        b = [c for c in d if c]\n    elif e:\n        with f:\n            g()"
    )
    assert depth(tree) == 3


def test_no_function_is_longer_than_a_screen():
    lengths = {
        f"{name}.{function.name}": length(function)
        for name, path in modules(ROOT).items()
        for function in functions(path)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_the_training_loop_reads_in_five_minutes():
    parts = {function.name: function for function in functions(ROOT / "fastgen/training/loop.py")}
    assert sum(length(parts[name]) for name in ("train", "steps", "update")) <= LONGEST_LOOP
    assert {name: depth(part) for name, part in parts.items() if depth(part) > DEEPEST_LOOP} == {}
