"""Trains a detector by its published recipe, then tests its best checkpoint."""

import platform
import shlex
from argparse import BooleanOptionalAction
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

import test
from data.batches import Batches
from data.cache.build import MODES, open_frames
from data.cache.validation import keep_decoded
from data.clips import CROPS, ClipOptions
from data.lists import prepare
from data.record import read_normalisation, recorded_levels
from data.sequences import measure_normalisation
from data.specs import choose_normalisation, get_spec
from data.training.augmentation import CHANGES_HELP, parse_augmentation
from data.training.facts import check_selection, facts_of
from data.training.mixing import open_training_sets
from losses import LOSSES, build_loss
from models import MODELS, build_model
from models.engine.training.network import FastTraining
from models.fused import fuse
from utils.checkpoint import load_averaged, load_last, load_weights, why_unreadable
from utils.command_line import (
    CommandParser,
    add_normalisation,
    below_one,
    fraction,
    not_negative,
    positive,
    run_command,
)
from utils.evaluation import add_up, validate
from utils.launcher import job_size, relaunch
from utils.memory import free_memory
from utils.process import (
    LARGEST_SEED,
    StopRequest,
    is_launched,
    joined_group,
    progress_bar,
    ready_device,
    seed_everything,
)
from utils.run_dir import RunLog, find_model_name, find_run, new_run, run_name, starting_weights
from utils.several import OneOrMore, as_list, one_for_each
from utils.training.compiled import compiled
from utils.training.description import SELECTIONS, describe
from utils.training.epochs import Epochs
from utils.training.history import Recorder
from utils.training.memory import memory_line, step_bytes
from utils.training.recipes import RECIPES, choose_recipe, recipe_line
from utils.training.trainer import OPTIMIZERS, STEP_PRECISIONS, Schedule, Trainer, TrainerOptions
from utils.training_state import TrainingState, plain

PLACE_OPTIONS = ("log_dir", "savepath", "gpu", "gpu_num", "cache", "cache_dir", "workers")
LEVELS = ("mean", "std", "normalise_as")  # options that say how grey levels are normalised
# By name, what options have for each data set that are not given.
DATASET_DEFAULTS = {
    "datapath": "./datasets/{}".format,
    "sample_rate": lambda name: get_spec(name).sample_rate,
}


