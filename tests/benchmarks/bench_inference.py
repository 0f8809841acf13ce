"""Speed and memory of the fast engine against the network as trained.

python -m tests.benchmarks.bench_inference [--size 256x256] [--precision fp32] [--device cpu]
python -m tests.benchmarks.bench_inference --memory [--size 480x720]    peaks, in fresh processes
python -m tests.benchmarks.bench_inference --complexity                 parameters and operations
python -m tests.benchmarks.bench_inference --peers [--size 256x256]     beside other libraries

Speeds are medians of runs that alternate between the two, after a warm-up; the peak of a matrix
product is measured between them. On a CPU, `--threads 1 --clock cpu` counts the thread's own time,
which other programs on the machine disturb less. A clip has as many frames as the detector takes;
detectors without a fast engine are measured where --model names them.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from functools import partial

import torch

from models import MODELS, build_model
from models.engine.precision import PRECISIONS
from models.fused import fuse
from tests.benchmarks.peers import NEEDS, print_peers
from tests.builders import STAGED
from utils.complexity import complexity
from utils.scan import run_clip


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--model",
        choices=MODELS,
        action="append",
        help="these only; all with a fast engine by default",
    )
    add("--size", default="256x256", help="HEIGHTxWIDTH")
    add("--precision", choices=PRECISIONS, default="fp32")
    add("--force", action="store_true", help="use the precision where it is only emulated, too")
    add("--device", default="cpu")
    add("--budget", help="memory budget of the fast engine")
    add("--repeats", type=int, default=7)
    add("--threads", type=int, help="of the CPU")
    add("--clock", choices=("wall", "cpu"), default="wall")
    add("--memory", action="store_true", help="peak memory instead of speed")
    add("--engines", default="fast,reference", help="with --memory: whose peaks")
    add("--complexity", action="store_true", help="parameters and operations instead of speed")
    words = "OpenVINO, ONNX Runtime, torch.compile and the network as trained beside it, or these"
    add("--peers", nargs="*", choices=NEEDS, help=words)
    add("--peak-of", choices=("fast", "reference", "nothing"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    names = args.model or (list(MODELS) if args.complexity else STAGED)
    height, width = (int(side) for side in args.size.split("x"))
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak_of:
        run_once(names[0], args.peak_of, height, width, args)
    elif args.memory:
        print_peaks(names, args)
    elif args.complexity:
        print_complexity(names)
    elif args.peers is not None:
        print_peers(names, args.size, args.repeats, args.peers or list(NEEDS))
    else:
        print_speeds(names, height, width, args)


def engines(name, args):
    """(reference, fast): callables on a clip."""
    model = build_model(name).eval().to(args.device)
    fast = fuse(model, args.precision, args.budget, force_precision=args.force)
    return tuple(partial(run, network) for network in (model, fast))


@torch.no_grad()
def run(network, clip):
    return run_clip(network, clip, network)


def random_clip(name, height, width, args):
    return torch.randn(1, 1, build_model(name).seqlen, height, width, device=args.device)


def print_speeds(names, height, width, args):
    factors = torch.randn(2, 2048, 2048, device=args.device)
    print(f"{args.device}, {torch.get_num_threads()} threads, {height}x{width}, {args.precision}")
    print(f"{'':28}{'reference':>10}{'fast':>10}{'ratio':>8}{'GMAC/s':>8}{'of peak':>9}")
    for name in names:
        clip, model = random_clip(name, height, width, args), build_model(name)
        frames = model.seqlen if model.predicts == "all" else 1
        products = complexity(model, height, width).products / 1e9
        jobs = {"peak": lambda _: factors[0] @ factors[1]}
        jobs["reference"], jobs["fast"] = engines(name, args)
        seconds = {job: [] for job in jobs}
        for i in range(args.repeats + 1):
            for job, call in jobs.items():
                elapsed = timed(call, clip, args)
                if i:  # the first is the warm-up
                    seconds[job].append(elapsed)
        median = {job: statistics.median(values) for job, values in seconds.items()}
        ratio = median["reference"] / median["fast"]
        rate = products * frames / median["fast"]
        peak = 2048**3 / median["peak"] / 1e9
        print(
            f"{name:28}{frames / median['reference']:10.2f}{frames / median['fast']:10.2f}"
            f"{ratio:7.1f}x{rate:8.1f}{rate / peak:9.0%}",
            flush=True,
        )
    print("reference and fast in predicted frames per second")
    print("peak: float32 product of matrices of 2048x2048")


def timed(call, clip, args):
    clock = time.thread_time if args.clock == "cpu" else time.perf_counter
    cuda = torch.device(args.device).type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    call(clip)
    if cuda:
        torch.cuda.synchronize()
    return clock() - start


def print_peaks(names, args):
    print(f"peak memory of a process with one clip of {args.size}")
    for name in names:
        peaks = {}
        for engine in args.engines.split(","):
            command = [sys.executable, "-m", "tests.benchmarks.bench_inference"]
            command += ["--model", name, "--size", args.size, "--peak-of", engine]
            command += ["--precision", args.precision, "--device", args.device]
            command += ["--budget", args.budget] if args.budget else []
            command += ["--force"] if args.force else []
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            peaks[engine] = int(output.split()[-1])
        text = ", ".join(f"{engine} {peak / 1e9:.2f} GB" for engine, peak in peaks.items())
        print(f"{name:28}{text}", flush=True)


def run_once(name, engine, height, width, args):
    """Runs one clip and prints the peak: of the process, or of the GPU's memory."""
    calls = dict(zip(("reference", "fast"), engines(name, args), strict=True))
    if engine != "nothing":
        calls[engine](random_clip(name, height, width, args))
    if torch.device(args.device).type == "cuda":
        print(torch.cuda.max_memory_allocated())
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def print_complexity(names):
    print(f"{'at 480x720':28}{'parameters':>11}{'KiB':>7}{'GMAC/frame':>12}{'with BatchNorm':>16}")
    for name in names:
        cost = complexity(build_model(name))
        print(
            f"{name:28}{cost.parameters:11}{cost.kib:7.0f}{cost.products / 1e9:12.2f}"
            f"{cost.with_norms / 1e9:16.3f}"
        )


if __name__ == "__main__":
    main()
