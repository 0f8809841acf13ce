"""Writes the strong-noise version of a data set, or of own footage, as NUDT-MIRSDT-HiNo.

    python -m data.noise --dataset NUDT-MIRSDT

reads ./datasets/NUDT-MIRSDT and writes, as the published set is named,
./datasets/NUDT-MIRSDT-Noise/NUDT-MIRSDT-Noise8.0_FJY(g0.15-o1.3). See `data.noise.model` for the
noise and `data.noise.writing` for what is written. Done, it prints the law that the variance of the
written frames follows, beside that of the published set's one known frame. The same seed gives the
same bytes, whatever the number of workers. An interrupted call is continued by the same call.
"""

import argparse
import os
import shlex
import sys
import warnings
from pathlib import Path

from data.lists import prepare
from data.noise.model import DISTRIBUTIONS, PATTERNS, PUBLISHED_LAW, StrongNoise
from data.noise.writing import write_noisy
from data.saving import told_when_stopped, worker_count
from data.specs import DATASETS, get_spec


def parse_args(argv=None):
    """Arguments of the command line."""
    usual = StrongNoise()
    parser = argparse.ArgumentParser(
        prog="python -m data.noise",
        description="Write the strong-noise version of a data set, as NUDT-MIRSDT-HiNo.",
    )
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    add = parser.add_argument
    add("--dataset", required=True, help=f"one of {', '.join(DATASETS)}; Frames: own footage")
    add("--datapath", type=Path, help="the clean data set [./datasets/DATASET]")
    add("--output", type=Path, help="folder to write [NAME-Noise/NAME-Noise8.0_FJY(g0.15-o1.3)]")
    add(
        "--sigma",
        type=float,
        default=usual.sigma,
        help=f"standard deviation of the noise, grey levels [{usual.sigma}]",
    )
    add("--gain", type=float, default=usual.gain, help=f"parameter of the gain [{usual.gain}]")
    add(
        "--offset",
        type=float,
        default=usual.offset,
        help=f"standard deviation of the offset, grey levels [{usual.offset}]",
    )
    add(
        "--pattern",
        choices=PATTERNS,
        default=usual.pattern,
        help="gain and offset: one for a sequence, or new in each frame; which of them the "
        f"published set has is not known [{usual.pattern}]",
    )
    add(
        "--distribution",
        choices=DISTRIBUTIONS,
        default=usual.distribution,
        help=f"of the gain; the published frame fits uniform [{usual.distribution}]",
    )
    add("--seed", type=int, default=usual.seed, help=f"[{usual.seed}]")
    add("--workers", type=worker_count, help="threads [one per core]")
    return parser.parse_args(argv)


@told_when_stopped("; the same command continues")
def main(argv=None):
    args = parse_args(argv)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        noise = StrongNoise(
            args.sigma, args.gain, args.offset, args.pattern, args.distribution, args.seed
        )
        spec = get_spec(args.dataset)
        root = Path(os.path.normpath(args.datapath or f"datasets/{args.dataset}"))
        listed = spec.test is not None  # else it is own footage
        if listed:
            prepare(spec, root)
        name = spec.name if listed else root.stem
        version = noise.folder_name(name)
        output = args.output or root.parent / f"{name}-Noise" / version
        measured = write_noisy(spec, root, output, noise, args.workers)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: a worker was killed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{output}: {noise.pattern} pattern, {noise.distribution} gain, seed {noise.seed}")
    print("  variance at grey level I, over all pixels in which nothing is clipped")
    print(f"    as written    {measured or 'not measurable: all grey levels are near an end'}")
    print(f"    as expected   {noise.law()}")
    print(f"    as published  {PUBLISHED_LAW}, one frame of NUDT-MIRSDT-HiNo")
    dataset = version if listed else spec.name
    words = ["python", "test.py", "--dataset", dataset, "--datapath", str(output)]
    print(f"  test a run on it: {shlex.join(words)} --log_dir RUN")


if __name__ == "__main__":
    main()
