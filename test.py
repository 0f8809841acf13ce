"""Tests a run: stitched scores of a data set's test list, Pd, Fa, AUC and IoU."""

from functools import partial
from pathlib import Path

from tqdm import tqdm

from data.frames import find_sequences, prepare, read_snr
from data.sequences import LabelledSequences
from data.specs import get_spec
from models import MODELS, build_model
from models.export import export_model
from models.fused import fuse
from models.precision import PRECISIONS
from utils.checkpoint import load, load_weights
from utils.command_line import CommandParser, choose_device, run_command
from utils.distributed import Group
from utils.evaluation import PROTOCOLS, evaluate_sequences
from utils.memory import keep_freed_memory
from utils.report import summarise, summary_lines, write_eval, write_metrics
from utils.run_dir import find_model_name, find_run, make_folder
from utils.visual import write_score_maps


def parse_args(argv=None):
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("--log_dir", required=True, help="the run: a folder's name under LOGPATH/sem_seg")
    add("--logpath", default="./log/", help="where runs lie")
    add("--epoch", type=int, help="test the numbered checkpoint of this epoch, not the best")
    add("--dataset", default="NUDT-MIRSDT", help="name of the data set")
    add("--datapath", help="the data set's folder; ./datasets/DATASET if not given")
    add("--seqlen", type=int, default=40, help="frames of a clip; must be the checkpoint's")
    add("--batch_size", type=int, default=1, help="windows fed at once")
    add("--gpu", default="0", help="index of the GPU, or cpu")
    add("--threshold_eval", type=float, default=0.5, help="score threshold of IoU")
    add("--protocol", choices=PROTOCOLS, default="hit1_guard4", help="protocol of eval.txt")
    add("--engine", choices=ENGINES, default="fast", help="fast, or the network as trained")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the network; scores are fp32")
    add("--memory", help="the network's working memory, such as 1GiB; chosen if not given")
    add("--output", type=Path, help="where results go; the run's folder if not given")
    add("--visual", action="store_true", help="write score maps")
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
    run = find_run(args.logpath, args.log_dir)
    name, model = load_run(run, args.epoch, args.seqlen)
    if args.export_model is not None:
        print(f"{export_model(model, args.export_model)} written: clips of {args.seqlen} frames")
        return
    device = choose_device(args.gpu)
    if device.type == "cpu" and args.engine == "reference":
        keep_freed_memory()
    output = make_folder(args.output or run.path)
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
        visual=args.visual,
        suffix="" if args.epoch is None else f"_epoch-{args.epoch}",
    )


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
    visual=False,
    suffix="",
    group=None,
):
    """Tests a detector on a data set's test list and writes what was found to `output`.

    Writes eval<suffix>.txt and metrics<suffix>.json, with `visual` the score maps; prints the
    closing summary. With a `utils.distributed.Group`, its processes share the sequences and the
    main one writes.

    Returns:
        The contents of metrics.json.
    """
    group = group or Group()
    prepare(spec, datapath)
    files = find_sequences(spec, spec.test, datapath)
    sequences = LabelledSequences(files, spec.mean, spec.std, seqlen, spec.test_size)
    evaluation = evaluate_sequences(
        detector,
        sequences.share(group.shard),
        threshold,
        device,
        batch_size=batch_size,
        on_scores=partial(draw, output / "visual", spec.first_frame) if visual else None,
        progress=partial(tqdm, desc="Testing", unit="sequence", disable=None),
        gather=group.gather,
    )
    if not group.is_main:
        return None
    subsets = read_snr(spec, datapath, sequences.names)
    metrics = summarise(evaluation, subsets, run_name, model_name, spec.name, seqlen, threshold)
    write_eval(output / f"eval{suffix}.txt", metrics, protocol)
    write_metrics(output / f"metrics{suffix}.json", metrics)
    print("\n".join(summary_lines(metrics)))
    print(f"  written to {output}: eval{suffix}.txt, metrics{suffix}.json")
    return metrics


def draw(folder, first_frame, sequence, scores):
    write_score_maps(folder / sequence.name, scores, first_frame)


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
