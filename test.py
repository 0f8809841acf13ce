"""Tests a run: final scores of a data set's test list, Pd, Fa, AUC and IoU."""

from argparse import BooleanOptionalAction
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from data.formats.encoder import VideoFile, check_encoder
from data.lists import read_snr
from data.live.sequence import open_live
from data.live.streams import LEVELS, is_live
from data.record import recorded_levels
from data.specs import FOOTAGE, choose_normalisation, get_spec
from models import MODELS, build_model
from models.engine.precision import PRECISIONS
from models.export import export_model
from models.fused import fuse, run_as_trained
from models.openvino import compile_openvino
from models.registration import follow_view
from utils.attribution.figures import draw_influence_of
from utils.attribution.writer import Attributions, add_attribution_options, attribution_options
from utils.checkpoint import load_averaged, load_weights
from utils.command_line import (
    CommandParser,
    add_normalisation,
    fraction,
    frame_size,
    hushed,
    output_ended,
    positive,
    run_command,
)
from utils.compare.joint import joint_table
from utils.compare.published_table import published_table
from utils.efficiency import efficiency_line, measure_efficiency
from utils.evaluation import Evaluator
from utils.launcher import relaunch
from utils.process import StopRequest, choose_device, is_launched, joined_group, keep_freed_memory
from utils.protocols import MAIN, PROTOCOLS, choose
from utils.report.detections import COORDINATE_ORDERS
from utils.report.highlights import Highlights
from utils.report.results import (
    Tested,
    figures_and_summary,
    header,
    keep_finished,
    results_in,
    write_results,
)
from utils.report.writers import (
    EXPORTS,
    Detections,
    Normalisations,
    Overlays,
    Printed,
    ScoreMaps,
    Surfaces,
    live_line,
)
from utils.run_dir import check_apart, find_included, find_model_name, find_runs, make_folder
from utils.scan import Stabiliser, open_scan
from utils.tracks.options import USUAL_RATE, add_track_options, check_track_options, track_options
from utils.tracks.reach import reach_of
from utils.tracks.video import OverlayVideos
from utils.tracks.writer import Tracks
from utils.training.description import describe


