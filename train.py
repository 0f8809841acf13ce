"""Trains a detector with the published protocol, then tests its best checkpoint."""

import argparse
import math
import platform
import sys
from datetime import datetime
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.clips import TrainClips
from data.frames import find_sequences, prepare
from data.sequences import LabelledSequences
from data.specs import get_spec
from losses import LOSSES, build_loss
from models import MODELS, build_model
from models.fused import fuse
from test import evaluate_run, load_run
from utils.checkpoint import load, load_weights, save
from utils.command_line import CommandParser, choose_device, run_command
from utils.distributed import seed_everything
from utils.evaluation import evaluate_windows
from utils.memory import keep_freed_memory
from utils.metrics import RunningIoU
from utils.run_dir import close_log, find_run, new_run, open_log, run_name

CHECKPOINT_EVERY = 5  # epochs between numbered checkpoints
LOWEST_LEARNING_RATE = 1e-5
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
    add("--decay_rate", type=float, default=1e-4, help="weight decay (Adam)")
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
    add("--threshold_eval", type=float, default=0.5, help="score threshold of IoU")
    add("--gpu", default="0", help="index of the GPU, or cpu")
    add("--gpu_num", type=positive(int), default=1, help="number of GPUs")
    add("--workers", type=int, default=2, help="processes that read clips; 0 for none")
    add("--seed", type=int, default=46, help="of weights, clips and losses")
    args = parser.parse_args(argv)
    if args.datapath is None:
        args.datapath = f"./datasets/{args.dataset}"
    if args.sample_rate is None:
        args.sample_rate = get_spec(args.dataset).sample_rate
    return args


