"""Export of a detector to files that other programs run: torch.export's .pt2 and ONNX."""

from importlib.util import find_spec
from pathlib import Path

import torch

from models.folding import fold

ONNX_PACKAGES = ("onnx", "onnxscript")


def export_model(model, path):
    """Writes a detector, folded, to `path`: .pt2 (torch.export) or .onnx, by the suffix.

    The input `clip` is (1, 1, T, H, W) float32, normalised, with any H and W of 8 or more; the
    output `logits` (1, T, H, W) float32. `torch.export.load(path).module()` reads a .pt2 back.

    Raises:
        ValueError: another suffix, .onnx without the packages that write it, or a detector that
            is not described by its `stages`.
        OSError: there is no such folder.
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"{path}: expected a file name that ends in .pt2 or .onnx")
    if path.suffix == ".onnx":
        missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
        if missing:
            raise ValueError(
                f"{path}: writing ONNX needs {' and '.join(missing)}; "
                f"pip install {' '.join(missing)}"
            )
    if model.stages() is None:
        raise ValueError(
            f"{path}: {type(model).__name__} cannot be exported; expected a network of stages, "
            "such as DeepPro"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    program = export_program(model)
    if path.suffix == ".onnx":
        torch.onnx.export(
            program, f=str(path), input_names=["clip"], output_names=["logits"], dynamo=True
        )
    else:
        torch.export.save(program, path)
    return path


@torch.no_grad()
def export_program(model):
    """The folded detector as a `torch.export` program with dynamic height and width."""
    folded = fold(model).cpu()
    # Odd and unequal sizes, so that no relation between them is taken for a rule. Below 8 a level
    # may be one pixel wide, which torch.export treats apart.
    clip = torch.zeros(1, 1, model.seqlen, 21, 27)
    height, width = (torch.export.Dim(name, min=8, max=1 << 14) for name in ("height", "width"))
    return torch.export.export(folded, (clip,), dynamic_shapes={"clip": {3: height, 4: width}})
