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
        blocks = re.findall(r"```(?:bash)?\n(.*?)```", text, re.DOTALL)
        inline = re.findall(
            r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"```.*?```", "", text, flags=re.S)
        )
        joined = [block.replace("\\\n", " ") for block in blocks]
        lines = [line for block in joined for line in block.splitlines()] + inline
        for line in lines:
            for part in re.split(r"&&|\|", line):
                # An option in brackets may be left out; dots stand for more of the same.
                words = shlex.split(re.sub(r"\[[^]]*\]|\.\.\.", " ", part))
                if not any(word.endswith("python") or word.startswith("--") for word in words):
                    continue  # the map of the house names scripts, too
                for start, word in enumerate(words):
                    if word in SCRIPTS and len(words) > start + 1:
                        given = ["1" if word in NUMBERS else word for word in words[start + 1 :]]
                        yield document, word, given
                        break


COMMANDS = list(commands())


def test_the_documents_are_searched():
    assert {script for _, script, _ in COMMANDS} == set(SCRIPTS)
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(
    "document, script, given", COMMANDS, ids=[" ".join([s, *g])[:60] for _, s, g in COMMANDS]
)
def test_a_script_takes_the_command(document, script, given):
    importlib.import_module(SCRIPTS[script]).parse_args(given)
