"""The worst sequences, their worst frames, and the temporal profiles of their targets."""

import numpy as np
import pytest

from tests.report.scored import MAIN, blocks_of, feed, in_processes, sequence_of
from utils.report.highlights import WORST, Highlights
from utils.report.profiles import RecentFrames


def half_found(index, frames=6):
    """(sequence, scores): `index` of its frames are found."""
    scores = np.zeros((frames, 20, 20), np.float32)
    centroids = np.zeros((frames, 20, 20), np.uint8)
    centroids[:, 10, 10] = 1
    scores[:index, 10, 10] = 1
    return sequence_of(f"s{index}", scores, centroids), scores


def test_highlights_keep_the_worst_sequences_only():
    highlights = Highlights(0.5, MAIN)
    for index in range(WORST + 3):
        feed([highlights], *half_found(index), size=2)
    unlabelled = sequence_of("unlabelled", np.ones((3, 9, 9), np.float32))
    feed([highlights], unlabelled, np.ones((3, 9, 9), np.float32))
    assert [strip.sequence for strip in highlights.strips] == [f"s{i}" for i in range(WORST)]
    assert {profile.verdict.split()[1] for profile in highlights.strips[1].profiles} == {
        "found",
        "missed",
    }


@pytest.mark.parametrize("size", [1, 4, 13])
def test_each_third_shows_its_worst_frame(size):
    scores = np.zeros((13, 20, 20), np.float32)
    centroids = np.zeros((13, 20, 20), np.uint8)
    centroids[:, 10, 10], scores[:, 10, 10] = 1, 1
    scores[2, 10, 10] = 0  # of frames 1 to 5, one is missed
    scores[[6, 7], 0, :3] = 1  # of frames 6 to 9, two are equally bad: the first is shown
    highlights = Highlights(0.5, MAIN)
    feed([highlights], sequence_of("s", scores, centroids), scores, size)
    (strip,) = highlights.strips
    assert strip.numbers == [3, 7, 10]
    assert strip.captions == [
        "0 of 1 targets found, 0 false-alarm pixels",
        "1 of 1 targets found, 3 false-alarm pixels",
        "1 of 1 targets found, 0 false-alarm pixels",
    ]
    np.testing.assert_array_equal(strip.frames, (255 * scores[[2, 6, 9]]).astype(np.uint8))


@pytest.mark.parametrize("size", [1, 16, 100])
@pytest.mark.parametrize(("frames", "about"), [(100, 3), (100, 99), (400, 250), (400, 10)])
def test_profiles_reach_a_hundred_frames_each_way_whatever_the_blocks(rng, size, frames, about):
    scores = rng.random((frames, 6, 7), np.float32) / 4 + 0.6
    centroids = (rng.random(scores.shape) < 0.05).astype(np.uint8)
    centroids[:, 0] = centroids[:, :, 0] = 0  # there, no target is found: the published slices
    scores[about], centroids[about] = 0.1, 0
    centroids[about, 3, 4] = 1  # the one target that is missed
    levels = rng.integers(0, 9999, scores.shape, dtype=np.uint16)
    highlights = Highlights(0.5, MAIN)
    feed([highlights], sequence_of("s", scores, centroids, levels), scores, size)
    missed, found = highlights.strips[0].profiles
    assert (missed.row, missed.column) == (3, 4)
    assert missed.verdict == f"target missed in frame {about + 1}"
    span = slice(max(about - 100, 0), min(about + 101, frames))
    assert missed.numbers.tolist() == list(range(span.start + 1, span.stop + 1))
    np.testing.assert_array_equal(missed.levels, levels[span, 3, 4])
    np.testing.assert_array_equal(missed.scores, scores[span, 3, 4])
    np.testing.assert_array_equal(missed.on_target, centroids[span, 3, 4] > 0)
    assert found.verdict.startswith("target found in frame ")
    number = int(found.verdict.split()[-1])
    assert found.scores[found.numbers == number] == scores[centroids > 0].max()


def test_recent_frames_are_few_where_they_are_large():
    scores = np.zeros((90, 30, 40), np.float32)
    sequence, of_frame = sequence_of("s", scores), 30 * 40 * 5
    recent = RecentFrames(reach=50, most_bytes=10 * of_frame)
    for block in blocks_of(sequence, scores, size=6):
        recent.add(block)
        held = sum(len(kept.scores) for kept in recent.passed)
        assert held <= 10 + 2 * 6
        profile = recent.record(block.stop - 1, 2, 3).profile()
        assert profile[0].tolist() == list(range(max(block.stop - 10, 1), block.stop + 1))


def test_several_processes_show_what_one_would():
    shown = [half_found(index) for index in (3, 1, 5, 1, 2, 3, 1)]
    for place, (sequence, _) in enumerate(shown):
        sequence.name = f"number {place}"

    def run(group):
        highlights = Highlights(0.5, MAIN)
        for sequence, scores in group.shard(shown):
            feed([highlights], sequence, scores)
        highlights.share(group)
        return [strip.sequence for strip in highlights.strips]

    alone = in_processes(1, run)[0]
    assert alone == ["number 1", "number 3", "number 6", "number 4"]
    assert in_processes(2, run)[0] == in_processes(3, run)[0] == alone
