"""The detectors run by OpenVINO, an optional package.

`models.fused` needs no further package and the least memory. This engine holds all maps of a band
of rows at once, so it wants a large budget: what bands share is computed twice.
"""

import sys
import threading
import warnings
from importlib.util import find_spec

import numpy as np
import torch

from models.engine.budget import parse_memory
from models.folding import fold
from models.fused import EvaluationCopy

PACKAGE = "openvino"
DEFAULT_MEMORY = 4 * 2**30  # bytes; less makes more bands, which compute their common rows twice
_MAPS = 7  # alive at a time, at most, as measured: tests/benchmarks/README.md


def compile_openvino(model, precision="fp32", memory=None):
    """An evaluation copy of a detector that OpenVINO runs on the CPU, in float32.

    Same call and same logits up to rounding as `model.eval()`, for any size that the model takes;
    how the frames are cut into bands changes nothing else. The model is left as it was. The first
    clip of a size takes seconds longer, in which its programs are made; where bands are of several
    programs, each clip takes some tenths of a second longer for each band.

    Args:
        model: a detector on the CPU, described by its `stages`.
        precision: "fp32".
        memory: bytes for everything beside the clip, its logits and the library, or a string as
            "1GiB"; None for `DEFAULT_MEMORY`.

    Raises:
        ValueError: the package is missing, another precision or device, no size of memory, or a
            detector without `stages`; in a call, a clip that the model refuses or that holds NaN or
            infinity, or a budget that does not hold one row of it and those that its logits depend
            on.
    """
    name = "--engine openvino"
    if find_spec(PACKAGE) is None:
        raise ValueError(f"{name}: needs the package of that name; pip install {PACKAGE}")
    if precision != "fp32":
        raise ValueError(f"{name} with --precision {precision}: computes in fp32")
    if model.stages() is None:
        raise ValueError(
            f"{name}: {type(model).__name__} is not described by stages; expected a DeepPro "
            "network, or --engine fast"
        )
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"{name} on {device}: runs on the CPU; expected --gpu cpu")
    model.stages().check()
    return OpenVINODetector(model, parse_memory(memory) or DEFAULT_MEMORY)


def import_openvino():
    """The package without its reports of use, which it would send to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # as if it were not installed
    import openvino

    return openvino


class OpenVINODetector(EvaluationCopy):
    """A detector run by OpenVINO, band by band of whole rows.

    Args:
        model: see `compile_openvino`.
        budget: bytes.
    """

    def __init__(self, model, budget):
        super().__init__(model)
        self.budget = budget
        # Not a submodule: a copy in half precision or on another device is not foreseen.
        self.folded = (fold(model, torch.float32),)
        stages = self.folded[0].stages()
        convolutions = (x for x in stages.modules() if isinstance(x, torch.nn.Conv3d))
        widest = max(max(conv.in_channels, conv.out_channels) for conv in convolutions)
        self.bytes_per_pixel = 4 * self.seqlen * widest * _MAPS
        self.pooled = any(stages.are_pooled())
        self._begin()

    def _begin(self):
        self.planned = None, None  # size of frames, and their bands
        self.programs, self.current = {}, (None, None)  # for frames of this size
        self.lock = threading.Lock()  # one band is inferred at a time

    def __getstate__(self):
        """A copy makes programs of its own."""
        made = ("planned", "programs", "current", "lock")
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._begin()

    def forward(self, clip):
        folded = self.folded[0]
        folded.check_clip(clip)
        self.refuse_non_numbers(clip)
        batch, _, frames, height, width = clip.shape
        logits = clip.new_empty(batch, frames, height, width, dtype=torch.float32)
        with self.evaluation(clip.device), self.lock:
            for top, bottom in self.plan(height, width):
                part = folded.excerpt((height, width), (top, 0, bottom, width))
                request = self._request(part)
                rows = slice(top - part.top, bottom - part.top)
                for i in range(batch):
                    given = clip[i : i + 1, :, :, part.top : part.bottom].float().contiguous()
                    found = torch.from_numpy(request.infer({0: given.numpy()})[0])
                    logits[i, :, top:bottom] = found[0, :, rows]
        return logits

    def plan(self, height, width):
        """Bands [top, bottom) of rows, as few and as equal as the budget allows."""
        if self.planned[0] != (height, width):
            bands = self._plan(height, width)
            self.programs, self.current = {}, (None, None)
            self.planned = (height, width), bands
        return self.planned[1]

    def _plan(self, height, width):
        rows = range(height)
        parts = [self.folded[0].excerpt((height, width), (r, 0, r + 1, width)) for r in rows]
        tops, bottoms = (np.array(ends) for ends in zip(*(p[0:3:2] for p in parts), strict=True))
        most = self.budget // (self.bytes_per_pixel * width)
        for count in range(1, height + 1):
            edges = height * np.arange(count + 1) // count
            # A band depends on what its first and its last row depend on, and all between.
            if (bottoms[edges[1:] - 1] - tops[edges[:-1]]).max() <= most:
                return [*zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
        needed = int((bottoms - tops).max()) * self.bytes_per_pixel * width
        raise ValueError(
            f"memory budget of {self.budget} bytes: frames {width} pixels wide need {needed} or "
            "more with this engine"
        )

    def _request(self, part):
        """What infers a band. One is kept: each holds the memory of its maps."""
        size = part.bottom - part.top, part.right - part.left
        # With pools a level's maps are enlarged as they lie in whole frames, so by their place.
        key = size, part.top if self.pooled else None
        setting = key, torch.get_num_threads()
        if setting != self.current[0]:
            self.current = None, None  # frees the last one's memory first
            self.current = setting, self._compile(key, part.network, size)
        return self.current[1]

    def _compile(self, key, network, size):
        openvino = import_openvino()
        if key not in self.programs:
            clip = torch.zeros(1, 1, self.seqlen, *size, dtype=torch.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the library about torch
                program = torch.export.export(network, (clip,))
                self.programs[key] = openvino.convert_model(program)
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(self.programs[key], "CPU", options)
        return compiled.create_infer_request()
