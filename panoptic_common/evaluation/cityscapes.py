"""Cityscapes' own measures, by cityscapesscripts: instance AP, and IoU of classes and categories.

These figures differ from ours: the AP has other size rules than COCO's, and iIoU weighs pixels by
the size of their instance. The truth are the gtFine images and not the panoptic PNGs. They need
the files `*_gtFine_instanceIds.png` and `*_gtFine_labelIds.png`, and the package cityscapesscripts,
an extra that is imported only here and only when it is used.

Predictions go to a temporary folder as PNGs, since cityscapesscripts reads files.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from panoptic_common.evaluation.truth import PanopticTruth, describe, gather_list, output_of

logger = logging.getLogger(__name__)


def cityscapes_evaluators(truth: PanopticTruth) -> list[DatasetEvaluator]:
    """Make the two evaluators, or none and one line in the log that says why.

    Args:
        truth: of a data set in Cityscapes' layout.
    """
    folder = ground_truth_folder(truth.dataset_name)
    if importlib.util.find_spec("cityscapesscripts") is None:
        reason = (
            "the package cityscapesscripts is not installed "
            "(pip install --no-deps cityscapesscripts pyquaternion)"
        )
    elif not folder.is_dir():
        reason = f"there is no folder {folder} with the gtFine images"
    elif comm.get_local_size() != comm.get_world_size():
        reason = "it reads the predictions as files, and several machines share none"
    else:
        return [
            CityscapesInstanceEvaluator(truth, folder),
            CityscapesSemanticEvaluator(truth, folder),
        ]
    logger.info("Cityscapes' own measures are left out: %s.", reason)
    return []


def ground_truth_folder(dataset_name: str) -> Path:
    """Find the folder of gtFine images, `gtFine/<split>`, of a data set in Cityscapes' layout.

    It is the metadata's `gt_dir` if that is set, and otherwise follows from the place of the
    panoptic PNGs, `gtFine/cityscapes_panoptic_<split>`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("gt_dir"):
        return Path(metadata.gt_dir)
    pngs = Path(metadata.panoptic_root)
    return pngs.with_name(pngs.name.removeprefix("cityscapes_panoptic_"))


class _CityscapesEvaluator(DatasetEvaluator):
    """What both have in common: files in a folder of all processes, scored by the main one."""

    name: str  # of the results
    suffix: str  # of the truth's files

    def __init__(self, truth: PanopticTruth, folder: Path) -> None:
        from cityscapesscripts.helpers.labels import name2label

        unknown = [entry["name"] for entry in truth.table if entry["name"] not in name2label]
        if unknown:
            raise ValueError(
                f"{truth.dataset_name!r} has classes that Cityscapes has not: {unknown[:5]};"
                ' register it with evaluator_type="panoptic"'
            )
        self._truth = truth
        self._folder = folder
        self._labels = [name2label[entry["name"]].id for entry in truth.table]
        self._thing_labels = [name2label[entry["name"]].id for entry in truth.thing_table]
        self._predictions: tempfile.TemporaryDirectory | None = None

    def reset(self) -> None:
        """Start with an empty folder, the same on all processes."""
        self._clean_up()
        if comm.is_main_process():
            self._predictions = tempfile.TemporaryDirectory(prefix="cityscapes_")
        name = self._predictions.name if self._predictions is not None else ""
        self._path = Path(comm.all_gather(name)[0])
        self._pairs: list[tuple[str, str]] = []  # (prediction, truth), file names
        self._seen: list[Any] = []

    def _clean_up(self) -> None:
        if self._predictions is not None:
            self._predictions.cleanup()
            self._predictions = None

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Write the predictions of some images.

        Raises:
            ValueError: naming the image, if the output is missing or does not fit the data set.
            FileNotFoundError: if its gtFine image is missing.
        """
        for image, output in zip(inputs, outputs, strict=True):
            record = self._truth.record(image)
            # "<city>_<sequence>_<frame>_leftImg8bit.png"; cities have no underscore.
            stem = "_".join(Path(record["file_name"]).name.split("_")[:3])
            truth = self._folder / stem.split("_")[0] / f"{stem}_gtFine_{self.suffix}.png"
            if not truth.is_file():
                raise FileNotFoundError(f"{describe(record)} has no gtFine image {truth}")
            self._pairs.append((str(self._write(record, output, stem)), str(truth)))
            self._seen.append(record["image_id"])

    def _write(self, record: Mapping[str, Any], output: Mapping[str, Any], stem: str) -> Path:
        raise NotImplementedError

    def _score(self, predictions: list[str], truths: list[str]) -> dict[str, float]:
        raise NotImplementedError

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Score the files of all processes; to be called on each.

        Returns:
            ``{name: {figure: percent}}`` on the main process, {} on the others.
        """
        self._truth.check_complete(gather_list(self._seen))
        pairs = gather_list(self._pairs)
        if not comm.is_main_process():
            return {}
        try:
            with _as_cityscapesscripts_expects() as printed:
                results = self._score([p for p, _ in pairs], [t for _, t in pairs])
        except SystemExit as error:  # their way to report an error
            message = printed.getvalue().strip().splitlines()
            raise RuntimeError(f"cityscapesscripts stopped: {message[-1:]}") from error
        self._clean_up()
        percent = {key: 100 * float(value) for key, value in results.items()}
        text = ", ".join(f"{key} {value:.2f}" for key, value in percent.items())
        logger.info("%s of %s: %s", self.name, self._truth.dataset_name, text)
        return {self.name: percent}


