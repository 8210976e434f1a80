"""Outputs that a model may lack: left out if no image has them, an error if only some do."""

from __future__ import annotations

import logging

import pytest
from evaluation_outputs import perfect_output, run

from panoptic_common.evaluation.optional import OptionalEvaluator
from panoptic_common.evaluation.semantic import SemanticEvaluator


def evaluator(name: str) -> OptionalEvaluator:
    return OptionalEvaluator(SemanticEvaluator(name), "sem_seg")


def test_what_is_given_is_evaluated_as_without_it(tiny_dataset):
    wrapped = evaluator(tiny_dataset)
    plain = run(SemanticEvaluator(tiny_dataset), tiny_dataset, perfect_output)
    assert run(wrapped, tiny_dataset, perfect_output) == plain
    assert run(wrapped, tiny_dataset, perfect_output) == plain  # after a reset


def test_what_is_not_given_is_left_out_with_a_line_in_the_log(tiny_dataset, caplog):
    with caplog.at_level(logging.INFO):
        assert run(evaluator(tiny_dataset), tiny_dataset, lambda record, table: {}) == {}
    assert "gives no sem_seg: it is not evaluated" in caplog.text


@pytest.mark.parametrize("lacking", [100, 101])
def test_what_only_some_images_have_is_an_error(tiny_dataset, lacking):
    def some(record, table):
        return {} if record["image_id"] == lacking else perfect_output(record, table)

    with pytest.raises(ValueError, match=r"sem_seg|no prediction for 1"):
        run(evaluator(tiny_dataset), tiny_dataset, some)
