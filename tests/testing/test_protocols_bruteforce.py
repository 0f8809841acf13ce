"""Every protocol against a transcription of its definition, and against an independent package."""

import itertools
import json
import math

import numpy as np
import pytest

from tests.builders import ArraySequence
from utils.evaluation import Evaluation, ScoredBlock, SequenceResult
from utils.metrics import PixelIoU, find_targets
from utils.protocols import ALWAYS, OPERATING_POINT, PROTOCOLS, choose
from utils.protocols.components import find_components, measure
from utils.report.metrics_file import read_metrics
from utils.report.results import summarise, summary_lines, write_eval, write_results

CASES = 200
MATCHING = ("centroid3", "centroid3_legacy", "f1_2px", "f1_3px")
SEARCHED = [name for name in PROTOCOLS if name not in ALWAYS]


def block_of(scores, masks, centroids=None):
    centroids = masks if centroids is None else centroids
    sequence = ArraySequence("s", scores, masks, centroids)
    return ScoredBlock(sequence, 0, scores, scores, masks, centroids)


def random_block(rng):
    """Few small frames, crowded: blobs near targets, near each other and at the border."""
    shape = rng.integers(1, 4), rng.integers(6, 16), rng.integers(6, 16)
    masks, centroids = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    scores = rng.random(shape, dtype=np.float32) ** rng.uniform(2, 12)
    for frame in range(shape[0]):
        for _ in range(rng.integers(0, 4)):
            row, column = rng.integers(shape[1]), rng.integers(shape[2])
            masks[frame, row : row + rng.integers(1, 4), column : column + rng.integers(1, 4)] = 1
            centroids[frame, row : row + rng.integers(1, 3), column] = 1
            row, column = np.clip((row, column) + rng.integers(-3, 4, 2), 0, shape[1:])
            part = scores[frame, row : row + 3, column : column + 2]
            part[:] = np.maximum(part, rng.random(part.shape, dtype=np.float32))
    return block_of(np.round(scores, 2), masks, centroids)


def components(mask):
    """Pixels of each 8-connected component of (H, W), in the order of their first pixels."""
    found, seen = [], set()
    for start in zip(*map(list, np.nonzero(mask)), strict=True):
        if start in seen:
            continue
        seen.add(start)
        waiting, pixels = [start], []
        while waiting:
            row, column = waiting.pop()
            pixels.append((int(row), int(column)))
            for step in itertools.product((-1, 0, 1), repeat=2):
                near = row + step[0], column + step[1]
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and mask[near] and near not in seen:
                    seen.add(near)
                    waiting.append(near)
        found.append(pixels)
    return found


def centroid(pixels):
    rows, columns = zip(*pixels, strict=True)
    return sum(rows) / len(rows), sum(columns) / len(columns)


def frames_at(block, threshold):
    """(targets, detections) of each frame, as lists of components."""
    for scores, mask in zip(block.scores, block.centroids, strict=True):
        yield components(mask), components(scores >= np.float32(threshold))


def centroid3(block, threshold, by_area=False):
    """(detected targets, false-alarm pixels)."""
    detected = alarms = 0
    for targets, detections in frames_at(block, threshold):
        left, taken = list(detections), []
        for target in targets:
            for detection in left:
                if math.dist(centroid(target), centroid(detection)) < 3:
                    detected += 1
                    taken.append(detection)
                    left.remove(detection)
                    break
        if by_area:
            areas = [len(detection) for detection in taken]
            alarms += sum(len(d) for d in detections if len(d) not in areas)
        else:
            alarms += sum(map(len, detections)) - sum(map(len, taken))
    return detected, alarms


def most_pairs(targets, detections, limit):
    """The largest number of pairs at most `limit` apart, tried one by one."""
    if not targets:
        return 0
    best = most_pairs(targets[1:], detections, limit)
    for index, detection in enumerate(detections):
        if math.dist(centroid(targets[0]), centroid(detection)) <= limit:
            rest = detections[:index] + detections[index + 1 :]
            best = max(best, 1 + most_pairs(targets[1:], rest, limit))
    return best


def f1(block, threshold, limit):
    """(pairs, detections, targets)."""
    counts = np.zeros(3, int)
    for targets, detections in frames_at(block, threshold):
        counts += most_pairs(targets, detections, limit), len(detections), len(targets)
    return tuple(counts.tolist())


