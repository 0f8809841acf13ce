"""The released weights of Res-UNet+DTUM through the test script, on real frames."""

import shutil

import numpy as np
from PIL import Image

from tests.builders import call_test, write_list


def test_dtum_marks_the_recorded_pixels_in_a_frame_of_nudt_mirsdt(shared, tmp_path):
    """22 pixels of Sequence85; the frames before it are in a Mix file."""
    root, name = tmp_path / "NUDT-MIRSDT", "Sequence85"
    shutil.copytree(shared / "nudt_frames" / name, root / name)
    write_list(root / "test.txt", [name])
    weights = shared / "released" / "dtum" / "ResUNet_DTUM_para.pth"
    words = f"--datapath {root} --output {tmp_path} --visual --no-overlay"
    call_test(f"--model Res-UNet+DTUM --weights {weights} {words}")
    logits = np.load(shared / "nudt_frames" / name / "dtum_logits.npy")
    marked = np.asarray(Image.open(tmp_path / "visual" / name / "00001.png")) >= 128
    assert marked.sum() == 22
    np.testing.assert_array_equal(marked, logits >= 0)
