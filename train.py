"""Trains a detector with the published protocol, then tests its best checkpoint."""

import copy
import math
import os
import platform
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.cache.build import MODES, open_frames
from data.clips import TrainClips
from data.device_clips import DeviceClips, fits
from data.frames import find_sequences, prepare
from data.sequences import LabelledSequences
from data.specs import get_spec
from losses import LOSSES, build_loss
from losses.options import WithEmptyClips, without_padding
from models import MODELS, build_model
from models.engine.training import FastTraining
from models.fused import fuse
from test import evaluate_run, load_run
from utils.checkpoint import load, load_weights, save
from utils.command_line import (
    CommandParser,
    choose_device,
    fraction,
    not_negative,
    positive,
    run_command,
)
from utils.evaluation import evaluate_windows
from utils.history import History
from utils.memory import keep_freed_memory
from utils.metrics import RunningIoU
from utils.process import join_group, leave_group, relaunch, seed_everything
from utils.run_dir import close_log, cut_log, find_model_name, find_run, new_run, open_log, run_name
from utils.training_state import (
    MovingAverage,
    StopRequest,
    random_states,
    restore_random_states,
)

CHECKPOINT_EVERY = 5  # epochs between numbered checkpoints
CHECK_EVERY = 16  # steps between looks at the loss on a GPU
LOWEST_LEARNING_RATE = 1e-5
HELD_OUT_SHARE = 0.1
SELECTIONS = ("test", "heldout")
PRECISIONS = ("fp32", "bf16")
EPOCH_OPTIONS = ("batch_size", "sample_rate", "seed", "seqlen")  # say which clips a step takes
FIXED_OPTIONS = ("select", "optimizer")  # of a run that is continued
PUBLISHED_KEYS = ("epoch", "model_state_dict", "optimizer_state_dict")
OPTIMIZERS = {
    "Adam": lambda parameters, rate, decay: torch.optim.Adam(
        parameters, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay
    ),
    # As published: no weight decay.
    "SGD": lambda parameters, rate, decay: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
}


def parse_args(argv=None):
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("--model", choices=MODELS, default="DeepPro-Plus", help="network")
    add("--dataset", default="NUDT-MIRSDT", help="name of the data set")
    add("--datapath", help="the data set's folder; ./datasets/DATASET if not given")
    add("--savepath", default="./log/", help="where runs are written")
    add("--log_dir", help="continue this run, a folder's name under SAVEPATH/sem_seg")
    add("--epoch", type=positive(int), default=32, help="number of epochs")
    add("--batch_size", type=positive(int), default=4, help="clips of a step")
    add("--learning_rate", type=positive(float), default=0.001, help="initial learning rate")
    add("--lr_decay", type=positive(float), default=0.7, help="its factor every STEP_SIZE epochs")
    add("--step_size", type=positive(int), default=10, help="epochs between decays")
    add("--optimizer", choices=OPTIMIZERS, default="Adam", help="optimiser")
    add("--decay_rate", type=not_negative(float), default=1e-4, help="weight decay (Adam)")
    add("--loss", choices=LOSSES, default="SoftIoU", help="training loss")
    add("--seqlen", type=positive(int), default=40, help="frames of a clip")
    add("--patch_size", type=positive(int), default=128, help="side of the training crop, pixels")
    add(
        "--sample_rate",
        type=positive(float),
        default=None,
        help="share of the candidate windows that makes an epoch; the data set's if not given "
        "(0.1 for NUDT-MIRSDT)",
    )
    add("--threshold_eval", type=fraction, default=0.5, help="score threshold of IoU")
    add("--gpu", default="0", help="index of the GPU, or cpu")
    add("--gpu_num", type=positive(int), default=1, help="processes to start, one a GPU")
    add(
        "--workers",
        type=not_negative(int),
        help="reading processes; none if frames are cached",
    )
    add("--seed", type=not_negative(int), default=46, help="of weights, clips and losses")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the network; losses are fp32")
    add("--deterministic", action="store_true", help="the same result again on CUDA; slower")
    add("--compile", action="store_true", help="torch.compile the network; needs a C++ compiler")
    add("--cache", choices=MODES, default="auto", help="where decoded frames are kept")
    add("--cache_dir", type=Path, help="of --cache disk; DATAPATH/.frames if not given")
    add("--select", choices=SELECTIONS, default="test", help="what chooses the best checkpoint")
    add("--ema", type=fraction, default=0.0, help="decay of averaged weights, as 0.999; 0: none")
    add("--flips", action="store_true", help="mirror clips at random")
    add("--exclude_padding", action="store_true", help="no loss on the padding of short clips")
    add(
        "--empty_clips",
        type=not_negative(float),
        default=0.0,
        help="weight of empty clips' scores",
    )
    args = parser.parse_args(argv)
    if args.log_dir is not None:
        parser.set_defaults(**recorded_arguments(args, parser))
        args = parser.parse_args(argv)
    if args.datapath is None:
        args.datapath = f"./datasets/{args.dataset}"
    if args.sample_rate is None:
        args.sample_rate = get_spec(args.dataset).sample_rate
    if args.cache_dir is None:
        args.cache_dir = Path(args.datapath) / ".frames"
    if args.ema == 1:
        raise ValueError(f"--ema {args.ema}: expected a decay from 0 to below 1")
    return args


