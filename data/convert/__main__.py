"""Own footage with labels to a data set that can be trained on, and masks back to labels.

    python -m data.convert clip.mp4 --labels clip.txt --output datasets/mine

writes a data set in NUDT-MIRSDT's layout; see `data.convert.writing` for what is in it, and
`data.convert.targets` for how masks are made of boxes. Train and test on it with `--dataset
Converted --datapath datasets/mine`. The other way,

    python -m data.convert datasets/mine --to coco --output labels

gives the boxes of a data set with masks, or of a detections.csv, in the form of other tools. Boxes
that a data set was made of are given back as they were; else they are those of the masks.
"""

import argparse
import sys
import warnings
from pathlib import Path

from data.convert.boxes import Problems
from data.convert.exports import EXPORTERS
from data.convert.forms import LabelOptions
from data.convert.labels import LABEL_FORMS
from data.convert.lookup import as_numbers
from data.convert.sources import export_labels, open_labelled
from data.convert.writing import DatasetOptions, describe_record, refuse_full, write_converted
from data.saving import told_when_stopped, worker_count

# Options that only a data set needs, not labels (--to).
FOR_DATA_SETS = (
    *("labels", "format", "stride", "split", "seed", "classes", "first_frame", "first_pixel"),
    *("point_size", "no_refine", "workers"),
)


def parse_args(argv=None):
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.convert",
        description="Footage with labels to a data set; with --to, masks or detections to labels.",
    )
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    add = parser.add_argument
    add(
        "source",
        type=Path,
        help="footage, as for test.py --dataset Frames; with --to, footage with masks, a data set "
        "in NUDT-MIRSDT's layout, or a detections.csv",
    )
    add("--output", type=Path, required=True, help="folder to write; must not exist yet")
    add(
        "--labels", type=Path, help="file or folder of labels; the footage's own masks if not given"
    )
    add(
        "--format",
        choices=(*LABEL_FORMS, "masks"),
        help="of the labels; if not given, as their files look",
    )
    add(
        "--stride",
        type=_from(1, "auto"),
        default=1,
        help="keep every so manyth frame; auto: so many that the median target of a sequence moves "
        "about half a pixel a frame [1]",
    )
    add(
        "--split",
        default="0.2",
        help="share of the sequences that goes to the test list, or a text file of their names; of "
        "a single sequence, the share of its frames, the last [0.2]",
    )
    add("--seed", type=_from(0), default=46, help="of the split [46]")
    add("--classes", nargs="+", default=(), help="categories that are targets [all]")
    add(
        "--first_frame",
        type=_from(0, "auto"),
        help="number that the labels give to the first frame; auto: 0, 1 or 2, as they fit [as "
        "their form has it: 1 for MOTChallenge]",
    )
    add(
        "--first_pixel",
        type=int,
        choices=(0, 1),
        default=1,
        help="position of the first pixel in MOTChallenge labels [1]",
    )
    add(
        "--point_size",
        type=_size,
        default=3.0,
        help="side of a target known by a point, pixels [3]",
    )
    add("--no_refine", action="store_true", help="ellipses, not refined by the image")
    add("--skip_bad", action="store_true", help="leave out labels that make no sense")
    add("--workers", type=worker_count, help="threads [one per core]")
    add("--to", choices=EXPORTERS, help="write labels in this form instead of a data set")
    add("--frames", type=Path, help="with --to and a detections.csv: the footage it was made of")
    args = parser.parse_args(argv)
    if args.to is not None:
        ignored = [
            name for name in FOR_DATA_SETS if getattr(args, name) != parser.get_default(name)
        ]
        if ignored:
            parser.error(f"--{ignored[0]} with --to: it is of no use for labels; leave it out")
    elif args.frames is not None:
        parser.error("--frames without --to; expected the footage as the first argument")
    return args


def _from(least, word=None):
    """An argparse type: a whole number of `least` or more, or a word."""
    expected = f"a number from {least}" if word is None else f"{word}, or a number from {least}"

    def convert(text):
        if word is not None and text == word:
            return text
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return int(text)

    return convert


def _size(text):
    """An argparse type: a finite number above 0."""
    numbers = as_numbers([text])
    if numbers is None or numbers[0] <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of pixels above 0")
    return numbers[0]


@told_when_stopped(", nothing written")
def main(argv=None):
    args = parse_args(argv)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    problems = Problems(args.skip_bad)
    try:
        refuse_full(args.output)
        if args.to is not None:
            lines = export_labels(args.source, args.frames, args.to, args.output, problems)
        else:
            options = DatasetOptions(
                args.stride, *_split(args.split), args.seed, not args.no_refine
            )
            labels = LabelOptions(
                args.first_frame,
                args.first_pixel,
                tuple(args.classes),
                args.point_size,
                problems=problems,
            )
            footage = open_labelled(args.source, args.labels, args.format, labels)
            record = write_converted(footage, args.output, options, args.workers)
            lines = describe_record(record, args.output)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if problems.found:
        print(
            f"warning: {len(problems.found)} labels left out; {problems.found[0]}", file=sys.stderr
        )
    if problems.doubts:
        more = len(problems.doubts) - 1
        others = f" (and {more} more)" * (more > 0)
        print(f"warning: {problems.doubts[0]}{others}", file=sys.stderr)
    print("\n".join(lines))


def _split(text):
    """(share, names of the test sequences or None) of the argument --split."""
    try:
        share = float(text)
    except ValueError:
        path = Path(text)
        if not path.is_file():
            raise ValueError(f"--split {text}: expected a share from 0 to 1 or a file") from None
        lines = [line.strip().split("/")[0] for line in path.read_text("utf-8-sig").splitlines()]
        return 0.0, tuple(dict.fromkeys(filter(None, lines)))
    if not 0 <= share <= 1:
        raise ValueError(f"--split {text}: expected a share from 0 to 1 or a file")
    return share, None


if __name__ == "__main__":
    main()
