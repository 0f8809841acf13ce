"""The fast engine beside the libraries that one would pick instead; `bench_inference --peers`.

Each runs the same network in a process of its own, which waits while another has its turn:

    reference   the network as trained
    fast        `models.fused.fuse`
    openvino    the exported ONNX file in float32, on a CPU, its shape fixed
    onnxruntime the same file
    compile     torch.compile of the folded network

A library that is missing is named and left out: pip install openvino onnxruntime. On a processor
with AVX-512, `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` holds torch and OpenVINO to AVX2;
nothing holds ONNX Runtime.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from models import build_model
from models.export import export_model
from models.folding import fold
from models.fused import fuse
from models.openvino import import_openvino
from tests.builders import perturb
from utils.complexity import complexity

PAUSE = 0.5  # seconds, in which the threads of the one before stop waiting for more work
NEEDS = {  # the libraries, and the package of each
    "reference": None,
    "fast": None,
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "compile": None,
}


def print_peers(names, size, repeats, peers):
    """Prints the table of one size.

    Args:
        names: of `models.MODELS`.
        size: "HEIGHTxWIDTH".
        repeats: rounds that count; one more warms up.
        peers: of `NEEDS`.
    """
    needed = [NEEDS[peer] for peer in peers if NEEDS[peer]]
    missing = [package for package in needed if not find_spec(package)]
    for package in missing:
        print(f"{package} is not installed: left out; pip install {package}")
    peers = [peer for peer in peers if NEEDS[peer] not in missing]
    print(f"{size}, {torch.get_num_threads()} threads, float32")
    print(
        f"{'':28}{'':12}{'seconds':>9}{'spread':>14}{'GMAC/s':>8}{'of peak':>9}{'peak GB':>9}"
        f"{'from reference':>16}"
    )
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            _print_peers_of(name, size, repeats, peers, Path(folder))


def _print_peers_of(name, size, repeats, peers, folder):
    torch.manual_seed(46)
    model = perturb(build_model(name))
    torch.save(model.state_dict(), folder / "weights.pt")
    if any(NEEDS[peer] for peer in peers):
        export_model(model, folder / "network.onnx")
    height, width = map(int, size.split("x"))
    products = complexity(model, height, width).products / 1e9
    products *= model.seqlen if model.predicts == "all" else 1
    processes = {peer: _Peer(peer, name, size, folder) for peer in peers}
    try:
        seconds, peaks = {peer: [] for peer in peers}, []
        factors = torch.randn(2, 2048, 2048)
        for i in range(repeats + 1):
            for peer, process in processes.items():
                time.sleep(PAUSE)
                found = process.turn()
                if i:
                    seconds[peer].append(found)
            start = time.perf_counter()
            factors[0] @ factors[1]
            peaks.append(2048**3 / (time.perf_counter() - start) / 1e9)
        peak = statistics.median(peaks[1:])
        scores = {}
        for peer, process in processes.items():
            memory = process.end()
            scores[peer] = np.load(folder / f"{peer}.npy")
            median = statistics.median(seconds[peer])
            rate = products / median
            away = np.abs(scores[peer] - scores[peers[0]]).max()
            print(
                f"{name:28}{peer:12}{median:9.3f}"
                f"{min(seconds[peer]):7.2f} to{max(seconds[peer]):5.2f}"
                f"{rate:7.1f}{rate / peak:9.0%}{memory / 1e9:9.2f}{away:16.1e}",
                flush=True,
            )
    finally:
        for process in processes.values():
            process.kill()


class _Peer:
    """One library in its own process, which runs a clip whenever it is asked to."""

    def __init__(self, peer, name, size, folder):
        command = [sys.executable, "-m", "tests.benchmarks.peers", peer, name, size, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self):
        return float(self._ask("run"))

    def end(self):
        """Ends the process; its peak memory in bytes."""
        return int(self._ask("end"))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()

    def _ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("= "):
                return line[2:]
        raise RuntimeError(f"{' '.join(self.process.args)} ended before its turn")


def serve(peer, name, size, folder):
    """What the process of a peer does."""
    height, width = map(int, size.split("x"))
    model = build_model(name)
    model.load_state_dict(torch.load(folder / "weights.pt"))
    model.eval()
    torch.manual_seed(47)
    clip = torch.randn(1, 1, model.seqlen, height, width)
    call = PEERS[peer](model, clip, folder)
    scores = None
    for line in sys.stdin:
        if line.strip() == "end":
            break
        start = time.perf_counter()
        logits = call()
        elapsed = time.perf_counter() - start
        if scores is None:
            scores = torch.sigmoid(torch.as_tensor(logits))
            np.save(folder / f"{peer}.npy", scores.numpy())
        print(f"= {elapsed}", flush=True)
    print(f"= {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}", flush=True)


def _reference(model, clip, folder):
    return lambda: _run(model, clip)


def _fast(model, clip, folder):
    fast = fuse(model)
    return lambda: _run(fast, clip)


def _compile(model, clip, folder):
    compiled = torch.compile(fold(model))
    return lambda: _run(compiled, clip)


@torch.no_grad()
def _run(network, clip):
    return network(clip)


def _openvino(model, clip, folder):
    core = import_openvino().Core()
    network = core.read_model(folder / "network.onnx")
    network.reshape(list(clip.shape))
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    values = clip.numpy()
    return lambda: request.infer({0: values})[0]


def _onnxruntime(model, clip, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(folder / "network.onnx"), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: clip.numpy()}
    return lambda: session.run(None, feed)[0]


PEERS = {
    "reference": _reference,
    "fast": _fast,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "compile": _compile,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for argument in ("peer", "name", "size"):
        parser.add_argument(argument)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    serve(args.peer, args.name, args.size, args.folder)
