"""The seven rules of the house plan, enforced: who imports whom, who knows what, how large."""

import ast
import subprocess
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from data.specs import DATASETS
from losses import LOSSES
from models import MODELS
from utils.protocols import PROTOCOLS

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "data", "losses", "utils")
SCRIPTS = ("train.py", "test.py")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).glob("**/*.py"))]
EVERYTHING = [*MODULES, *(ROOT / script for script in SCRIPTS)]
TESTS = sorted((ROOT / "tests").glob("**/*.py"))
MOST_PARAMETERS, MOST_LINES, MOST_FILES = 8, 400, 14
# A program on a GPU takes every number and array as a parameter of its own.
KERNELS = ROOT / "models/engine/cuda/kernels.py"

# Where the names of a table's rows may stand, beside the table itself.
TABLES = {
    "models/__init__.py": (MODELS, {"train.py", "utils/report/published.py"}),
    "losses/__init__.py": (LOSSES, {"train.py", "utils/run_dir.py", "models/baselines/recipes.py"}),
    "data/specs.py": (
        DATASETS,
        {"train.py", "test.py", "utils/run_dir.py", "utils/report/published.py"},
    ),
    "utils/protocols/__init__.py": (PROTOCOLS, {"utils/report/published.py"}),
}


def place(path):
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def imports(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


@cache
def dotted_names(path):
    """Every dotted name that a module uses, such as torch.ops.mkldnn."""
    tree = tree_of(path)
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@cache
def strings(path):
    """String constants, docstrings left out."""
    tree = tree_of(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    }


def functions(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            yield node.name, [a.arg for a in named if a.arg not in ("self", "cls")]


def is_command(path):
    """Whether `python -m` runs the module: it has a `__main__` beside or in it."""
    return (path.parent / "__main__.py").is_file() or "__main__" in strings(path)


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_1_only_commands_read_args(path):
    for name, parameters in functions(path):
        assert "args" not in parameters or (is_command(path) and name in ("main", "parse_args"))


@pytest.mark.parametrize("path", [path for path in EVERYTHING if path != KERNELS], ids=place)
def test_1_no_function_has_more_than_eight_parameters(path):
    long = {name: len(found) for name, found in functions(path) if len(found) > MOST_PARAMETERS}
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_2_rooms_import_no_other_room_and_no_script(path):
    room = path.relative_to(ROOT).parts[0]
    for module in imports(path):
        top = module.split(".")[0]
        assert f"{top}.py" not in SCRIPTS and (top not in ROOMS or top == room), module


@pytest.mark.parametrize("path", EVERYTHING, ids=place)
def test_3_each_kind_of_file_is_opened_in_one_place(path):
    used = dotted_names(path)
    if not place(path).startswith("data/"):
        assert not {"Image.open", "np.load", "np.fromfile", "av.open"} & used
    if place(path) != "utils/checkpoint.py":
        assert not {"torch.save", "torch.load"} & used
    if place(path) != "utils/run_dir.py":
        assert not {"sem_seg", "checkpoints", "logs"} & strings(path)


@pytest.mark.parametrize("path", EVERYTHING, ids=place)
def test_4_names_of_rows_stand_in_their_tables_only(path):
    for table, (rows, others) in TABLES.items():
        if place(path) != table and place(path) not in others:
            assert not set(rows) & strings(path), f"belongs to {table}"


def test_5_private_operators_of_torch_are_used_in_one_file():
    private = ("torch._C", "torch.ops.mkldnn", "torch.ops.aten", "torch.mkldnn_convolution")
    found = {
        place(path)
        for path in EVERYTHING
        for name in dotted_names(path)
        if name.startswith(private)
    }
    assert found <= {"models/engine/onednn.py"}


def layer_names():
    """Names of the networks' parts that are not words of other trades, too."""
    names = {part for model in MODELS.values() for part in model().state_dict()}
    parts = {word for name in names for word in name.split(".") if not word.isdigit()}
    return {word for word in parts if not word.islower() or any(c.isdigit() for c in word)}


def test_6_no_layer_is_known_outside_models():
    words = layer_names()
    assert "QK_heads" in words and "conv_out1" in words
    for path in EVERYTHING:
        if not place(path).startswith("models/"):
            used = {name.rsplit(".", 1)[-1] for name in dotted_names(path)} | strings(path)
            assert not words & used, place(path)


def tracked():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    if listed == [""]:
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed if name and (ROOT / name).is_file()]


def test_7_no_folder_holds_more_than_fourteen_files():
    folders = Counter(path.parent.as_posix() for path in tracked())
    assert {name: n for name, n in folders.items() if n > MOST_FILES} == {}


def test_7_no_file_has_more_than_four_hundred_lines():
    lines = {place(p): len(p.read_text("utf-8").splitlines()) for p in [*EVERYTHING, *TESTS]}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def test_7_no_name_means_two_things():
    homes = defaultdict(set)
    for path in MODULES:
        for node in tree_of(path).body:
            names = []
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in (name for name in names if not name.startswith("_")):
                homes[name].add(place(path))
    shared = {name: sorted(paths) for name, paths in homes.items() if len(paths) > 1}
    assert {n: p for n, p in shared.items() if n not in ("main", "parse_args")} == {}


def test_package_files_hold_only_tables_and_re_exports():
    for path in MODULES:
        if path.name == "__init__.py":
            assert not any(isinstance(node, ast.ClassDef) for node in tree_of(path).body)