def recorded_arguments(args, parser):
    """What a continued run was started with: its defaults; what is given now comes before it."""
    run = find_run(args.savepath, args.log_dir)
    recorded = load_last(run).get("args") or {}
    fresh = ("log_dir", "savepath", "gpu", "gpu_num", "cache", "cache_dir", "workers")
    known = {action.dest for action in parser._actions} - set(fresh)
    return {key: value for key, value in recorded.items() if key in known}


def main(args):
    if args.gpu_num > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        relaunch(args.gpu_num)
    group = join_group(args.gpu != "cpu" and torch.cuda.is_available())
    try:
        train(args, group)
        group.barrier()  # none ends while another still talks to it
    finally:
        leave_group()


def train(args, group):
    """Trains, from the start or from where a run stopped, and tests the best checkpoint."""
    spec = get_spec(args.dataset)
    device = prepare_device(args, group)
    seed_everything(args.seed)
    clips, sequences = open_data(args, spec, group)
    model = build_model(args.model, args.seqlen).to(device)
    optimizer = OPTIMIZERS[args.optimizer](model.parameters(), args.learning_rate, args.decay_rate)
    average = MovingAverage(model, args.ema) if args.ema else None

    run, state = group.share(open_run(args) if group.is_main else None)
    log = Log(run.log_file(args.model), state, group.is_main)
    log_start(log, args, device, clips, sequences, group)
    first_epoch, best_iou = restore(log, run, state, args, model, optimizer, average)
    rows = (state or {}).get("history", ())
    history = History(run.history, run.curves, run.events, rows) if group.is_main else None
    stop = StopRequest()
    trainer = Trainer(args, group, device, clips, model, optimizer, average, stop)
    if group.is_main and state is None:
        # So that a run can be continued whenever it is interrupted.
        state = {"epoch": -1, "best_iou": best_iou, "history": [], "args": plain(args)}
        state |= {**trainer.state(), "log_size": log.size()}
        save(run.checkpoint("last"), state)
    if first_epoch >= args.epoch:
        log(f"{run.name} has finished its {args.epoch} epochs; --epoch asks for more")
    position = (state or {}).get("position")
    # Of several processes each would stop at its own step: they end at once.
    with stop if group.size == 1 else nullcontext():
        for epoch in range(first_epoch, args.epoch):
            log(f"**** Epoch {epoch + 1} ({epoch + 1}/{args.epoch}) ****")
            rate = set_learning_rate(optimizer, args, epoch)
            log(f"Learning rate:{rate:f}")
            loss, iou = trainer.train_epoch(epoch, position)
            if trainer.stopped is not None:
                if group.is_main:
                    state |= {**trainer.state(), "position": trainer.stopped, "args": plain(args)}
                    save(run.checkpoint("last"), state)
                return stopped_by(stop.signal, log, run)
            position = None
            log(f"Training mean loss: {loss:f}")
            log(f"Training accuracy (IoU) of prediction: {iou:f}")
            row = {"epoch": epoch + 1, "learning_rate": rate, "train_loss": loss, "train_iou": iou}
            group.share_tensors(model.buffers())  # running statistics
            if average is not None:
                group.share_tensors(average.weights.values())
            state = {**trainer.state(), "epoch": epoch, "position": None}
            published = {key: state[key] for key in PUBLISHED_KEYS} | {"args": plain(args)}
            if average is not None:
                published["model_state_dict"] = average.weights
            if group.is_main and ((epoch + 1) % CHECKPOINT_EVERY == 0 or epoch + 1 == args.epoch):
                save_logged(log, run.checkpoint(epoch + 1), published)
            log(f"---- EPOCH {epoch + 1:03d} EVALUATION ----")
            loss, iou = trainer.validate(sequences)
            log(f"Eval mean loss: {loss:f}")
            log(f"Eval avg class IoU of prediction: {iou:f}")
            if iou >= best_iou:
                best_iou = iou
                if group.is_main:
                    save_logged(log, run.checkpoint("best"), {**published, "class_avg_iou": iou})
            log(f"Best mIoU_mid: {best_iou:f}")
            row |= {"val_loss": loss, "val_iou": iou, "best_iou": best_iou, **trainer.speed(epoch)}
            log(trainer.speed_line(row))
            if group.is_main:
                history.add(row)
                state |= {"best_iou": best_iou, "history": history.rows, "log_size": log.size()}
                state |= {"args": plain(args), "random": random_states()}
                save(run.checkpoint("last"), state)
            if stop.signal is not None:
                return stopped_by(stop.signal, log, run)
    close_log(log.logger)
    if first_epoch < args.epoch or not group.share(group.is_main and is_tested(run)):
        test_best(args, spec, run, device, group)


