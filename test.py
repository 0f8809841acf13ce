"""Tests a run: stitched scores of a data set's test list, Pd, Fa, AUC and IoU."""

import math
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data.frames import read_snr
from data.specs import get_spec
from models import MODELS, build_model
from models.engine.precision import PRECISIONS
from models.export import export_model
from models.fused import fuse
from utils.attribution.gradient_times_input import Attributions
from utils.checkpoint import load, load_weights
from utils.command_line import CommandParser, choose_device, fraction, positive, run_command
from utils.evaluation import PROTOCOLS, evaluate_sequences
from utils.memory import keep_freed_memory
from utils.process import Group
from utils.report.detections import COORDINATE_ORDERS
from utils.report.highlights import Highlights
from utils.report.page import write_report
from utils.report.results import (
    summarise,
    summary_lines,
    timing_block,
    timing_line,
    write_eval,
    write_metrics,
)
from utils.report.writers import EXPORTS, Detections, Normalisations, Pictures
from utils.run_dir import find_model_name, find_run, included_run, make_folder


def parse_args(argv=None):
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add(
        "--log_dir",
        help="the run: a folder's name under LOGPATH/sem_seg. If not given, for --dataset "
        "Synthetic, the run that comes with this code",
    )
    add("--logpath", default="./log/", help="where runs lie")
    add("--epoch", type=int, help="test the numbered checkpoint of this epoch, not the best")
    add("--dataset", default="NUDT-MIRSDT", help="name of the data set; Frames for own footage")
    add(
        "--datapath",
        help="the data set's folder; ./datasets/DATASET if not given. For Frames: a folder of "
        "images (or with images/ and optionally masks/), a folder of such folders, a multi-page "
        "TIFF, a GIF, a .npy or .npz array (T, H, W), or a video",
    )
    add("--mean", type=float, help="of the grey levels; with --std, in place of the data set's")
    add("--std", type=float, help="of the grey levels; with --mean")
    add(
        "--normalise-as",
        metavar="DATASET",
        help="take mean and std of this data set. Own footage is normalised by its own otherwise, "
        "sequence by sequence",
    )
    add(
        "--seqlen",
        type=positive(int),
        default=40,
        help="frames of a clip, the checkpoint's",
    )
    add("--batch_size", type=positive(int), default=1, help="windows fed at once")
    add("--gpu", default="0", help="index of the GPU, or cpu")
    add(
        "--threshold_eval",
        type=fraction,
        default=0.5,
        help="score threshold of IoU, pictures and detections",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="hit1_guard4",
        help="protocol of eval.txt and pictures",
    )
    add("--engine", choices=ENGINES, default="fast", help="fast, or the network as trained")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the network; scores are fp32")
    add("--memory", help="the network's working memory, such as 1GiB; chosen if not given")
    add(
        "--output",
        type=Path,
        help="where results go; if not given, the run's folder, or LOGPATH/tests/DATASET for the "
        "run that comes with this code",
    )
    add("--visual", action="store_true", help="write score maps and animated overlays")
    add(
        "--attribution",
        action="store_true",
        help="write to attribution/, for each sequence with a target or detection, what the logit "
        "of one target pixel rests on: gradient times input of each frame of its clip, beside the "
        "pixel's grey level and score",
    )
    add("--export", choices=EXPORTS, help="write a text file of centroids for each sequence")
    add(
        "--coordinate-order",
        choices=COORDINATE_ORDERS,
        default="rowcol",
        help="of the export: the published tool writes row, column; the guide of the challenge "
        "says horizontal, vertical, which is xy",
    )
    add("--export_model", type=Path, metavar="FILE", help="write FILE.pt2 or FILE.onnx and end")
    args = parser.parse_args(argv)
    if args.datapath is None:
        args.datapath = f"./datasets/{args.dataset}"
    return args


# What the best checkpoint was selected on, by train.py's --select.
SELECTED = {"test": "test list, as published", "heldout": "held-out training sequences"}


def fast_engine(model, precision, memory):
    """The folded network, run band by band within the memory budget."""
    return fuse(model, precision, memory)


def reference_engine(model, precision, memory):
    """The network as trained: the definition."""
    if precision != "fp32" or memory is not None:
        raise ValueError("--engine reference: takes neither --precision nor --memory")
    return model


ENGINES = {"fast": fast_engine, "reference": reference_engine}


def main(args):
    spec = get_spec(args.dataset)
    normalisation = choose_normalisation(args.mean, args.std, args.normalise_as)
    if args.log_dir is None:
        run, results = included_run(args.dataset), Path(args.logpath) / "tests" / args.dataset
    else:
        run = find_run(args.logpath, args.log_dir)
        results = run.path
    name, model = load_run(run, args.epoch, args.seqlen)
    if args.export_model is not None:
        print(f"{export_model(model, args.export_model)} written: clips of {args.seqlen} frames")
        return
    device = choose_device(args.gpu)
    if device.type == "cpu" and args.engine == "reference":
        keep_freed_memory()
    output = make_folder(args.output or results)
    evaluate_run(
        name,
        ENGINES[args.engine](model.to(device), args.precision, args.memory),
        spec,
        args.datapath,
        output,
        run_name=run.name,
        seqlen=args.seqlen,
        batch_size=args.batch_size,
        device=device,
        threshold=args.threshold_eval,
        protocol=args.protocol,
        normalisation=normalisation,
        visual=args.visual,
        export=args.export,
        order=args.coordinate_order,
        attributed=model if args.attribution else None,
        suffix="" if args.epoch is None else f"_epoch-{args.epoch}",
    )


