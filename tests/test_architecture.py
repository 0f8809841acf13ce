"""Who may import whom, who reads args, who opens files: the house plan, enforced."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "data", "losses", "utils")
# data may use the windows of utils; nothing else crosses between rooms.
ALLOWED = {("data", "utils.windows")}
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).glob("**/*.py"))]
SCRIPTS = {"train", "test"}


def name_of(path):
    return str(path.relative_to(ROOT))


def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


def attributes(tree):
    """Dotted names that the module uses, e.g. torch.load."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_no_sibling(path):
    room = path.relative_to(ROOT).parts[0]
    for module in imported(tree_of(path)):
        top = module.split(".")[0]
        assert top not in SCRIPTS, f"{module}: scripts are not imported"
        if top in ROOMS and top != room:
            assert (room, module) in ALLOWED, f"{room} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_scripts_read_args(path):
    tree = tree_of(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in ("main", "parse_args"):
            names = {argument.arg for argument in node.args.args}
            assert "args" not in names or path.name in ("run_dir.py", "checkpoint.py")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_frames_and_footage_open_data_files(path):
    openers = ("frames.py", "footage.py", "synthetic.py")
    if path.relative_to(ROOT).parts[0] == "data" and path.name not in openers:
        used = set(attributes(tree_of(path)))
        assert "Image.open" not in used


@pytest.mark.parametrize("path", [*MODULES, ROOT / "train.py", ROOT / "test.py"], ids=name_of)
def test_only_checkpoint_saves_and_loads_with_torch(path):
    if name_of(path) != "utils/checkpoint.py":
        assert not {"torch.save", "torch.load"} & set(attributes(tree_of(path)))


@pytest.mark.parametrize("path", [*MODULES, ROOT / "train.py", ROOT / "test.py"], ids=name_of)
def test_only_run_dir_builds_run_paths(path):
    if name_of(path) != "utils/run_dir.py":
        strings = {n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant)}
        assert not {"sem_seg", "checkpoints", "logs"} & {s for s in strings if isinstance(s, str)}


def test_package_files_hold_only_tables_and_re_exports():
    for room in ROOMS:
        for node in tree_of(ROOT / room / "__init__.py").body:
            assert not isinstance(node, ast.ClassDef)