def parse_args(argv=None):
    first = CommandParser(add_help=False)  # what the defaults of the others follow from
    add = first.add_argument
    add("--model", choices=MODELS, default="DeepPro-Plus", help="network")
    add("--recipe", choices=RECIPES, default="own", help="defaults of its authors, or of DeepPro")
    add("--savepath", default="./log/", help="where runs are written")
    add("--log_dir", help="continue this run, a folder's name under SAVEPATH/sem_seg")
    parser = CommandParser(description=__doc__, parents=[first])
    add = parser.add_argument
    add("--weights", type=starting_weights, help="file to start from; included: for real footage")
    several = {"nargs": "+", "action": OneOrMore}
    words = "name of the data set; several are mixed, and the first one is tested at the end"
    add("--dataset", **several, default="NUDT-MIRSDT", help=words)
    add("--datapath", **several, help="its folder, or of several; ./datasets/DATASET if not given")
    add_normalisation(add, "; auto: of the training frames. The run's tests use what it had")
    add("--epoch", type=positive(int), default=32, help="number of epochs")
    add("--batch_size", type=positive(int), default=4, help="clips of a step")
    add("--learning_rate", type=positive(float), default=0.001, help="initial learning rate")
    add("--lr_decay", type=positive(float), default=0.7, help="its factor every STEP_SIZE epochs")
    add("--step_size", type=positive(int), default=10, help="epochs between decays")
    add("--optimizer", choices=OPTIMIZERS, default="Adam", help="optimiser")
    weight = not_negative(float, 10**6)
    add("--decay_rate", type=weight, default=1e-4, help="weight decay of Adam; SGD has none")
    add("--beta2", type=below_one, default=0.999, help="of Adam: decay of the mean square")
    add("--loss", choices=LOSSES, default="SoftIoU", help="training loss: see losses/")
    add("--seqlen", type=positive(int), help="frames of a clip; the network's if not given")
    add("--patch_size", type=positive(int), default=128, help="side of the training crop, pixels")
    add(
        "--sample_rate",
        **several,
        type=positive(float, most=1000),
        help="share of the possible clips that makes an epoch; the data set's if not given "
        "(0.1 for NUDT-MIRSDT)",
    )
    add("--threshold_eval", type=fraction, default=0.5, help="score threshold of IoU")
    add("--gpu", default="0", help="index of the GPU, or cpu")
    add("--gpu_num", type=positive(int), default=1, help="how many GPUs, one process each")
    add("--workers", type=not_negative(int), help="reading processes; none if frames are cached")
    add("--seed", type=not_negative(int, LARGEST_SEED), default=46, help="of all that is drawn")
    words = "of the network; losses are fp32"
    add("--precision", choices=STEP_PRECISIONS, default="fp32", help=words)
    add("--deterministic", action="store_true", help="the same result again on CUDA; slower")
    add("--compile", action="store_true", help="torch.compile the network; needs a C++ compiler")
    add(
        "--cache",
        choices=MODES,
        default="auto",
        help="where decoded frames are kept; auto: the first of memory, disk, none with room",
    )
    add("--cache_dir", type=Path, help="of --cache disk; DATAPATH/.frames if not given")
    add(
        "--select",
        choices=SELECTIONS,
        default="test",
        help="what chooses the best checkpoint: the test list, or a tenth of the training list",
    )
    words = "decay of an average of the weights, which is then tested; 0: none"
    add("--ema", type=below_one, default=0.0, help=words)
    add("--crops", choices=CROPS, default="near", help="3 of 4 near a target, or half right on it")
    switch = {"action": BooleanOptionalAction, "default": False}
    add("--flips", **switch, help="mirror clips at random")
    add("--turns", **switch, help="play clips backwards and swap rows and columns at random")
    words = "of so many places for a crop off the targets, take the hardest"
    add("--hard_crops", type=positive(int), default=1, help=words)
    add("--augment", metavar="NAME=VALUE,...", help=f"change clips at random: {CHANGES_HELP}")
    add("--exclude_padding", action="store_true", help="no loss on the padding of short clips")
    words = "weight of a loss on clips without target, whose soft IoU has no gradient; 0: none"
    add("--empty_clips", type=weight, default=0.0, help=words)
    chosen, _ = first.parse_known_args(argv)
    recorded = {}
    if chosen.log_dir is not None:
        run = find_run(chosen.savepath, chosen.log_dir)
        checkpoint = load_last(run)
        # What the run was started with; what is given now comes before it.
        recorded = (checkpoint and describe(checkpoint).args) or run.options()
        parser.recall(recorded, run.path, without=PLACE_OPTIONS)
        chosen, _ = first.parse_known_args(argv)
    recipe = choose_recipe(MODELS[chosen.model], chosen.recipe)
    parser.set_defaults(**{name: recipe[name] for name in recipe.keys() - recorded.keys()})
    args = parser.parse_args(argv)
    if args.seqlen is None:
        args.seqlen = MODELS[args.model].seqlen
    for option, default in DATASET_DEFAULTS.items():
        given = one_for_each(f"--{option}", getattr(args, option), args.dataset, default)
        setattr(args, option, given)
    if recorded:
        parser.set_defaults(**dict.fromkeys(LEVELS))
        given = {name: vars(parser.parse_args(argv))[name] for name in LEVELS}
        if isinstance(args.dataset, list) or any(value is not None for value in given.values()):
            vars(args).update(given)  # what was recorded is of one data set, or replaced
    if isinstance(args.dataset, list) and any(vars(args)[name] is not None for name in LEVELS):
        raise ValueError("--mean, --std, --normalise-as with several data sets; each has its own")
    own = args.weights is None or not goes_on(args)
    if not own and args.weights.resolve() != Path(recorded.get("weights") or "").resolve():
        raise ValueError(
            f"--weights {args.weights} with --log_dir: a run goes on from its own weights; "
            "expected one of the two"
        )
    count = job_size(args.gpu_num)
    if args.batch_size % count:
        raise ValueError(
            f"--batch_size {args.batch_size} does not split among {count} processes; "
            "expected a multiple: it is the total"
        )
    parse_augmentation(args.augment)  # what is wrong with it is said first
    return args


def main(args):
    """Trains, then tests as `python test.py` does, and says how to repeat the test."""
    if args.gpu_num > 1 and not is_launched():
        relaunch(args.gpu_num)
    with joined_group(args.gpu) as group:
        run = train(args, group)
        if run is not None:
            words = test_words(args, run)
            test.main(test.parse_args(words), group)
            if group.is_main:
                print(f"  again: {shlex.join(['python', 'test.py', *words])}")


