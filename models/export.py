"""Export of a detector to files that other programs run: torch.export's .pt2 and ONNX."""

import io
import os
from importlib.util import find_spec
from pathlib import Path

import torch

from models.folding import fold

ONNX_PACKAGES = ("onnx", "onnxscript")
SMALLEST_SIDE, LARGEST_SIDE = 8, 1 << 14  # of the exported program's frames


def export_model(model, path):
    """Writes a detector, folded, to `path`: .pt2 (torch.export) or .onnx, by the suffix.

    The input `clip` is (1, 1, T, H, W) float32, normalised, with any H and W of 8 or more that are
    multiples of the detector's `side_multiple`; the output `logits` (1, n, H, W) float32.
    `torch.export.load(path).module()` reads a .pt2 back.

    It is one file, written whole or not at all.

    Raises:
        ValueError: another suffix, .onnx without the packages that write it, or a detector that is
            recurrent or computes outside torch.
        OSError: there is no such folder, or it cannot be written.
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
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; expected the name of a file")
    program = export_program(model)
    if path.suffix == ".onnx":
        names = {"input_names": ["clip"], "output_names": ["logits"]}
        made = torch.onnx.export(program, **names, dynamo=True)
        content = made.model_proto.SerializeToString()  # with its weights
    else:
        memory = io.BytesIO()
        torch.export.save(program, memory)
        content = memory.getvalue()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error.strerror or error})") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


@torch.no_grad()
def export_program(model):
    """The folded detector as a `torch.export` program with dynamic height and width."""
    name, multiple = type(model).__name__, model.side_multiple
    if model.recipe is None:
        raise ValueError(f"{name} cannot be exported: it is a filter that computes outside torch")
    if model.recurrent:
        raise ValueError(f"{name} is recurrent: expected a detector of clips, to be exported")
    # Below 8 a level may be one pixel wide, which torch.export treats apart.
    least, most = -(-SMALLEST_SIDE // multiple), LARGEST_SIDE // multiple
    sides = [multiple * torch.export.Dim(name, min=least, max=most) for name in ("rows", "columns")]
    # Odd and unequal sizes, so that no relation between them is taken for a rule.
    clip = torch.zeros(1, 1, model.seqlen, 21 * multiple, 27 * multiple)
    shapes = {"clip": dict(zip((3, 4), sides, strict=True))}
    try:
        return torch.export.export(fold(model).cpu(), (clip,), dynamic_shapes=shapes)
    except Exception as error:  # of many kinds, for what torch.export cannot follow
        raise ValueError(
            f"{name} cannot be exported: torch {torch.__version__} cannot follow its steps"
        ) from error