def parse_args(argv=None):
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add(
        "--log_dir",
        nargs="+",
        metavar="RUN",
        help="the run: a folder's name under LOGPATH/sem_seg. Of several, each is tested, and a "
        "table of all ends the test. If not given, for Synthetic, Frames and Converted, a run that "
        "comes with this code",
    )
    add("--weights", type=Path, metavar="FILE", help="a file of weights, instead of a run")
    add("--model", choices=MODELS, help="the network of WEIGHTS, or of a run that does not tell")
    add("--logpath", default="./log/", help="where runs lie")
    add("--epoch", type=int, help="test the numbered checkpoint of this epoch, not the best")
    add("--dataset", default="NUDT-MIRSDT", help="name of the data set; Frames for own footage")
    add(
        "--datapath",
        help="the data set's folder; ./datasets/DATASET if not given. For Frames: a folder of "
        "images (or with images/ and optionally masks/), a folder of such folders, a multi-page "
        "TIFF, a GIF, a .npy or .npz array (T, H, W), or a video; - for raw frames from a pipe, a "
        "camera's device or an rtsp:// address: detections are printed as they come",
    )
    add("--size", type=frame_size, metavar="HEIGHTxWIDTH", help="of the frames of --datapath -")
    add("--bits", type=int, choices=LEVELS, default=8, help="of a pixel of --datapath -")
    add_normalisation(
        add,
        ". If none is given: what the run was trained with on this data set, or the data set's "
        "own; own footage by its own, sequence by sequence",
    )
    add("--seqlen", type=positive(int), help="frames of a clip; the checkpoint's if not given")
    add("--batch_size", type=positive(int), default=1, help="clips fed at once")
    add("--gpu", default="0", help="index of the GPU, or cpu")
    add("--gpu_num", type=positive(int), default=1, help="how many GPUs, one process each")
    words = "score threshold of IoU, pictures and detections"
    add("--threshold_eval", type=fraction, default=0.5, help=words)
    add(
        "--protocol",
        nargs="+",
        choices=PROTOCOLS,
        default=[MAIN],
        metavar="NAME",
        help="protocols to count by, beside the two published ones; the first is that of eval.txt "
        "and pictures. One of: "
        + "; ".join(f"{name} ({protocol.title})" for name, protocol in PROTOCOLS.items()),
    )
    add(
        "--engine",
        choices=ENGINES,
        default="fast",
        help="fast; reference: the network as trained; openvino: by that package, on a CPU",
    )
    add("--precision", choices=PRECISIONS, default="fp32", help="of the network; scores are fp32")
    words = "of a moving camera: lay a clip's frames together; the included run for footage does"
    add("--stabilise", action=BooleanOptionalAction, help=words)
    add("--memory", help="the network's working memory, such as 1GiB; chosen if not given")
    add(
        "--output",
        type=Path,
        help="where results go; if not given, the run's folder (of another data set, a folder in "
        "it), or LOGPATH/tests/DATASET for the run that comes with this code and for WEIGHTS. Of "
        "several runs each gets a folder in it",
    )
    add(
        "--efficiency",
        nargs="?",
        type=frame_size,
        const=(480, 720),
        metavar="HEIGHTxWIDTH",
        help="also measure what each detector costs at frames of this size, 480x720 if not given, "
        "and end with the published tables anew, ours beside the quoted numbers",
    )
    add("--visual", action="store_true", help="write score maps and animated overlays")
    add("--no-overlay", action="store_true", help="write no animated overlays")
    numbers = {"type": int, "nargs": "+", "metavar": "FRAME"}
    add("--surface", **numbers, help="draw the scores of the frames of these numbers as surfaces")
    add_attribution_options(add)
    add_track_options(add)
    add("--overlay_video", action="store_true", help="write visual/*.mp4 with trails of tracks")
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
    if args.log_dir is not None and args.weights is not None:
        parser.error("--weights with --log_dir; expected one or the other")
    if args.weights is not None and args.model is None:
        parser.error("--weights without --model; expected the network's name beside it")
    if args.epoch is not None and (args.weights is not None or without_run(args)):
        parser.error("--epoch without a run; expected --log_dir, whose checkpoints are numbered")
    if args.export_model is not None and (args.precision != "fp32" or len(args.log_dir or ()) > 1):
        parser.error("--export_model with several runs or --precision; expected one run, in fp32")
    args.live = args.datapath is not None and args.dataset == FOOTAGE and is_live(args.datapath)
    if args.live and (args.visual or args.attribution or len(args.log_dir or ()) > 1):
        parser.error("--datapath of live frames with --visual, --attribution or several runs")
    if (args.size is not None or args.bits != 8) and not args.live:
        parser.error("--size or --bits without --dataset Frames --datapath -; files tell their own")
    if args.stabilise and args.attribution:
        parser.error("--attribution with --stabilise: it explains frames as they were filmed")
    check_track_options(parser.error, args)
    if args.overlay_video:
        check_encoder()  # before anything is computed
    if args.datapath is None:
        args.datapath = f"./datasets/{args.dataset}"
    return args


ENGINES = {"fast": fuse, "reference": run_as_trained, "openvino": compile_openvino}


def main(args, group=None):
    """Tests what the arguments name; `group` is that of a training that ends with this test."""
    if args.gpu_num > 1 and not is_launched():
        relaunch(args.gpu_num)
    spec = get_spec(args.dataset)
    normalisation = choose_normalisation(args.mean, args.std, args.normalise_as)
    if args.export_model is not None:
        (tested,) = open_tested(args)
        with hushed():  # torch prints what it could not follow
            written = export_model(tested.detector, args.export_model)
        print(f"{written} written: clips of {tested.detector.seqlen} frames")
        return
    with joined_group(args.gpu, group) as group, StopRequest(args.live, output_ended) as stop:
        device = choose_device(args.gpu, group)
        if args.efficiency and group.size > 1:
            raise ValueError(f"--efficiency with {group.size} processes; expected one, alone")
        if spec.test is None and args.output is not None:
            check_apart(args.output, args.datapath)
        if len(args.log_dir or ()) > 1:
            for _ in open_tested(args, quiet=True):
                pass  # none is tested where another cannot be
        table = []
        for tested in open_tested(args, quiet=not group.is_main):
            levels = normalisation or tested.normalisation
            if args.live:
                form = args.size, args.bits, levels, stop.arrived
                sequences = open_live(args.datapath, *form)
            else:
                sequences = spec.open(spec, args.datapath, levels)
            with results_in(tested.folder, group.is_main, suffix_of(args)) as files:
                metrics, error = run_test(args, spec, tested, sequences, device, group, files)
            group.barrier()  # until what was finished is written
            if error is not None:
                raise error
            table += [] if metrics is None else [metrics]
    if len(table) > 1:
        print("\n".join(joint_table(table)))
        if args.attribution:
            place = make_folder(args.output or Path(args.logpath) / "tests" / args.dataset)
            draw_influence_of(place / "influence.png", table)
            print(f"  written to {place}: influence.png")
    if args.efficiency and table:
        print("\n".join(published_table(table)))