def train(args, group):
    """Trains, from the start or from where a run stopped: the run, or None if it was tested."""
    schedule = Schedule(args.learning_rate, args.lr_decay, args.step_size).checked(args.epoch)
    device, names = ready_device(args.gpu, group, args.deterministic), as_list(args.dataset)
    seed_everything(args.seed)
    detector, levels = build_detector(args)
    clips, sequences = open_data(args, [get_spec(name) for name in names], group)
    trainer = build_trainer(args, detector.to(device), clips, group)
    memory = tell_memory(args, trainer)
    run = group.share(open_run(args) if group.is_main else None)
    log = RunLog(run.log_file(args.model), group.is_main)
    if group.is_main:
        run.sweep()  # now that no other process writes there
    checkpoint = group.share(load_last(run) if group.is_main else None)
    state = build_state(args, trainer, clips, run, checkpoint)
    log.cut(state.log_size)
    log_start(log, args, trainer, clips, sequences)
    log(memory)
    log(state.describe_start(run.name, args.weights, levels))
    for line in state.doubts(checkpoint):
        log(line)
    recorder = Recorder(run, state, log)
    if checkpoint is None:
        recorder.save_last()  # so that a run can be continued whenever it is interrupted
    finished = state.epoch + 1 >= args.epoch
    if finished:
        log(f"{run.name} has finished its {state.epoch + 1} epochs; --epoch asks for more")
    calls = schedule, partial(validate_on, sequences, args, trainer)
    # Of several processes each would stop at its own step: they end at once.
    with StopRequest(active=group.size == 1) as stop:
        Epochs(trainer, state, recorder, *calls).run(args.epoch, stop)
    log.close()
    group.barrier()  # the checkpoints are written
    tested = finished and group.share(group.is_main and run.is_tested())
    return None if tested else run


def validate_on(sequences, args, trainer, detector):
    """(mean loss, IoU) of a detector on the sequences, of which each process takes its share."""
    group = trainer.group
    mine = progress_bar(sequences.share(group.shard), group, "Validating")
    criterion = build_loss(args.loss, args.exclude_padding, args.empty_clips)
    settings = mine, args.threshold_eval, trainer.device
    results = validate(detector, fuse(detector), criterion, *settings)
    losses, ious = zip(*group.gather(results), strict=True)
    return float(np.mean(sum(losses, []))), add_up(ious).iou()


def open_data(args, specs, group):
    """Training clips, and the labelled sequences that select the best checkpoint.

    `specs` are the rows of the data sets, each of whose clips are normalised by its own values.
    """
    roots = as_list(args.datapath)
    if group.is_first_of_node:
        for spec, root in zip(specs, roots, strict=True):
            prepare(spec, root)
    group.barrier()
    options = ClipOptions(
        args.seqlen,
        args.patch_size,
        as_list(args.sample_rate)[0],
        args.seed,
        args.flips,
        args.exclude_padding,
        MODELS[args.model].predicts,
        args.turns,
        args.crops,
        parse_augmentation(args.augment),
        args.hard_crops,
    )
    sets = list(zip(specs, roots, as_list(args.sample_rate), strict=True))
    calls = partial(normalise, args, group), partial(open_cache, args, group)
    clips, sequences = open_training_sets(sets, options, args.select == "heldout", *calls)
    if group.is_main:
        check_selection(sequences, args.select)
    if len(clips) < args.batch_size:
        raise ValueError(
            f"{len(clips)} clips an epoch do not fill one batch of {args.batch_size}; "
            "expected a smaller --batch_size or a larger --sample_rate"
        )
    mode = "none" if group.size > 1 else args.cache  # several have a node's memory together
    return clips, keep_decoded(sequences, mode, free_memory)


def normalise(args, group, spec, root, training):
    """(mean, std) of the grey levels; those that no data set's row has are in `args` from here."""

    def measure():
        return group.share(measure_normalisation(training) if group.is_main else None)

    vars(args).setdefault("folder_levels", recorded_levels(spec, root))  # of several, the first
    asked = choose_normalisation(args.mean, args.std, args.normalise_as, measure)
    if asked is None:
        asked = read_normalisation(spec, root)
        if spec.mean is not None or isinstance(args.dataset, list):
            return asked
    (args.mean, args.std), args.normalise_as = asked, None
    return asked