def overlap(block, threshold):
    """(IoU, nIoU with empty frames 0, 1, left out); None for 0 / 0."""
    intersections, unions, shares, empty = 0, 0, [], 0
    for scores, mask in zip(block.scores, block.masks, strict=True):
        positive = scores > np.float32(threshold)
        intersection, union = (positive & (mask > 0)).sum(), (positive | (mask > 0)).sum()
        intersections, unions = intersections + intersection, unions + union
        if union:
            shares.append(intersection / union)
        else:
            empty += 1
    count = len(shares) + empty
    return (
        intersections / unions if unions else None,
        sum(shares) / count,
        (sum(shares) + empty) / count,
        sum(shares) / len(shares) if shares else None,
    )


def roc3d(block, threshold):
    """(detected, targets, alarms outside the boxes, pixels outside the boxes)."""
    detected = targets = alarms = outside = 0
    for scores, mask in zip(block.scores, block.centroids, strict=True):
        positive, free = scores >= np.float32(threshold), np.ones(scores.shape, bool)
        for target in components(mask):
            row, column = (math.floor(place + 0.5) for place in centroid(target))
            box = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            targets += 1
            detected += positive[box].any()
            free[box] = False
        alarms, outside = alarms + (positive & free).sum(), outside + free.sum()
    return int(detected), targets, int(alarms), int(outside)


def counted(name, block, index):
    """What the protocol counts at the index-th threshold, in the form of the transcriptions."""
    protocol = PROTOCOLS[name]
    counts = protocol.count(block)
    if name.startswith("centroid3"):
        return counts["detected"][index], counts["false_alarm_pixels"][index]
    if name.startswith("f1"):
        return counts["matched"][index], counts["detections"][index], counts["targets"]
    if name == "iou_niou":
        figures = protocol.figures(counts)
        return tuple(figures[key][index] for _, key, _, _ in protocol.columns)
    keys = ("detected", "targets", "background_alarms", "background_pixels")
    return tuple(counts[k][index] if counts[k].ndim else counts[k] for k in keys)


DEFINITIONS = {
    "centroid3": centroid3,
    "centroid3_legacy": lambda block, threshold: centroid3(block, threshold, by_area=True),
    "f1_2px": lambda block, threshold: f1(block, threshold, 2),
    "f1_3px": lambda block, threshold: f1(block, threshold, 3),
    "iou_niou": overlap,
    "roc3d": roc3d,
}


@pytest.mark.parametrize("name", SEARCHED)
def test_each_protocol_is_what_its_definition_says(name):
    assert name in DEFINITIONS, f"write down the definition of {name} in DEFINITIONS"
    rng, protocol = np.random.default_rng(46), PROTOCOLS[name]
    for _ in range(CASES):
        block = random_block(rng)
        for index in rng.choice(len(protocol.thresholds), 3, replace=False):
            expected = DEFINITIONS[name](block, protocol.thresholds[index])
            assert counted(name, block, index) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("name", SEARCHED)
def test_what_pictures_show_is_what_is_counted(name):
    rng, protocol = np.random.default_rng(3), PROTOCOLS[name]
    detected, alarms = {
        "iou_niou": (None, None),
        "roc3d": ("detected", "background_alarms"),
        "f1_2px": ("matched", None),
        "f1_3px": ("matched", None),
    }.get(name, ("detected", "false_alarm_pixels"))
    known = {detected, alarms, None} - {*protocol.count(random_block(rng)).counts}
    assert known <= {None}, f"name the counts of {name} that pictures show in this test's table"
    for _ in range(30):
        block = random_block(rng)
        counts = protocol.count(block)
        for index in rng.choice(len(protocol.thresholds), 3, replace=False):
            threshold = protocol.thresholds[index]
            found, false = protocol.found(block, threshold), protocol.alarms(block, threshold)
            assert found.shape == (block.targets().count,) and found.dtype == false.dtype == bool
            assert false.shape == block.scores.shape
            assert detected is None or found.sum() == counts[detected][index]
            assert alarms is None or false.sum() == counts[alarms][index]
            if name in MATCHING:  # whole components are false or not
                pixels = block.components(threshold)
                shown = false[tuple(pixels.pixels.T)]
                assert len({*zip(pixels.owner.tolist(), shown.tolist(), strict=True)}) == (
                    pixels.count
                )


def test_the_legacy_count_loses_a_false_detection_as_large_as_a_found_target():
    scores, masks = np.zeros((1, 12, 12), np.float32), np.zeros((1, 12, 12), np.uint8)
    masks[0, 2, 2] = 1
    scores[0, 2, 2:4] = scores[0, 9, 8:10] = scores[0, 6, 5] = 0.8
    block, at = block_of(scores, masks), PROTOCOLS["centroid3"].thresholds.index(0.5)
    alarms = {
        name: PROTOCOLS[name].count(block)["false_alarm_pixels"][at]
        for name in ("centroid3", "centroid3_legacy")
    }
    assert alarms == {"centroid3": 3, "centroid3_legacy": 1}