def choose_normalisation(mean, std, dataset):
    """(mean, std) that the command line asks for; None if it leaves them to the data set.

    Raises:
        ValueError: only one of mean and std is given, std is not positive, or the data set named
            has no values of its own.
    """
    if (mean is None) != (std is None):
        given, missing = ("--mean", "--std") if std is None else ("--std", "--mean")
        raise ValueError(f"{given} without {missing}; expected both or neither")
    if mean is not None and dataset is not None:
        raise ValueError("--mean and --std with --normalise-as; expected one or the other")
    if dataset is not None:
        spec = get_spec(dataset)
        if spec.mean is None:
            raise ValueError(f"--normalise-as {dataset}: it has no mean and std of its own")
        mean, std = spec.mean, spec.std
    if mean is None:
        return None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"--mean {mean} --std {std}: expected finite numbers, std above 0")
    return mean, std


def load_run(run, epoch, seqlen):
    """A run's network with the weights of its best or a numbered checkpoint: (name, model)."""
    path = run.checkpoint("best" if epoch is None else epoch)
    state = load(path)
    name = find_model_name(run, state.get("args"), MODELS)
    model = build_model(name, seqlen)
    load_weights(model, state, name, path)
    selected = (state.get("args") or {}).get("select")
    if selected is not None:
        print(f"{path}: epoch {state['epoch'] + 1}, selected on the {SELECTED[selected]}")
    return name, model.eval()


def evaluate_run(
    model_name,
    detector,
    spec,
    datapath,
    output,
    *,
    run_name,
    seqlen,
    batch_size,
    device,
    threshold,
    protocol="hit1_guard4",
    normalisation=None,
    visual=False,
    export=None,
    order="rowcol",
    suffix="",
    group=None,
    attributed=None,
):
    """Tests a detector on the test list of a data set, or own footage; writes results to `output`.

    Where there are masks: eval<suffix>.txt, metrics<suffix>.json, report<suffix>.html, and with
    `visual` score maps and overlays. For own footage detections<suffix>.csv, and score maps and
    overlays of what has no masks. Prints the closing summary.

    Args:
        normalisation: (mean, std) in place of the data set's, or None.
        export: one of `EXPORTS`, or None; `order` is that of the coordinates in it.
        attributed: the network whose logits are attributed to the frames, or None.
        group: a `utils.process.Group` whose processes share the sequences; the main one writes.

    Returns:
        The contents of metrics.json, or None where nothing has masks.
    """
    group = group or Group()
    sequences = spec.open(spec, datapath, seqlen, normalisation)
    judged = (threshold, *PROTOCOLS[protocol], spec.first_frame)
    table = output / f"detections{suffix}.csv" if spec.lists_detections else None
    centroids = output / f"centroids{suffix}" if export == "centroids" else None
    detections = Detections(table, threshold, spec.first_frame, centroids, order)
    pictures = Pictures(output / "visual", *judged, unlabelled_only=not visual)
    highlights, normalisations = Highlights(*judged), Normalisations(sequences)
    outputs = [detections, pictures, highlights, normalisations]
    attribution = output / "attribution" if attributed is not None else None
    if attribution:
        details = (attributed, sequences, attribution, device, threshold, spec.first_frame)
        outputs.append(Attributions(*details))

    def on_scores(sequence, scores):
        for write in outputs:
            write(sequence, scores)

    evaluation = evaluate_sequences(
        detector,
        sequences.share(group.shard),
        threshold,
        device,
        batch_size=batch_size,
        on_scores=on_scores,
        progress=partial(tqdm, desc="Testing", unit="sequence", disable=None),
        gather=group.gather,
    )
    highlights.merge(group.gather([highlights.kept]))
    if not group.is_main:
        return None
    metrics, summary = None, [f"  {timing_line(timing_block(evaluation.timing))}"]
    written = [path for path in (table, centroids, attribution) if path]
    written += [output / "visual"] if pictures.count else []
    if evaluation.sequences:
        subsets = read_snr(spec, datapath, [result.name for result in evaluation.sequences])
        metrics = summarise(evaluation, subsets, run_name, model_name, spec.name, seqlen, threshold)
        summary = summary_lines(metrics)
        written += write_results(
            output, suffix, metrics, highlights.strips, protocol=protocol, threshold=threshold
        )
    if table:
        found = f"{detections.count} detections at threshold {threshold}"
        summary.append(f"  {found}; grey levels normalised by {normalisations.line()}")
    print("\n".join(summary))
    print(f"  written to {output}: {', '.join(path.name for path in written)}")
    return metrics


def write_results(output, suffix, metrics, strips, *, protocol, threshold):
    """Writes what a metrics.json is shown in, and itself; returns the paths."""
    paths = [
        output / f"{stem}{suffix}.{kind}"
        for stem, kind in (("eval", "txt"), ("metrics", "json"), ("report", "html"))
    ]
    write_eval(paths[0], metrics, protocol)
    write_metrics(paths[1], metrics)
    write_report(paths[2], metrics, strips, protocol, threshold)
    return paths


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
