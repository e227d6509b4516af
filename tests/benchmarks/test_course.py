"""The course's own code is the course's, and trains what the iterations say."""

import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import course
from mnist_exp.notebook import loading


@pytest.mark.parametrize("model", [3, 6])
def test_the_course_trained_the_network_of_the_iteration(model: int) -> None:
    """Also what it draws: its weights, and what it drops."""
    networks: list[nn.Module] = []
    for make in (course.NETWORKS[model], loading.load_iteration(model).recipe.network):
        torch.manual_seed(1)
        networks.append(make())
    images = torch.randn(4, 1, 28, 28)
    outputs = []
    for network in networks:
        torch.manual_seed(2)
        outputs.append(network(images).log_softmax(1))
    assert torch.allclose(*outputs, atol=1e-6)


def test_the_course_filled_corners_with_a_grey_value_of_one() -> None:
    torch.manual_seed(1)
    white = Image.new("L", (28, 28), 255)
    turned = torch.stack([course.ROTATED(white) for _ in range(50)])
    pixels = (turned * 0.3081 + 0.1307) * 255
    assert pixels.unique().round().unique().tolist() == [1, 255]
    assert len({int((image < 0).sum()) for image in turned}) > 5  # by different angles


@pytest.mark.parametrize("model", [3, 6])
def test_the_course_trained_as_the_iteration_does(model: int) -> None:
    own = loading.load_iteration(model).recipe
    network = own.network()
    optimizer, schedule = course.optimizing(model, network)
    ours = own.optimizer(network.parameters())
    assert optimizer.defaults == ours.defaults
    our_schedule = own.schedule(ours) if own.schedule else None
    assert type(schedule) is type(our_schedule)
    if schedule and our_schedule:
        assert schedule.state_dict() == our_schedule.state_dict()
    assert (own.batch_size, own.epochs) == (course.BATCH, course.EPOCHS)