def open_tested(args, quiet=False):
    """Yields what the arguments name, each a `Tested`, opened when it is its turn."""
    tests = Path(args.logpath) / "tests"
    if args.weights is not None:
        folder = args.output or tests / f"{args.dataset}_{args.weights.stem}"
        yield open_checkpoint(args, args.weights, args.weights.stem, args.model, folder)
        return
    if without_run(args):
        folder = args.output or tests / f"{args.dataset}_{args.model}"
        model = build_model(args.model, args.seqlen)
        yield Tested(args.model, args.model, model.eval(), folder, stabilise=bool(args.stabilise))
        return
    results = tests / args.dataset if args.log_dir is None else None
    runs = find_runs(args.logpath, args.log_dir, args.dataset, args.output)
    included = find_included(runs, args.dataset)
    if included is not None:
        included.complete(args)
        if not quiet:
            print(included.line(args))
    for run in runs:
        folder = args.output or results
        if args.output is not None and len(runs) > 1:
            folder = args.output / run.name
        path = run.checkpoint("best" if args.epoch is None else args.epoch)
        yield open_checkpoint(args, path, run.name, args.model, folder, run=run, quiet=quiet)


def without_run(args):
    """Whether the model alone is to be tested: a filter, which learns nothing and needs no run."""
    if args.log_dir is not None or args.model is None:
        return False
    return next(build_model(args.model).parameters(), None) is None


def open_checkpoint(args, path, title, name, folder, run=None, quiet=True):
    """The `Tested` of a checkpoint; `name` and `folder` may be left to the run to tell."""
    state, spec = load_averaged(path), get_spec(args.dataset)
    found = describe(state)
    if name is None:
        name = find_model_name(run, found.args, MODELS)
    seqlen = args.seqlen or MODELS[name].clip_length(found.weights)
    model = build_model(name, seqlen)
    load_weights(model, state, name, path)
    own = found.is_own(args.dataset, args.datapath, recorded_levels(spec, args.datapath))
    folder = folder or run.results(*found.results(args.dataset, args.datapath, own))
    lines = [found.selected, None if own else found.other_data(args.dataset, folder)]
    if any(lines) and not quiet:
        print("\n".join(f"{path}: {line}" for line in lines if line is not None))
    normalisation = found.normalisation(path) if own else None
    return Tested(title, name, model.eval(), folder, normalisation, bool(args.stabilise))


