"""Every configuration loads and builds, and says what the papers say; every path in the README
and in docs/ exists."""

from __future__ import annotations

import re

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from project import ROOT

from panoptic_common.config import fill_classes, read_config
from panoptic_common.engine.optimizer import build_optimizer
from panoptic_common.values import flatten

CONFIGS = sorted((ROOT / "configs").glob("**/*.yaml"))
CLASSES = {
    "coco": (80, 53),
    "cityscapes": (8, 11),
    "scenes": (6, 6),
    "nuclei": (1, 1),
}  # things, stuff


def complete(cfg: CfgNode, things: int, stuff: int) -> CfgNode:
    flags = [1] * things + [0] * stuff
    fill_classes(cfg, [{"name": f"c{i}", "isthing": flag} for i, flag in enumerate(flags)])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_there_are_configs():
    assert len(CONFIGS) >= 20


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_config_builds(path):
    family = path.parent.name
    # A thin copy of the network: the keys are what is tested, R-101 with 1024-wide heads is not.
    cfg = complete(read_config(path), *CLASSES.get(family, (2, 2)))
    if cfg.MODEL.RESNETS.DEPTH > 50:
        cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    model = build_model(cfg)
    assert type(model).__name__ == cfg.MODEL.META_ARCHITECTURE
    if "COPS" in cfg.MODEL:
        check_cops(model, cfg.MODEL.COPS)
    elif "UNIFIED" in cfg.MODEL:
        check_unified(model, cfg)


def check_cops(model, node: CfgNode) -> None:
    assert (model.amwc is None) == (node.TRAINING == "pretrain")
    assert model.distances == tuple(node.DISTANCES)
    assert model.options.stride == node.INFERENCE.STRIDE
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("backbone.res5") for name in trained) == (not node.FREEZE)
    if node.TRAINING != "pretrain":
        assert model.amwc.settings.num_samples == node.BACKWARD.SAMPLES
        assert model.solver_loss.weight == node.LOSS.WEIGHT


def check_unified(model, cfg: CfgNode) -> None:
    node = cfg.MODEL.UNIFIED
    assert (model.affinity_head is not None) == node.AFFINITY.ENABLED
    assert model.panoptic_loss == node.PANOPTIC.ENABLED
    assert model.options.method == node.INFERENCE.METHOD
    assert model.roi_heads.mask_on == cfg.MODEL.MASK_ON


def test_base_configs_are_no_orphans():
    """Every Base file is used, and every leaf names a data set and a folder of its own."""
    used = set()
    for path in CONFIGS:
        for base in re.findall(r'^_BASE_: "(.*)"', path.read_text(), flags=re.M):
            used.add((path.parent / base).resolve())
    for path in CONFIGS:
        if path.stem.startswith("Base"):
            assert path in used
        else:
            assert read_config(path).DATASETS.TRAIN
            assert read_config(path).OUTPUT_DIR != get_cfg().OUTPUT_DIR


def test_cityscapes_says_what_the_paper_says():
    cfg = read_config(ROOT / "configs/unified/cityscapes/R50.yaml")
    node = cfg.MODEL.UNIFIED
    weights = (node.DETECTION.LOSS_WEIGHT, node.SEMANTIC.LOSS_WEIGHT, node.PANOPTIC.LOSS_WEIGHT)
    assert weights == (0.25, 1.0, 1.0)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.01, 65000)
    assert cfg.SOLVER.STEPS == (40000, 55000)
    assert cfg.SOLVER.IMS_PER_BATCH == 32 and cfg.SOLVER.REFERENCE_WORLD_SIZE == 4
    assert pytest.approx(1 / 3) == cfg.SOLVER.WARMUP_FACTOR and cfg.SOLVER.WARMUP_ITERS == 500
    assert tuple(cfg.INPUT.CROP.SIZE) == (512, 1024)
    assert tuple(cfg.INPUT.RANDOM_SCALE) == (0.5, 2.0)
    assert node.INFERENCE.SCORE_THRESH == 0.5 and node.POTENTIAL.VARIANT == "B"
    assert node.SEMANTIC.LOSS == "lovasz_softmax"
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "LovaszMaskHead"
    assert node.AFFINITY.CHANNELS == 128 and node.PANOPTIC.MATCH_IOU == 0.5


def test_coco_says_what_the_paper_says():
    cfg = read_config(ROOT / "configs/unified/coco/R50.yaml")
    node = cfg.MODEL.UNIFIED
    weights = (node.DETECTION.LOSS_WEIGHT, node.SEMANTIC.LOSS_WEIGHT, node.PANOPTIC.LOSS_WEIGHT)
    assert weights == (1.0, 0.2, 0.1)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.02, 200000)
    assert cfg.SOLVER.STEPS == (150000, 190000)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert node.INFERENCE.SCORE_THRESH == 0.75 and node.POTENTIAL.VARIANT == "C"