def test_as_many_pairs_are_formed_as_there_can_be():
    scores, masks = np.zeros((1, 5, 12), np.float32), np.zeros((1, 5, 12), np.uint8)
    masks[0, 2, [3, 5]] = 1
    scores[0, 2, [4, 7]] = 0.9  # the first is near both targets, the second near one only
    protocol = PROTOCOLS["f1_2px"]
    figures = protocol.figures(protocol.count(block_of(scores, masks)))
    assert figures["f1"][protocol.thresholds.index(0.5)] == 1


@pytest.mark.parametrize("share", [0.01, 0.1, 0.6])
def test_many_and_few_positive_pixels_are_measured_alike(rng, share):
    positive = rng.random((4, 40, 50)) < share
    expected, found = measure(find_targets(positive)), find_components(positive)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_counts_of_parts_add_up_to_those_of_the_whole(name):
    rng, protocol = np.random.default_rng(5), PROTOCOLS[name]
    blocks = [random_block(rng) for _ in range(12)]
    wide = max(block.scores.shape[1] for block in blocks), max(b.scores.shape[2] for b in blocks)

    def joined(arrays):
        sizes = [[(0, 0), (0, wide[0] - a.shape[1]), (0, wide[1] - a.shape[2])] for a in arrays]
        padded = [np.pad(array, size) for array, size in zip(arrays, sizes, strict=True)]
        return padded, np.concatenate(padded)

    arrays = [joined([getattr(b, key) for b in blocks]) for key in ("scores", "masks", "centroids")]
    whole = protocol.count(block_of(*(array for _, array in arrays)))
    parts = [protocol.count(block_of(*part)) for part in zip(*(p for p, _ in arrays), strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total.as_dict() == whole.as_dict()
    json.dumps(protocol.figures(total), allow_nan=False)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_figures_are_plain_and_none_without_denominator(name):
    protocol = PROTOCOLS[name]
    empty = np.zeros((2, 6, 6), np.uint8)
    figures = protocol.figures(protocol.count(block_of(empty.astype(np.float32), empty)))
    json.dumps(figures, allow_nan=False)
    assert {key for _, key, _, _ in protocol.columns} <= figures.keys()
    for figure in figures.values():
        assert not isinstance(figure, list) or len(figure) == len(protocol.thresholds)
    at = protocol.thresholds.index(OPERATING_POINT)
    undefined = {"pd", "precision", "recall", "f1", "tpr", "iou", "niou_without_empty"}
    for key in undefined & figures.keys():
        assert figures[key][at] is None


def test_the_areas_of_a_faultless_detector():
    masks = np.zeros((2, 12, 14), np.uint8)
    masks[0, 5, 6] = masks[1, 0, 0] = 1
    figures = PROTOCOLS["roc3d"].figures(PROTOCOLS["roc3d"].count(block_of(masks * 1.0, masks)))
    # At tau = 0 every pixel is positive: a triangle under the threshold's first step.
    expected = {"auc_fd": 1, "auc_td": 1, "auc_tf": 0.005, "od": 1.995, "td": 2, "bs": 0.995}
    assert {key: figures[key] for key in expected} == pytest.approx(expected)
    assert (figures["tdbs"], figures["snpr"]) == pytest.approx((0.995, 200))


def test_the_areas_are_trapezoids_over_the_grid():
    protocol, rng = PROTOCOLS["roc3d"], np.random.default_rng(8)
    masks = np.zeros((3, 10, 10), np.uint8)
    masks[:, 4, 4] = 1
    figures = protocol.figures(protocol.count(block_of(rng.random((3, 10, 10)), masks)))
    tpr, fpr, tau = figures["tpr"], figures["fpr"], protocol.thresholds

    def area(heights, places):
        pairs = itertools.pairwise(zip(places, heights, strict=True))
        return sum((b - a) * (low + high) / 2 for (a, low), (b, high) in pairs)

    assert figures["auc_fd"] == pytest.approx(-area(tpr, fpr))
    assert figures["auc_td"] == pytest.approx(area(tpr, tau))
    assert figures["auc_tf"] == pytest.approx(area(fpr, tau))


def test_a_test_counts_by_the_published_radii_always_and_by_what_it_is_asked_for():
    assert [protocol.name for protocol in choose()] == list(ALWAYS)
    assert [protocol.name for protocol in choose(["roc3d", ALWAYS[1]])] == [*ALWAYS, "roc3d"]


def test_all_protocols_are_written_and_read_back(tmp_path, rng):
    results = []
    for name in ("Sequence47", "Sequence85"):
        block = random_block(rng)
        counts = {protocol.name: protocol.count(block) for protocol in PROTOCOLS.values()}
        iou = PixelIoU(0.5)
        iou.update(block.scores, block.masks)
        results.append(SequenceResult(name, True, len(block.scores), counts, iou))
    evaluation = Evaluation(tuple(PROTOCOLS.values()), results)
    about = {"run": "r", "model": "m", "dataset": "d", "seqlen": 5, "threshold_eval": 0.5}
    metrics = summarise(evaluation, {"low_snr": ["Sequence47"]}, about)
    _, path, _ = write_results(tmp_path, "", metrics, [], PROTOCOLS["centroid3"])
    for name, protocol in PROTOCOLS.items():
        write_eval(tmp_path / "eval.txt", metrics, protocol)
        lines = (tmp_path / "eval.txt").read_text().count("Th_Seg = ")
        assert lines == 4 * len(protocol.thresholds)  # two sequences, two subsets
        read = read_metrics(path)["protocols"][name]
        assert read["thresholds"] == list(protocol.thresholds)
        assert all(key in read["subsets"]["all"] for _, key, _, _ in protocol.columns)
    whole = metrics["protocols"]["iou_niou"]["subsets"]["all"]["iou"]
    assert whole[PROTOCOLS["iou_niou"].thresholds.index(0.5)] == metrics["iou"]
    assert len(summary_lines(metrics)) == 2 * len(PROTOCOLS) + 3


@pytest.fixture
def package():
    return pytest.importorskip("py_irstd_metrics")


def test_an_independent_package_agrees_on_centroid3(package):
    rng, at = np.random.default_rng(9), PROTOCOLS["centroid3"].thresholds.index(0.5)
    for _ in range(CASES):
        block = random_block(rng)
        block.scores[block.scores == 0.5] = 0.51  # it takes scores above, not at 0.5
        theirs = package.ProbabilityDetectionAndFalseAlarmRate(distance_threshold=3)
        for scores, mask in zip(block.scores, block.centroids, strict=True):
            theirs.update(scores, mask > 0)
        counts = PROTOCOLS["centroid3"].count(block)
        assert counts["detected"][at] == theirs.tp_objs[0]
        assert counts["targets"] == theirs.tp_objs[0] + theirs.fn_objs[0]
        assert counts["false_alarm_pixels"][at] == theirs.fp_area[0]


def test_an_independent_package_agrees_on_the_radii_away_from_the_border(package):
    rng, protocol = np.random.default_rng(10), PROTOCOLS[ALWAYS[0]]
    for _ in range(CASES):
        scores = rng.random((1, 20, 22), dtype=np.float32) ** 3
        mask = np.zeros(scores.shape, np.uint8)
        mask[0, rng.integers(4, 20, 3), rng.integers(4, 22, 3)] = 1
        theirs = package.ShootingRuleBasedProbabilityDetectionAndFalseAlarmRate()
        theirs.update(scores[0], mask[0] > 0)
        counts, at = protocol.count(block_of(scores, mask)), protocol.thresholds.index(0.5)
        assert counts.targets == theirs.total_objs
        assert counts.detected[at] == theirs.tp_objs[0]
        assert counts.false_alarm_pixels[at] == theirs.fp_area[0]


def test_an_independent_package_agrees_on_iou_and_niou_with_empty_frames_zero(package):
    rng, protocol = np.random.default_rng(11), PROTOCOLS["iou_niou"]
    at = protocol.thresholds.index(0.5)
    for _ in range(CASES):
        block = random_block(rng)
        theirs = package.CMMetrics()
        for name, per_frame in (("iou", False), ("niou", True)):
            handler = package.IoUHandler(
                with_dynamic=False, with_binary=True, sample_based=per_frame
            )
            theirs.add_handler(name, handler)
        for scores, mask in zip(block.scores, block.masks, strict=True):
            theirs.update(scores, mask > 0)
        figures, found = protocol.figures(protocol.count(block)), theirs.get()
        assert (figures["iou"][at] or 0) == pytest.approx(found["iou"]["binary"])
        assert figures["niou_empty_0"][at] == pytest.approx(found["niou"]["binary"], abs=1e-11)
