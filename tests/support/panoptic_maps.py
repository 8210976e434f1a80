"""True and predicted panoptic maps to count matches in: random, perturbed, or of one row."""

from __future__ import annotations

import numpy as np

from panoptic_common.coco.quality import PanopticStatistics, match_segments
from panoptic_common.coco.segment_ids import update_segments


def statistics_of(images, num_classes: int, **keywords) -> PanopticStatistics:
    """Ours, over images (truth, truth segments, prediction, prediction segments)."""
    total = PanopticStatistics.zeros(num_classes)
    for image in images:
        total += match_segments(*image, num_classes, **keywords).statistics(num_classes)
    return total


def voronoi(rng: np.random.Generator, height: int, width: int, segments: int) -> np.ndarray:
    """(H, W) cells 0..segments-1 around random centres, some of them without a pixel."""
    rows, columns = np.mgrid[:height, :width]
    centres = rng.uniform(0, [height, width], size=(segments, 2))
    metric = rng.uniform(0.5, 2, size=(segments, 1, 1))
    distance = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    return np.argmin(distance * metric, axis=0)


def random_image(
    rng: np.random.Generator,
    height: int = 40,
    width: int = 56,
    segments: int = 14,
    num_classes: int = 4,
    agreement: float = 0.6,
    unlisted: float = 0.3,
):
    """A truth with void and crowds, and a prediction that follows it for some cells.

    Ids are drawn from all 24 bits and listed in random order, for the last crowd counts. One true
    segment is left out of the list with the probability `unlisted`.
    """
    cells = voronoi(rng, height, width, segments)
    noise = rng.random((height, width)) > rng.uniform(0.7, 1)
    other = voronoi(rng, height, width, segments)
    follows = rng.random(segments) < agreement
    predicted = np.where(follows[cells] & ~noise, cells, segments + other)
    ids = rng.choice(2**24 - 3, size=3 * segments, replace=False) + 1
    classes = rng.integers(num_classes, size=3 * segments)
    classes[segments : 2 * segments] = rng.integers(num_classes, size=segments)
    class_of_prediction = classes.copy()
    wrong = rng.random(3 * segments) < 0.15
    class_of_prediction[wrong] = rng.integers(num_classes, size=wrong.sum())

    truth = ids[cells].astype(np.int32)
    truth[np.isin(cells, np.flatnonzero(rng.random(segments) < 0.15))] = 0
    truth_segments = [
        {"id": int(ids[c]), "category_id": int(classes[c]), "iscrowd": int(rng.random() < 0.3)}
        for c in rng.permutation(segments)
    ]
    truth_segments = update_segments(truth, truth_segments)
    if rng.random() < unlisted and len(truth_segments) > 1:
        truth_segments.pop()  # its pixels stay: neither void nor a segment
    if rng.random() < 0.3:  # listed, but without a pixel; after the crowds, so that it is the last
        truth_segments.append({"id": 2**24 - 1, "category_id": 0, "iscrowd": 1, "area": 9})
        truth_segments.append({"id": 2**24 - 2, "category_id": 0, "iscrowd": 0, "area": 9})
    # Predicted ids coincide with other true ids here and there; that must not matter.
    shuffled = rng.permutation(ids)
    prediction = shuffled[predicted].astype(np.int32)
    prediction[np.isin(predicted, np.flatnonzero(rng.random(2 * segments) < 0.1))] = 0
    prediction_segments = [
        {"id": int(shuffled[c]), "category_id": int(class_of_prediction[c])}
        for c in rng.permutation(2 * segments)
        if (prediction == shuffled[c]).any()
    ]
    return truth, truth_segments, prediction, prediction_segments


def perturbed(rng: np.random.Generator, truth: np.ndarray, truth_segments, num_classes: int):
    """A plausible prediction: the truth shifted, with segments merged, lost or of wrong class."""
    shift = rng.integers(-4, 5, size=2)
    prediction = np.roll(truth, shift, axis=(0, 1))
    segments = [{"id": s["id"], "category_id": s["category_id"]} for s in truth_segments]
    for segment in segments:
        fate = rng.random()
        if fate < 0.1:
            prediction[prediction == segment["id"]] = 0
        elif fate < 0.2:
            segment["category_id"] = int(rng.integers(num_classes))
        elif fate < 0.3:
            prediction[prediction == segment["id"]] = segments[0]["id"]
    return prediction, [s for s in segments if (prediction == s["id"]).any()]


def one_row(labels):
    return np.array([labels], dtype=np.int32)


def listed(*segments):
    return [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments]
