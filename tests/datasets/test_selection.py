"""The sequences that select the best checkpoint, looked at before the first epoch."""

import warnings

import numpy as np
import pytest
from PIL import Image

import train as train_script
from data.remarks import DataWarning
from data.sequences import TestSequences
from data.specs import get_spec
from data.training.facts import check_selection
from tests.builders import ArraySequence, random_sequence, write_list, write_nudt_sequence
from utils.process import Group


@pytest.mark.parametrize(
    ("select", "remedy"), [("test", "or --select heldout"), ("heldout", "another --seed")]
)
def test_a_selection_without_targets_is_remarked_on_before_the_training(
    tmp_path, rng, select, remedy
):
    for name, frames in (("Sequence1", 12), ("Sequence2", 12), ("Sequence47", 9)):
        write_nudt_sequence(tmp_path, name, *random_sequence(rng, frames, 16, 16))
    write_list(tmp_path / "train.txt", ["Sequence1", "Sequence2"])
    write_list(tmp_path / "test.txt", ["Sequence47"])
    words = f"--datapath {tmp_path} --model DeepPro --seqlen 8 --patch_size 16 --sample_rate 1"
    args = train_script.parse_args([*words.split(), "--select", select, "--cache", "none"])

    def selected():
        return train_script.open_data(args, [get_spec("NUDT-MIRSDT")], Group())[1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (name,) = selected().names
    for path in (tmp_path / name).glob("masks*/*.png"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    with pytest.warns(DataWarning, match=f"{name}: no target in any mask .*{remedy}") as said:
        selected()
    assert len([each for each in said if "no target" in str(each.message)]) == 1


def test_no_more_is_read_than_up_to_the_first_target():
    masks = np.zeros((3, 6, 4, 4), np.uint8)
    masks[1, 2, 3, 3] = 1
    sequences = [ArraySequence(str(n), np.zeros((6, 4, 4)), masks[n]) for n in range(3)]
    read = []
    for sequence in sequences:
        original = sequence.read
        sequence.read = lambda *at, of=sequence, call=original: read.append(of.name) or call(*at)
    check_selection(TestSequences(sequences), "test")
    assert read == ["0"] * 6 + ["1"] * 3