def open_cache(args, group, spec, root, training):
    """Decoded frames; of several processes, the first of a node fills the files for the others."""
    progress = partial(progress_bar, group=group, title="Decoding frames", total=len(training))
    free = free_memory() if group.size == 1 else 0  # one copy for all processes of a node
    place = args.cache_dir or Path(root) / ".frames", None, progress, free
    build = partial(open_frames, training, spec.train_size)
    frames = build(args.cache, *place) if group.is_first_of_node else None
    modes = group.gather([frames and frames.mode])  # when the files are there
    return frames or build(modes[group.rank - group.local_rank], *place)


def goes_on(args):
    """Whether the arguments name a run that has a checkpoint to go on from."""
    return args.log_dir is not None and not find_run(args.savepath, args.log_dir).is_bare()


def build_detector(args):
    """A fresh network, or one with the weights that are given to start from, and their levels."""
    detector, levels = build_model(args.model, args.seqlen), None
    if args.weights is not None and not goes_on(args):
        checkpoint = load_averaged(args.weights)
        load_weights(detector, checkpoint, args.model, args.weights)
        levels = describe(checkpoint).normalisation(args.weights)
    return detector, levels


def build_trainer(args, detector, clips, group):
    """What trains a network."""
    device = next(detector.parameters()).device
    network = compiled(detector, device) if args.compile else FastTraining(detector)
    rates = args.learning_rate, args.decay_rate, args.beta2
    criterion = build_loss(args.loss, args.exclude_padding, args.empty_clips, group.size)
    return Trainer(
        detector,
        network,
        OPTIMIZERS[args.optimizer](detector.parameters(), *rates),
        criterion,
        Batches(clips, args.batch_size, group.rank, group.size, args.workers, device),
        TrainerOptions(args.seed, args.threshold_eval, args.precision, args.ema),
        group,
    )


def tell_memory(args, trainer):
    """What a step takes of the memory, in words; refuses a step for which there is not enough."""
    each = args.batch_size // trainer.group.size
    detector, side = trainer.detector, args.patch_size
    network = detector if args.compile else FastTraining(detector)  # compiled it keeps as much
    kept = step_bytes(detector, network, each, side, args.precision)
    return memory_line(kept, trainer.device, (each, args.seqlen, side, side))


def open_run(args):
    """The run's folder, new or to be continued."""
    if args.log_dir is None:
        name = run_name(
            as_list(args.dataset)[0], datetime.now(), args.loss, args.model, args.seqlen
        )
        return new_run(args.savepath, name)
    run = find_run(args.savepath, args.log_dir)
    checkpoint = load_last(run)
    model = find_model_name(run, checkpoint and describe(checkpoint).args, MODELS)
    if model != args.model:
        raise ValueError(f"{run.path}: is a run of {model}; expected --model {model}")
    return run


def build_state(args, trainer, clips, run, checkpoint):
    """How far the training is: at its start, or where the checkpoint says."""
    parts = trainer.detector, trainer.optimizer, trainer.average, plain(vars(args))
    state = TrainingState(*parts, list(map(facts_of, clips.sequences)))
    if checkpoint is not None:
        load_weights(trainer.detector, checkpoint, args.model, run.path)
        state.restore(checkpoint, run.path, why_unreadable(run.checkpoint("best")))
    return state


def log_start(log, args, trainer, clips, sequences):
    """The first lines of a log: arguments, versions, device, amount of data."""
    log("PARAMETER ...")
    log(f"{args}")
    log(recipe_line(args.model, choose_recipe(MODELS[args.model], args.recipe), vars(args)))
    log(
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"device {trainer.device}, seed {args.seed}, processes {trainer.group.size}"
    )
    log(f"The number of training data is: {len(clips)}")
    log(f"The number of test data is: {len(sequences)} sequences")
    log(f"Decoded frames: {clips.frames.mode}. Best checkpoint selected on: {args.select}")


def test_words(args, run):
    """The arguments of `test.py` that repeat the test at the end of a training."""
    options = {
        "--dataset": as_list(args.dataset)[0],
        "--datapath": as_list(args.datapath)[0],
        "--logpath": run.logpath,
        "--log_dir": run.name,
        "--seqlen": args.seqlen,
        "--threshold_eval": args.threshold_eval,
        "--gpu": args.gpu,
    }
    usual = {"--seqlen": MODELS[args.model].seqlen, "--threshold_eval": 0.5, "--gpu": "0"}
    return [str(word) for k, v in options.items() if usual.get(k) != v for word in (k, v)]


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