def positive(kind):
    """An argparse type: a number above 0."""

    def convert(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
        return value

    convert.__name__ = kind.__name__
    return convert


def main(args):
    spec = get_spec(args.dataset)
    device = choose_device(args.gpu)
    if device.type == "cpu":
        keep_freed_memory()
    seed_everything(args.seed)
    clips, sequences = open_data(args, spec)
    model = build_model(args.model, args.seqlen).to(device)
    optimizer = OPTIMIZERS[args.optimizer](model.parameters(), args.learning_rate, args.decay_rate)
    criterion = build_loss(args.loss)

    run, state = open_run(args)
    log = Log(run.log_file(args.model))
    log_start(log, args, device, clips, sequences)
    first_epoch, best_iou = restore(log, run, state, args, model, optimizer)
    loader = DataLoader(
        clips,
        args.batch_size,
        num_workers=args.workers,
        drop_last=True,
        persistent_workers=False,
        pin_memory=device.type == "cuda",
    )
    for epoch in range(first_epoch, args.epoch):
        log(f"**** Epoch {epoch + 1} ({epoch + 1}/{args.epoch}) ****")
        rate = set_learning_rate(optimizer, args, epoch)
        log(f"Learning rate:{rate:f}")
        clips.set_epoch(epoch)
        loss, iou = train_one_epoch(
            model, loader, criterion, optimizer, device, args.threshold_eval, epoch
        )
        log(f"Training mean loss: {loss:f}")
        log(f"Training accuracy (IoU) of prediction: {iou:f}")
        state = {
            "epoch": epoch,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "args": vars(args),
        }
        if (epoch + 1) % CHECKPOINT_EVERY == 0 or epoch + 1 == args.epoch:
            save_logged(log, run.checkpoint(epoch + 1), state)
        log(f"---- EPOCH {epoch + 1:03d} EVALUATION ----")
        loss, iou = evaluate_windows(
            model.eval(),
            criterion,
            sequences,
            args.threshold_eval,
            device,
            progress=partial(tqdm, desc="Validating", unit="sequence", leave=False, disable=None),
        )
        log(f"Eval mean loss: {loss:f}")
        log(f"Eval avg class IoU of prediction: {iou:f}")
        if iou >= best_iou:
            best_iou = iou
            save_logged(log, run.checkpoint("best"), {**state, "class_avg_iou": iou})
        log(f"Best mIoU_mid: {best_iou:f}")
        save(run.checkpoint("last"), {**state, "best_iou": best_iou})
    close_log(log.logger)
    test_best(args, spec, run, device)


def open_data(args, spec):
    """Training clips and labelled test sequences of the data set."""
    prepare(spec, args.datapath)
    clips = TrainClips(
        find_sequences(spec, spec.train, args.datapath),
        spec.mean,
        spec.std,
        args.seqlen,
        args.patch_size,
        args.sample_rate,
        args.seed,
        spec.train_size,
    )
    if len(clips) < args.batch_size:
        raise ValueError(
            f"{len(clips)} clips an epoch do not fill one batch of {args.batch_size}; "
            "expected a smaller --batch_size or a larger --sample_rate"
        )
    files = find_sequences(spec, spec.test, args.datapath)
    return clips, LabelledSequences(files, spec.mean, spec.std, args.seqlen, spec.test_size)


def open_run(args):
    """The run folder, new or continued, and the state to continue from, or None."""
    if args.log_dir is None:
        name = run_name(args.dataset, datetime.now(), args.loss, args.model, args.seqlen)
        return new_run(args.savepath, name).create(), None
    run = find_run(args.savepath, args.log_dir).create()
    path = run.checkpoint("last")
    return run, load(path if path.is_file() else run.checkpoint("best"))


def restore(log, run, state, args, model, optimizer):
    """Loads the state of a continued run: (first epoch, best IoU so far)."""
    if state is None:
        log("No existing model, starting training from scratch...")
        return 0, -math.inf
    load_weights(model, state, args.model, run.path)
    optimizer.load_state_dict(state["optimizer_state_dict"])
    best_iou = float(state.get("best_iou", state.get("class_avg_iou", -math.inf)))
    log(f"Continuing {run.name} after epoch {state['epoch'] + 1}, best IoU {best_iou:f}")
    return state["epoch"] + 1, best_iou


def log_start(log, args, device, clips, sequences):
    """The first lines of a log: arguments, versions, device, amount of data."""
    log("PARAMETER ...")
    log(f"{args}")
    log(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, device {device}, seed {args.seed}"
    )
    log(f"The number of training data is: {len(clips)}")
    log(f"The number of test data is: {len(sequences)} sequences")


def set_learning_rate(optimizer, args, epoch):
    """lr x lr_decay every step_size epochs, not below 1e-5; returns it."""
    rate = args.learning_rate * args.lr_decay ** (epoch // args.step_size)
    rate = max(rate, LOWEST_LEARNING_RATE)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def train_one_epoch(model, loader, criterion, optimizer, device, threshold, epoch):
    """One pass over the loader: (mean loss, IoU of the training pixels).

    Raises:
        FloatingPointError: the loss is not finite; the weights are those before that step.
    """
    model.train()
    losses, iou = [], RunningIoU(threshold, device)
    with tqdm(loader, desc=f"Epoch {epoch + 1}", unit="batch", leave=False, disable=None) as bar:
        for step, (clip, mask) in enumerate(bar):
            clip, mask = clip.to(device, non_blocking=True), mask.to(device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            logits = model(clip)
            loss = criterion(logits, mask)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"epoch {epoch + 1}, step {step + 1}: the loss is {loss.item()}; expected a "
                    "finite number. Lower --learning_rate, or check the images; the checkpoints "
                    "of earlier epochs are unharmed"
                )
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            iou.update(logits.detach(), mask)
            bar.set_postfix(loss=f"{losses[-1]:.4f}", iou=f"{iou.iou():.4f}")
    return float(np.mean(losses)), iou.iou()


def save_logged(log, path, state):
    log("Save model...")
    log(f"Saving at {path}")
    save(path, state)
    log("Saving model....")


def test_best(args, spec, run, device):
    """Tests the best checkpoint, as `python test.py` does, and says how to repeat it."""
    name, model = load_run(run, None, args.seqlen)
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
    )
    print(
        f"  again: python test.py --dataset {args.dataset} --datapath {args.datapath} "
        f"--logpath {args.savepath} --log_dir '{run.name}'"
    )


class Log:
    """Writes each line to the log file, with a time stamp, and to the terminal."""

    def __init__(self, path):
        self.logger = open_log(path)

    def __call__(self, line):
        self.logger.info(line)
        tqdm.write(line, file=sys.stdout)


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
