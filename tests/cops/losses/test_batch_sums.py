"""A batch that is taken in parts has the loss and the gradient of the whole batch."""

from __future__ import annotations

from panoptic_common.compat.amp_trainer import AMPTrainer

import pytest
import torch
from cops_factory import C, make_image, tiny_model
from detectron2.utils.events import EventStorage
from split_batches import NUM_IMAGES, THROUGH_THE_SOLVER, masks_and_truths, share

from cops.losses.batch_sums import BatchParts, num_shares, sum_over_batch
from cops.losses.panoptic_quality import FORMS, smooth_panoptic_quality


def test_sums_by_hand():
    parts = BatchParts(3)
    for index in range(3):
        with parts.measuring(index):
            # While it is measured, a part sees itself only.
            assert float(sum_over_batch(torch.tensor(10.0**index))) == 10.0**index
    for index in range(3):
        own = torch.tensor(10.0**index, requires_grad=True)
        with parts.training(index):
            assert num_shares() == 3
            total = sum_over_batch(own)
        assert float(total.detach()) == 111
        (2 * total).backward()
        assert float(own.grad) == 2  # its own share only
    assert num_shares() == 1 and float(sum_over_batch(torch.tensor(5.0))) == 5


def test_another_number_of_sums_is_an_error():
    parts = BatchParts(1)
    with parts.measuring(0):
        sum_over_batch(torch.ones(1))
    with pytest.raises(RuntimeError, match="part 0 added 0 sums, and 1"), parts.training(0):
        pass


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [2, 4])
def test_panoptic_quality_of_parts_is_that_of_the_batch(form, count):
    limits = torch.tensor([6.0, 4.0, 3.0], dtype=torch.float64)

    def loss_of(predictions, truths):
        return smooth_panoptic_quality(predictions, truths, limits, form=form, linear_share=0.2)[0]

    predictions, truths = masks_and_truths()
    whole = loss_of(predictions, truths)
    whole.backward()
    expected = [prediction.masks.grad for prediction in predictions]

    predictions, truths = masks_and_truths()
    parts = BatchParts(count)
    for index in range(count):
        own = share(index, count)
        with torch.no_grad(), parts.measuring(index):
            loss_of(predictions[own], truths[own])
    for index in range(count):
        own = share(index, count)
        with parts.training(index):
            loss = loss_of(predictions[own], truths[own])
        assert float(loss.detach()) == pytest.approx(float(whole.detach()), abs=1e-12)
        loss.backward()
    for prediction, gradient in zip(predictions, expected, strict=True):
        torch.testing.assert_close(prediction.masks.grad, gradient, rtol=0, atol=1e-12)


def one_step(parts: int, training: str, changes: dict | None = None):
    """The loss and the gradients of one step of the trainer, and the model after it."""
    options = {**THROUGH_THE_SOLVER, C + "TRAINING": training, **(changes or {})}
    model = tiny_model(options).train()
    images = [make_image(seed) for seed in range(NUM_IMAGES)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    trainer = AMPTrainer(model, [images], optimizer, mixed=False, parts=parts)
    torch.manual_seed(0)
    with EventStorage() as storage:
        trainer.storage = storage
        trainer.iter = 0
        trainer.run_step()
        loss = storage.latest()["total_loss"][0]
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss, gradients, model


@pytest.mark.parametrize("training", ["surrogate", "separate"])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_network_gets_the_gradient_of_the_whole_batch(training, parts):
    loss, gradients, _ = one_step(1, training)
    found_loss, found, _ = one_step(parts, training)
    assert found_loss == pytest.approx(loss, rel=1e-5) and found.keys() == gradients.keys()
    norm = sum(float(g.double().square().sum()) for g in gradients.values()) ** 0.5
    error = sum(float((found[n] - g).double().square().sum()) for n, g in gradients.items()) ** 0.5
    assert norm > 0 and error < 1e-4 * norm


def test_random_numbers_and_running_statistics_are_those_of_one_pass():
    """Dropout of costs and lambdas are drawn twice, alike; batch norm remembers each part once."""
    drawn = {C + "LOSS.COST_DROPOUT": 0.3, C + "FREEZE": False}
    drawn[C + "BACKWARD.LAMBDA_RANGE"] = (1.0, 500.0)
    seen = {}
    for prepared in (True, False):
        model = tiny_model({**THROUGH_THE_SOLVER, **drawn}).train()
        images = [make_image(seed) for seed in range(NUM_IMAGES)]
        torch.manual_seed(0)
        with EventStorage():
            if prepared:
                contexts = model.prepare_parts([images[:2], images[2:]])
                for context, part in zip(contexts, (images[:2], images[2:]), strict=True):
                    with context:
                        model(part)
            else:
                for part in (images[:2], images[2:]):
                    model(part)
        seen[prepared] = (torch.rand(3), model.state_dict(), model.amwc.statistics.lambdas)
    assert torch.equal(seen[True][0], seen[False][0])
    for name, value in seen[True][1].items():
        assert torch.equal(value, seen[False][1][name]), name