@pytest.mark.parametrize("family", ["cityscapes", "scenes"])
def test_table_1_differs_where_it_should(family):
    """A and C have neither affinity nor panoptic loss; C1/C2 and D1/D2 differ at inference only."""
    cfgs = {
        n: read_config(ROOT / f"configs/unified/{family}/{n}.yaml")
        for n in ["A", "B", "C1", "C2", "D1", "D2"]
    }
    table = {
        name: (
            cfg.MODEL.MASK_ON,
            cfg.MODEL.UNIFIED.AFFINITY.ENABLED,
            cfg.MODEL.UNIFIED.PANOPTIC.ENABLED,
            cfg.MODEL.UNIFIED.INFERENCE.METHOD,
        )
        for name, cfg in cfgs.items()
    }
    assert table == {
        "A": (False, False, False, "argmax"),
        "B": (False, True, True, "argmax"),
        "C1": (True, False, False, "heuristic"),
        "C2": (True, False, False, "argmax"),
        "D1": (True, True, True, "heuristic"),
        "D2": (True, True, True, "argmax"),
    }
    for first, second in (("C1", "C2"), ("D1", "D2")):
        # Evaluated with the weights of the other, into a folder of its own.
        weights = f"{cfgs[second].OUTPUT_DIR}/model_final.pth"
        assert weights == cfgs[first].MODEL.WEIGHTS
        assert cfgs[first].OUTPUT_DIR != cfgs[second].OUTPUT_DIR
        cfgs[first].MODEL.UNIFIED.INFERENCE.METHOD = "argmax"
        cfgs[first].MODEL.WEIGHTS = cfgs[second].MODEL.WEIGHTS
        cfgs[first].OUTPUT_DIR = cfgs[second].OUTPUT_DIR
        assert cfgs[first].dump() == cfgs[second].dump()


def test_no_two_configs_write_into_one_folder():
    """Else the results of the one would be taken for those of the other."""
    folders = [read_config(path).OUTPUT_DIR for path in CONFIGS if not path.stem.startswith("Base")]
    assert len(set(folders)) == len(folders)


def test_the_way_from_coco_to_cityscapes_keeps_all_layers_but_those_of_the_classes():
    """Table 4, R-101: one decoder depth, so that only class layers have other shapes."""
    cfgs = [
        complete(read_config(ROOT / f"configs/unified/{path}.yaml"), *CLASSES[path.split("/")[0]])
        for path in ("coco/R101", "cityscapes/R101_coco")
    ]
    assert f"{cfgs[0].OUTPUT_DIR}/model_final.pth" == cfgs[1].MODEL.WEIGHTS
    states = []
    for cfg in cfgs:
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 50, 32  # else alike
        states.append(build_model(cfg).state_dict())
    assert states[0].keys() == states[1].keys()
    differing = {n for n, value in states[0].items() if value.shape != states[1][n].shape}
    assert {name.rpartition(".")[0] for name in differing} == {
        "sem_seg_head.predictor",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    }


def test_coco_batches_hold_images_of_one_orientation_as_in_detectron2():
    default = get_cfg().DATALOADER.ASPECT_RATIO_GROUPING
    assert default is True
    for path in CONFIGS:
        if path.parent.name == "coco" and not path.stem.startswith("two_images"):
            assert default == read_config(path).DATALOADER.ASPECT_RATIO_GROUPING, path


@pytest.mark.parametrize("data", ["scenes", "nuclei"])
def test_the_peer_is_the_same_but_for_its_semantic_branch_and_merger(data):
    """Who compares two systems wants to know that nothing else differs."""
    peer = read_config(ROOT / f"configs/peers/{data}/panoptic_fpn.yaml")
    ours = read_config(ROOT / f"configs/unified/{data}/D2.yaml")
    limit = ours.MODEL.UNIFIED.INFERENCE.STUFF_AREA_LIMIT
    assert limit == peer.MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT
    del ours.MODEL["UNIFIED"]
    first, second = flatten(peer), flatten(ours)
    assert {key for key in first | second if first.get(key) != second.get(key)} == {
        *("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.ROI_HEADS.NAME"),
        *("MODEL.PANOPTIC.NUMBERING", "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT"),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "OUTPUT_DIR"),
    }


def test_lovasz_and_plain_mask_loss_are_configurable():
    cfg = complete(read_config(ROOT / "configs/unified/scenes/D2.yaml"), 6, 6)
    for name in ("LovaszMaskHead", "MaskRCNNConvUpsampleHead"):
        cfg.MODEL.ROI_MASK_HEAD.NAME = name
        assert type(build_model(cfg).roi_heads.mask_head).__name__ == name