class Trainer:
    """Steps through epochs and validates; what it holds is what a checkpoint must hold."""

    def __init__(self, args, group, device, clips, model, optimizer, average, stop):
        self.args, self.group, self.device = args, group, device
        self.model, self.optimizer, self.average = model, optimizer, average
        self.stop, self.stopped = stop, None
        self.batches = Batches(clips, args, group, device)
        self.criterion = build_loss(args.loss)
        if args.empty_clips:
            self.criterion = WithEmptyClips(self.criterion, args.empty_clips)
        # Gradients are averaged over processes: a loss that sums over clips is scaled back.
        self.scale = group.size if getattr(self.criterion, "summed", False) else 1
        network = torch.compile(model) if args.compile else FastTraining(model)
        if group.size > 1:
            network = DistributedDataParallel(network, broadcast_buffers=False)
        self.network = network
        self.seconds = self.waited = self.began = 0.0
        self.steps = 0

    def state(self):
        """Weights, optimiser, averaged weights."""
        state = {
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state()
        return state

    def train_epoch(self, epoch, position=None):
        """One pass over the epoch's clips: (mean loss, IoU of the training pixels).

        Nothing waits for the device between steps, save on the CPU and every CHECK_EVERY steps.

        Args:
            epoch: 0-based.
            position: where an interrupted epoch goes on, from a checkpoint, or None.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.model.train()
        self.began = time.perf_counter()
        seed_everything(self.args.seed, epoch, self.group.rank)
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        iou = RunningIoU(self.args.threshold_eval, self.device)
        first = 0
        if position is not None:
            first = position["step"]
            losses += position["loss_sum"]
            iou.counts += torch.tensor(position["iou_counts"], device=self.device)
            restore_random_states(position["random"])
        self.waited = 0.0
        steps = len(self.batches)
        hidden = True if not self.group.is_main else None
        with tqdm(
            range(first, steps),
            desc=f"Epoch {epoch + 1}",
            unit="batch",
            initial=first,
            total=steps,
            leave=False,
            disable=hidden,
        ) as bar:
            batches = self.batches.of_epoch(epoch, first)
            for step in bar:
                asked = time.perf_counter()
                batch = next(batches)
                self.waited += time.perf_counter() - asked
                loss, logits, mask = self.step(batch)
                losses += loss.detach()
                iou.update(logits, mask)
                if self.device.type == "cpu" or (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
                    self.check(losses, epoch, step)
                    bar.set_postfix(loss=f"{losses.item() / (step + 1):.4f}", refresh=False)
                if self.stop.signal is not None:
                    self.check(losses, epoch, step)
                    self.stopped = {
                        "step": step + 1,
                        "loss_sum": losses.item(),
                        "iou_counts": iou.counts.tolist(),
                        "random": random_states(),
                    }
                    return None, None
        self.seconds, self.steps = time.perf_counter() - self.began, steps - first
        self.group.sum(losses)
        self.group.sum(iou.counts)
        return losses.item() / (steps * self.group.size), iou.iou()

    def step(self, batch):
        """One optimiser step: (loss, logits, mask), all on the device."""
        clip, mask, *valid = (part.to(self.device, non_blocking=True) for part in batch)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.args.precision == "bf16"
        ):
            logits = self.network(clip)
        logits = logits.float()
        if valid:
            loss = without_padding(self.criterion, logits, mask, *valid)
        else:
            loss = self.criterion(logits, mask)
        loss = loss * self.scale
        loss.backward()
        if self.device.type == "cpu" and not torch.isfinite(loss):
            return loss, logits.detach(), mask  # the weights stay those before this step
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        return loss, logits.detach(), mask

    def check(self, losses, epoch, step):
        if not torch.isfinite(losses):
            raise FloatingPointError(
                f"epoch {epoch + 1}, step {step + 1}: the loss is {losses.item()}; expected a "
                "finite number. Lower --learning_rate, or check the images; the checkpoints "
                "of earlier epochs are unharmed"
            )

    def validate(self, sequences):
        """(mean loss, IoU) over the windows of all sequences, each process taking its share."""
        if self.average is not None:
            model = copy.deepcopy(self.model)
            model.load_state_dict(self.average.weights)
        else:
            model = self.model
        return evaluate_windows(
            fuse(model),
            self.criterion,
            sequences.share(self.group.shard),
            self.args.threshold_eval,
            self.device,
            progress=partial(
                tqdm,
                desc="Validating",
                unit="sequence",
                leave=False,
                disable=True if not self.group.is_main else None,
            ),
            gather=self.group.gather,
        )

    def speed(self, epoch):
        """Seconds of the epoch and its training, clips a second, share of waiting, seconds left."""
        whole = time.perf_counter() - self.began
        return {
            "seconds": round(whole, 3),
            "clips_per_second": round(self.steps * self.args.batch_size / self.seconds, 3),
            "waiting": round(self.waited / self.seconds, 4),
            "seconds_left": round(whole * (self.args.epoch - epoch - 1), 1),
        }

    def speed_line(self, row):
        left = timedelta(seconds=round(row["seconds_left"]))
        return (
            f"{row['seconds']:.1f} s, {row['clips_per_second']:.2f} clips/s, "
            f"{100 * row['waiting']:.1f}% of training waiting for data, about {left} left"
        )


class Batches:
    """The batches of an epoch, this process's share of each.

    Step s of an epoch takes the clips [s B, (s + 1) B), B = --batch_size, whatever the number of
    processes; the last incomplete batch is dropped.
    """

    def __init__(self, clips, args, group, device):
        self.clips, self.pin = clips, device.type == "cuda"
        self.total, self.each = args.batch_size, args.batch_size // group.size
        self.offset = group.rank * self.each
        cached = clips.frames.mode != "none"
        self.workers = (0 if cached else 2) if args.workers is None else args.workers
        self.on_device = DeviceClips(clips, device) if fits(clips, device) else None

    def __len__(self):
        return len(self.clips) // self.total

    def of_epoch(self, epoch, first=0):
        """Iterates over the epoch's batches from step `first` on."""
        self.clips.set_epoch(epoch)
        starts = (step * self.total + self.offset for step in range(first, len(self)))
        indices = [list(range(start, start + self.each)) for start in starts]
        if self.on_device is not None:
            return map(self.on_device.batch, indices)
        # Its own generator: torch's must not depend on how often a loader was started.
        generator = torch.Generator()
        return iter(
            DataLoader(
                self.clips,
                batch_sampler=indices,
                num_workers=self.workers,
                pin_memory=self.pin,
                generator=generator,
            )
        )


def prepare_device(args, group):
    """The device of this process, made ready."""
    gpu = str(group.local_rank) if group.size > 1 and args.gpu != "cpu" else args.gpu
    if args.batch_size % group.size:
        raise ValueError(
            f"--batch_size {args.batch_size} does not split among {group.size} processes; "
            "expected a multiple: it is the total"
        )
    device = choose_device(gpu)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.cuda.set_device(device)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return device


def open_data(args, spec, group):
    """Training clips, and the labelled sequences that select the best checkpoint."""
    prepare_once(spec, args.datapath, group)
    training = find_sequences(spec, spec.train, args.datapath)
    if args.select == "heldout":
        training, files = hold_out(training, args.seed)
    else:
        files = find_sequences(spec, spec.test, args.datapath)
    frames = open_cache(args, spec, training, group)
    clips = TrainClips(
        training,
        spec.mean,
        spec.std,
        args.seqlen,
        args.patch_size,
        args.sample_rate,
        args.seed,
        spec.train_size,
        frames,
        args.flips,
        args.exclude_padding,
    )
    if len(clips) < args.batch_size:
        raise ValueError(
            f"{len(clips)} clips an epoch do not fill one batch of {args.batch_size}; "
            "expected a smaller --batch_size or a larger --sample_rate"
        )
    return clips, LabelledSequences(files, spec.mean, spec.std, args.seqlen, spec.test_size)


def prepare_once(spec, datapath, group):
    """Prepares the data set by the first process of every node."""
    if group.local_rank == 0:
        prepare(spec, datapath)
    group.barrier()


def open_cache(args, spec, training, group):
    """Decoded frames; of several processes, the first of a node fills the files for the others."""
    mode = args.cache
    if mode == "auto" and group.size > 1:
        mode = "disk"  # one copy for all processes of a node
    progress = partial(
        tqdm,
        desc="Decoding frames",
        unit="sequence",
        total=len(training),
        leave=False,
        disable=True if not group.is_main else None,
    )
    build = partial(open_frames, training, spec.train_size, mode, args.cache_dir, None, progress)
    frames = build() if group.local_rank == 0 else None
    group.barrier()
    return frames or build()


def is_tested(run):
    """Whether a run's results are of its best checkpoint: written after it."""
    best = run.checkpoint("best")
    return run.results.is_file() and run.results.stat().st_mtime >= best.stat().st_mtime


def hold_out(sequences, seed):
    """Splits off a tenth of the sequences, at least one, by seed: (the others, those)."""
    if len(sequences) < 2:
        raise ValueError("--select heldout: one training sequence; expected two or more")
    count = max(round(HELD_OUT_SHARE * len(sequences)), 1)
    chosen = set(np.random.default_rng(seed).permutation(len(sequences))[:count].tolist())
    kept = [files for index, files in enumerate(sequences) if index not in chosen]
    return kept, [sequences[index] for index in sorted(chosen)]


def open_run(args):
    """The run folder, new or continued, and the state to continue from, or None."""
    if args.log_dir is None:
        name = run_name(args.dataset, datetime.now(), args.loss, args.model, args.seqlen)
        return new_run(args.savepath, name), None
    run = find_run(args.savepath, args.log_dir)
    state = load_last(run)
    model = find_model_name(run, state.get("args"), MODELS)
    if model != args.model:
        raise ValueError(f"{run.path}: is a run of {model}; expected --model {model}")
    return run, state


def load_last(run):
    """What a run continues from: its last checkpoint, or its best where it has no last."""
    path = run.checkpoint("last")
    return load(path if path.is_file() else run.checkpoint("best"))


def restore(log, run, state, args, model, optimizer, average):
    """Loads the state of a continued run: (first epoch, best IoU so far).

    Raises:
        ValueError: the checkpoint is of another network, or has no optimiser to continue with, or
            was trained with options that cannot change.
    """
    if state is None:
        log("No existing model, starting training from scratch...")
        return 0, -math.inf
    load_weights(model, state, args.model, run.path)
    recorded, position = state.get("args") or {}, state.get("position")
    for name in FIXED_OPTIONS + (("seed",) if args.select == "heldout" else ()):
        before, now = recorded.get(name), getattr(args, name)
        if before not in (None, now):
            raise ValueError(
                f"{run.path}: was trained with --{name} {before} and cannot go on with {now}; "
                "start a new run for it"
            )
    try:
        optimizer.load_state_dict(state["optimizer_state_dict"])
        if average is not None:
            average.restore(state["average"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{run.path}: its last checkpoint cannot be continued with these options "
            f"({error}); expected the optimiser's state, and --ema as before"
        ) from error
    changed = [name for name in EPOCH_OPTIONS if recorded.get(name) != plain(args)[name]]
    if position and changed:
        raise ValueError(
            f"{run.path}: it stopped within an epoch, which cannot go on with another "
            f"--{changed[0]} than {recorded.get(changed[0])}"
        )
    if state.get("random"):
        restore_random_states(state["random"])
    best_iou = float(state.get("best_iou", state.get("class_avg_iou", -math.inf)))
    step = f", step {position['step']} of the next" if position else ""
    log(f"Continuing {run.name} after epoch {state['epoch'] + 1}{step}, best IoU {best_iou:f}")
    return state["epoch"] + 1, best_iou


def log_start(log, args, device, clips, sequences, group):
    """The first lines of a log: arguments, versions, device, amount of data."""
    log("PARAMETER ...")
    log(f"{args}")
    log(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, device {device}, seed {args.seed}, processes {group.size}"
    )
    log(f"The number of training data is: {len(clips)}")
    log(f"The number of test data is: {len(sequences)} sequences")
    log(f"Decoded frames: {clips.frames.mode}. Best checkpoint selected on: {args.select}")


def set_learning_rate(optimizer, args, epoch):
    """lr x lr_decay every step_size epochs, not below 1e-5; returns it."""
    rate = args.learning_rate * args.lr_decay ** (epoch // args.step_size)
    rate = max(rate, LOWEST_LEARNING_RATE)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def save_logged(log, path, state):
    log("Save model...")
    log(f"Saving at {path}")
    save(path, state)
    log("Saving model....")


def stopped_by(number, log, run):
    """Ends after SIGTERM or Ctrl-C, with the exit status that shells expect."""
    log(f"Stopped by {signal.Signals(number).name}; continue with --log_dir '{run.name}'")
    close_log(log.logger)
    raise SystemExit(128 + number)


def plain(args):
    """The arguments as plain values, for checkpoints."""
    return {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()
    }


def test_best(args, spec, run, device, group):
    """Tests the best checkpoint, as `python test.py` does, and says how to repeat it."""
    name, model = group.share(load_run(run, None, args.seqlen) if group.is_main else None)
    evaluate_run(
        name,
        fuse(model.to(device)),
        spec,
        args.datapath,
        run.path,
        run_name=run.name,
        seqlen=args.seqlen,
        batch_size=1,
        device=device,
        threshold=args.threshold_eval,
        group=group,
    )
    if group.is_main:
        print(f"  again: {test_command(args, run)}")


def test_command(args, run):
    """The command line that repeats the test at the end of a training."""
    options = {
        "--dataset": args.dataset,
        "--datapath": args.datapath,
        "--logpath": run.logpath,
        "--log_dir": run.name,
        "--seqlen": args.seqlen,
        "--threshold_eval": args.threshold_eval,
        "--gpu": args.gpu,
    }
    defaults = {"--seqlen": 40, "--threshold_eval": 0.5, "--gpu": "0"}
    words = [str(w) for k, v in options.items() if defaults.get(k) != v for w in (k, v)]
    return shlex.join(["python", "test.py", *words])


class Log:
    """Writes each line to the log file, with a time stamp, and to the terminal.

    Args:
        path: of the file; what an unfinished epoch left in it is dropped.
        state: that the run continues from, or None.
        active: whether this process writes.
    """

    def __init__(self, path, state, active):
        self.path, self.active = path, active
        if active and state is not None and "log_size" in state:
            cut_log(path, state["log_size"])
        self.logger = open_log(path) if active else None

    def __call__(self, line):
        if self.active:
            self.logger.info(line)
            tqdm.write(line, file=sys.stdout)

    def size(self):
        """Bytes of the file so far."""
        return self.path.stat().st_size


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