def run_test(args, spec, tested, sequences, device, group, files):
    """Tests one detector on the sequences; writes results and prints the closing summary.

    Where there are masks: eval<suffix>.txt, metrics<suffix>.json, report<suffix>.html, and with
    --visual score maps and overlays. For own footage detections<suffix>.csv, and score maps and
    overlays of what has no masks. `files` hears of all that are written, in any process.

    Returns:
        (the contents of metrics.json; None where nothing has masks, and of all processes but the
        main one; what ended the test early in this process, once what was finished is written).
    """
    detector = tested.detector.to(device)
    as_trained = args.engine == "reference" or args.attribution or detector.stages() is None
    if device.type == "cpu" and as_trained:
        keep_freed_memory()
    network = ENGINES[args.engine](detector, args.precision, args.memory)
    stabiliser = Stabiliser(follow_view) if tested.stabilise else None
    scan = open_scan(detector, network, device, args.batch_size, stabiliser)
    subsets = read_snr(spec, args.datapath, [each.name for each in sequences if each.labelled])
    writers = open_writers(args, spec, tested, device)
    judged = choose(args.protocol), args.threshold_eval
    evaluator = Evaluator(scan, *judged, writers.values(), reach_of(args))
    mine, total = sequences.share(group.shard), None
    if not args.live:
        with (
            suppress(ValueError, OSError),  # which is told when its turn comes
            tqdm(desc="Grey levels", unit="frame", leave=False, disable=None) as bar,
        ):
            mine.measure(bar)
            total = sum(map(len, mine))
    else:
        patience = track_options(args).patience if "tracks" in writers else None
        print(live_line(scan.delay, args.frame_rate or USUAL_RATE, patience), flush=True)
    with tqdm(total=total, desc="Testing", unit="frame", disable=None) as bar:
        evaluation, error = evaluator.run_far(mine, bar, alone=group.size == 1)
    for shared in (evaluation, *writers.values(), *([stabiliser] if stabiliser else [])):
        shared.share(group)
    files[:] = group.gather(files)
    if any(group.gather([error is not None])):
        if group.is_main:
            finished = sequences.names, evaluation, error, writers.values()
            keep_finished(tested, suffix_of(args), *finished)
        return None, error
    sequences.tell_targets(group)
    if not group.is_main:
        return None, getattr(writers.get("attribution"), "stopped", None)
    levels = writers["normalisations"]
    about = header(tested, spec.name, args.threshold_eval, levels.entry(), reach_of(args))
    more = {}  # of metrics.json
    metrics, summary = figures_and_summary(evaluation, subsets, about)
    if stabiliser is not None:
        summary.append(f"  {stabiliser.line()}")
    if spec.lists_detections:
        found = f"{writers['detections'].count} detections at threshold {args.threshold_eval}"
        summary.append(f"  {found}; grey levels normalised by {levels.line()}")
    if args.attribution:
        summary += writers["attribution"].attribution_lines()
        more["attribution"] = writers["attribution"].as_dict()
    if "tracks" in writers:
        summary += [f"  {line}" for line in writers["tracks"].lines()]
        more["tracks"] = writers["tracks"].figures()
    # Numbers first: they are there even if the disk has no room for the rest.
    print("\n".join(summary), flush=True)
    if args.efficiency:
        setting = f"--engine {args.engine} --precision {args.precision}"
        setting += " --stabilise" * tested.stabilise
        more["efficiency"] = measure_efficiency(detector, scan, args.efficiency, setting)
        print(f"  {efficiency_line(more['efficiency'])}", flush=True)
    written = [path for writer in writers.values() for path in writer.close()]
    if metrics is not None:
        metrics |= more
        protocol, strips = PROTOCOLS[args.protocol[0]], writers["highlights"].strips
        parts = [writers["attribution"].section()] if args.attribution else []
        written += write_results(tested.folder, suffix_of(args), metrics, strips, protocol, parts)
    names = ", ".join(dict.fromkeys(path.name for path in written))
    print(f"  written to {tested.folder}: {names}")
    if args.attribution:
        writers["attribution"].end_as_stopped()
    return metrics, None


def open_writers(args, spec, tested, device):
    """By name, what writes of every block of scores as it comes."""
    output, suffix = make_folder(tested.folder), suffix_of(args)
    threshold, protocol = args.threshold_eval, PROTOCOLS[args.protocol[0]]
    table = output / f"detections{suffix}.csv" if spec.lists_detections else None
    centroids = output / f"centroids{suffix}" if args.export == "centroids" else None
    pictures, unlabelled_only = output / "visual", not args.visual
    writers = {
        "detections": Detections(table, threshold, centroids, args.coordinate_order),
        "highlights": Highlights(threshold, protocol),
        "normalisations": Normalisations(),
    }
    if args.live:  # what has no end is not drawn frame by frame
        writers["printed"] = Printed(threshold)
    else:
        writers["score maps"] = ScoreMaps(pictures, unlabelled_only)
    if not (args.no_overlay or args.live):
        writers["overlays"] = Overlays(pictures, threshold, protocol, unlabelled_only)
    if args.surface is not None:
        writers["surfaces"] = Surfaces(output / f"surfaces{suffix}", args.surface)
    options = track_options(args)
    if args.min_track is not None:
        writers["tracks"] = Tracks(output / f"tracks{suffix}", threshold, protocol, options)
    if args.overlay_video:
        writers["videos"] = OverlayVideos(pictures, threshold, protocol, options, VideoFile)
    if args.attribution:
        given = output / "attribution", tested.detector, device, threshold
        writers["attribution"] = Attributions(*given, attribution_options(args), protocol)
    return writers


def suffix_of(args):
    """What the names of results end in: they are of the best checkpoint, or of an epoch's."""
    return "" if args.epoch is None else f"_epoch-{args.epoch}"


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