def test_cops_says_what_the_paper_says():
    """Sections 3.1, 4.1, 4.2 and Table 2 of the COPS paper."""
    places = read_config(ROOT / "configs/cops/cityscapes/full.yaml")
    objects = read_config(ROOT / "configs/cops/coco/full.yaml")
    assert places.MODEL.COPS.DISTANCES == (1, 4, 16, 32, 64, 128)
    assert objects.MODEL.COPS.DISTANCES == (1, 4, 16, 32, 64)
    assert places.MODEL.COPS.BACKWARD.LAMBDA_RANGE == (1.0, 5000.0)
    assert objects.MODEL.COPS.BACKWARD.LAMBDA_RANGE == (1000.0, 5000.0)
    assert (places.SOLVER.BASE_LR, objects.SOLVER.BASE_LR) == (1e-3, 1e-4)
    assert (places.MODEL.COPS.LOSS.WEIGHT, objects.MODEL.COPS.LOSS.WEIGHT) == (10.0, 100.0)
    assert (places.SOLVER.MAX_ITER, objects.SOLVER.MAX_ITER) == (3000, 10000)
    assert tuple(places.INPUT.CROP.SIZE) == (512, 1024)
    assert tuple(objects.INPUT.CROP.SIZE) == (640, 640)
    # R(a, b, c): all values in [a, b] divisible by c.
    assert tuple(places.INPUT.MIN_SIZE_TRAIN) == tuple(range(512, 2049, 32))
    assert tuple(objects.INPUT.MIN_SIZE_TRAIN) == tuple(range(448, 769, 64))
    for cfg, stuff_limit in ((places, 2048), (objects, 4096)):
        node = cfg.MODEL.COPS
        assert node.BACKWARD.SAMPLES == 5 and node.LOSS.COST_DROPOUT == 0.1
        assert cfg.SOLVER.IMS_PER_BATCH == 24 and node.FREEZE
        assert node.PRETRAIN.THING_WEIGHT == 4.0 and node.PRETRAIN.SMALL_WEIGHT == 3.0
        limits = (node.INFERENCE.THING_AREA_LIMIT, node.INFERENCE.STUFF_AREA_LIMIT)
        assert limits == (200, stuff_limit)
    batches = {}
    for family in ("cityscapes", "coco"):
        solver = read_config(ROOT / f"configs/cops/{family}/pretrain.yaml").SOLVER
        batches[family] = (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.BASE_LR)
    assert batches == {"cityscapes": (12, 250000, 1e-3), "coco": (48, 240000, 1e-3)}


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_paths_in_documents_exist(document):
    """Paths in back-ticks and link targets that look like files of this project."""
    text = document.read_text()
    paths = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    tops = "configs|tools|tests|docs|panoptic_common|unified_panoptic|cops"
    paths += re.findall(rf"(?<![\w/.])((?:{tops})/[\w./-]*\w)", text)
    missing = [
        path
        for path in paths
        if not (ROOT / path).exists() and not (document.parent / path).exists()
    ]
    assert not missing, f"{document.name} names files that do not exist: {missing}"


def test_rows_of_the_choices_are_short() -> None:
    """A row is at most two lines of 100 columns; longer reasons stand in notes."""
    lines = (ROOT / "docs/choices.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) > 30
    assert [row for row in rows if len(row) > 200] == []


@pytest.mark.parametrize("family", ["scenes", "cityscapes"])
def test_rates_of_the_authors_reach_the_layers(family):
    """train_net.py of the COPS authors: 20 times less per layer away from the costs."""
    path = ROOT / f"configs/cops/{family}/full_rates_authors.yaml"
    cfg = complete(read_config(path), *CLASSES[family])
    model = build_model(cfg)
    rates = {
        id(parameter): group["lr"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    divisors = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in rates:
            rate = rates[id(parameter)]
            divisors.setdefault(rate and round(cfg.SOLVER.BASE_LR / rate), set()).add(name)
    assert set(divisors) == {0, 1, 20, 40, 60}
    assert {name.split(".")[0] for name in divisors[1]} == {"cost_scale"}
    distances = range(len(cfg.MODEL.COPS.DISTANCES))
    last = {f"affinity_head.classifiers.{i}.2" for i in distances} | {"sem_seg_head.predictor"}
    assert {name.rpartition(".")[0] for name in divisors[20]} == last
    inner = {name for name in divisors[40] if name.startswith("affinity_head.")}
    assert inner and all(re.match(r"affinity_head\.classifiers\.\d\.[01]\.", n) for n in inner)
    assert all(name.startswith("sem_seg_head.head.") for name in divisors[40] - inner)
    assert all(name.startswith("affinity_head.head.") for name in divisors[60])
    assert all(".decoder." in name for name in divisors[0])  # frozen


def test_the_middle_of_full_training_is_kept_for_table_5():
    cfg = read_config(ROOT / "configs/cops/cityscapes/full.yaml")
    assert 1500 % cfg.SOLVER.CHECKPOINT_PERIOD == 0 and cfg.SOLVER.CHECKPOINT_KEEP == 0
