"""Every command in the documents is one that its script takes."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "train.py": "train",
    "test.py": "test",
    "data.synthetic": "data.synthetic.__main__",
    "data.convert": "data.convert.__main__",
    "data.noise": "data.noise.__main__",
    "utils.compare": "utils.compare.__main__",
}
NUMBERS = {"M", "S", "N", "MEAN", "STD"}  # stand for numbers in the documents


def commands():
    """(document, script, arguments) of each command of ours in a block of code or in backticks."""
    for document in ("README.md", "log/README.md"):
        text = (ROOT / document).read_text("utf-8")
        found = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
        blocks = [block for language, block in found if language in ("", "bash")]
        rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", rest)
        for part in (part for line in lines for part in re.split(r"&&|\|", line)):
            # An option in brackets may be left out; dots stand for more of the same.
            words = shlex.split(re.sub(r"\[[^]]*\]|\.\.\.", " ", part))
            script = next((word for word in words if word in SCRIPTS), None)
            given = words[words.index(script) + 1 :] if script else []
            # The map of the house names scripts, too.
            if given and any(w.endswith("python") or w.startswith("--") for w in words):
                yield document, script, ["1" if word in NUMBERS else word for word in given]


COMMANDS = list(commands())


def test_the_documents_are_searched():
    assert {script for _, script, _ in COMMANDS} == set(SCRIPTS)
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(
    "document, script, given", COMMANDS, ids=[" ".join([s, *g])[:60] for _, s, g in COMMANDS]
)
def test_a_script_takes_the_command(document, script, given):
    importlib.import_module(SCRIPTS[script]).parse_args(given)
