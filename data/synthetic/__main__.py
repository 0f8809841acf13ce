"""Writes synthetic infrared sequences with small moving targets, in NUDT-MIRSDT's layout.

    python -m data.synthetic --output datasets/synthetic --preset small --seed 46

gives, with masks of 0 and 255 and one pixel per target in `masks_centroid`,

    <output>/Sequence1/{images,masks,masks_centroid}/00001.png ...
    <output>/train.txt, test.txt    one line per frame: Sequence1/images/00001.png
    <output>/snr.csv                one row per sequence: sequence, split, snr, ...
    <output>/synthetic.json         preset and seed; written last, it marks a finished generation

A frame x at time t is what a staring sensor on an unsteady platform records:

    x_t = quantise(g (V_t scene + a sum_k targets_k,t) + o + n_t),

where V_t looks at a scene larger than the frame, blurred by optics and pixel, after slow drift and
per-frame jitter; n is white in time; gain g and offset o are fixed patterns of pixels and columns.
Targets share the platform's jitter. The one factor a sets the sequence's signal-to-noise ratio.

**SNR.** The mean over all frames and visible targets of C / sigma. The peak contrast C is what the
target adds, in grey levels, at its brightest pixel. sigma is the standard deviation of the frame
without targets (but with its noise) in the 21 x 21 pixels around that pixel, cut at the frame's
border, without the targets' masks dilated by 5 x 5. Both are taken from the 8-bit frames with and
without targets, so the value recorded in snr.csv holds what quantisation and clipping left.
A sequence has low SNR if it is at most 3.

**Masks.** A pixel belongs to a target if the target adds at least half of what it adds at its
brightest pixel in that frame; at most the nine brightest, connected to the brightest, and only
while the target's true position lies within the frame.

The same seed and preset give the same bytes, whatever the number of workers. Positions are
(row, column) in pixels, times are in frames.
"""

import argparse
import sys
import warnings

from data.saving import told_when_stopped, worker_count
from data.synthetic.plans import PRESETS
from data.synthetic.writing import write_synthetic


def parse_args(argv=None):
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.synthetic",
        description="Write synthetic infrared sequences with small targets, as NUDT-MIRSDT.",
    )
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    parser.add_argument("--output", required=True, help="folder to write; must not exist yet")
    parser.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)} [small]")
    parser.add_argument("--seed", type=int, default=46, help="[46]")
    parser.add_argument("--workers", type=worker_count, help="processes [one per core]")
    return parser.parse_args(argv)


@told_when_stopped(", nothing written")
def main(argv=None):
    args = parse_args(argv)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        write_synthetic(args.output, args.preset, args.seed, args.workers)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: a worker was killed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