@contextlib.contextmanager
def _as_cityscapesscripts_expects() -> Iterator[io.StringIO]:
    """Catch what cityscapesscripts prints, and lend numpy a function that it lost.

    cityscapesscripts 2.3 calls `np.in1d`, which numpy 2.4 removed; later versions may not.
    """

    def in1d(first: Any, second: Any, invert: bool = False) -> np.ndarray:
        return np.isin(np.ravel(first), second, invert=invert)

    lend = not hasattr(np, "in1d")
    if lend:
        np.in1d = in1d
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield printed
    finally:
        if lend:
            del np.in1d


class CityscapesInstanceEvaluator(_CityscapesEvaluator):
    """Cityscapes' mask AP ("AP") and AP at IoU 0.5 ("AP50") of `instances` with masks."""

    name = "cityscapes_instances"
    suffix = "instanceIds"

    def _write(self, record: Mapping[str, Any], output: Mapping[str, Any], stem: str) -> Path:
        lines = []
        instances = output.get("instances")
        # A model without instances or masks has nothing to write; its AP is 0.
        if instances is not None and instances.has("pred_masks"):
            masks = instances.pred_masks.detach().cpu().numpy().astype(bool)
            classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
            for number, (mask, label, score) in enumerate(zip(masks, classes, scores, strict=True)):
                name = f"{stem}_{number}.png"
                Image.fromarray(mask.astype(np.uint8) * 255).save(self._path / name)
                lines.append(f"{name} {self._thing_labels[label]} {score}\n")
        path = self._path / f"{stem}_instances.txt"
        path.write_text("".join(lines))
        return path

    def _score(self, predictions: list[str], truths: list[str]) -> dict[str, float]:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official

        args = copy.copy(official.args)
        args.predictionPath = str(self._path)
        args.quiet = True
        official.setInstanceLabels(args)
        # Its `evaluateImgLists` is these four calls, but also writes to the working folder.
        instances = official.instances2dict(truths)
        matches = official.matchGtWithPreds(predictions, truths, instances, args)
        averages = official.computeAverages(official.evaluateMatches(matches, args), args)
        return {"AP": averages["allAp"], "AP50": averages["allAp50%"]}


class CityscapesSemanticEvaluator(_CityscapesEvaluator):
    """Cityscapes' IoU of `sem_seg`: of classes, of categories ("_sup"), and by instance ("i")."""

    name = "cityscapes_sem_seg"
    suffix = "labelIds"

    def _write(self, record: Mapping[str, Any], output: Mapping[str, Any], stem: str) -> Path:
        scores = torch.as_tensor(output_of(record, output, "sem_seg"))
        if scores.shape[0] != self._truth.num_classes:
            raise ValueError(
                f"{describe(record)}: sem_seg has {scores.shape[0]} classes, the data set"
                f" {self._truth.num_classes}"
            )
        classes = scores.detach().argmax(dim=0).cpu().numpy()
        path = self._path / f"{stem}_classes.png"
        Image.fromarray(np.array(self._labels, np.uint8)[classes]).save(path)
        return path

    def _score(self, predictions: list[str], truths: list[str]) -> dict[str, float]:
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

        args = copy.copy(official.args)
        args.quiet = True
        args.JSONOutput = False
        results = official.evaluateImgLists(predictions, truths, args)
        return {
            "IoU": results["averageScoreClasses"],
            "iIoU": results["averageScoreInstClasses"],
            "IoU_sup": results["averageScoreCategories"],
            "iIoU_sup": results["averageScoreInstCategories"],
        }
