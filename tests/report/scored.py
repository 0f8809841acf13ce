"""Scored sequences as writers get them, in blocks; and several processes played by threads."""

import threading
from types import SimpleNamespace

import numpy as np

from models.detector import Detector
from tests.builders import ArraySequence, random_sequence
from utils.evaluation import Evaluator, ScoredBlock
from utils.process import in_turns
from utils.protocols import MAIN as MAIN_NAME
from utils.protocols import PROTOCOLS, choose
from utils.report.highlights import Highlights
from utils.report.results import header, summarise
from utils.scan import open_scan

MAIN = PROTOCOLS[MAIN_NAME]
ALWAYS = {protocol.name: protocol for protocol in choose()}  # what every test counts by


class Bright(Detector):
    """The logit of a pixel is its normalised grey level above a limit."""

    def __init__(self, limit=2.0):
        super().__init__(8)
        self.limit = limit

    def detect(self, clip):
        return 6 * (clip - self.limit)


def sequence_of(name, scores, centroids=None, frames=None):
    """A sequence with these centroids; its frames are the scores as grey levels if not given."""
    frames = (255 * np.nan_to_num(scores)).astype(np.uint8) if frames is None else frames
    return ArraySequence(name, frames, centroids)


def blocks_of(sequence, scores, size=7):
    """The sequence in `ScoredBlock`s of `size` frames."""
    for start in range(0, len(scores), size):
        part = slice(start, start + size)
        truth = (None if a is None else a[part] for a in (sequence.masks, sequence.centroids))
        yield ScoredBlock(sequence, start, sequence.frames[part], scores[part], *truth)


def block_of(scores, centroids=None, frames=None):
    """A whole sequence as one block."""
    (block,) = blocks_of(sequence_of("s", scores, centroids, frames), scores, len(scores))
    return block


def feed(writers, sequence, scores, size=7):
    """Gives a sequence to writers, as a test does."""
    for block in blocks_of(sequence, scores, size):
        for writer in writers:
            writer.add(block)
    for writer in writers:
        writer.end(sequence)


def evaluate_six(limit=2.0, protocols=()):
    """Tests `Bright` on six sequences, with low and high SNR among them: (metrics, strips)."""
    rng = np.random.default_rng(46)
    names = [f"Sequence{number}" for number in (47, 56, 85, 86, 87, 88)]
    sequences = []
    for index, name in enumerate(names):
        images, masks = random_sequence(rng, 12, 30, 34)
        images[masks > 0] = rng.integers(120, 220 + 5 * index, np.count_nonzero(masks))
        masks = (masks > 0).astype(np.uint8)
        sequences.append(ArraySequence(name, images, masks, normalisation=(105.4, 26.6)))
    detector = Bright(limit)
    highlights = Highlights(0.5, MAIN)
    scan = open_scan(detector, detector, batch_size=2)
    evaluation = Evaluator(scan, choose(protocols), 0.5, [highlights]).run(sequences)
    subsets = {"low_snr": names[:2], "high_snr": names[2:]}
    given = {"run": "bright", "name": "DeepPro", "detector": detector, "stabilise": False}
    tested, levels = SimpleNamespace(**given), {"mean": 105.4, "std": 26.6}
    metrics = summarise(evaluation, subsets, header(tested, "NUDT-MIRSDT", 0.5, levels))
    return metrics, highlights.strips


class ThreadGroup:
    """A `utils.process.Group` of threads: what `gather` gives is the same."""

    def __init__(self, rank, size, barrier, given):
        self.rank, self.size, self.is_main = rank, size, rank == 0
        self.barrier, self.given = barrier, given

    def shard(self, items):
        return items[self.rank :: self.size]

    def gather(self, items):
        self.given[self.rank] = list(items)
        self.barrier.wait(timeout=20)
        joined = in_turns([self.given[rank] for rank in range(self.size)])
        self.barrier.wait(timeout=20)
        return joined


def in_processes(size, work):
    """Results of `work(group)` of each of as many processes, which are threads."""
    barrier, given, results, errors = threading.Barrier(size), {}, [None] * size, []

    def run(rank):
        try:
            results[rank] = work(ThreadGroup(rank, size, barrier, given))
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results
