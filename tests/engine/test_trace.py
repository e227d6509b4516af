"""What the engine leaves to torch, step by step or as a whole, and says so."""

import contextlib
import copy
import dataclasses
import itertools
import pickle
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import Apply, check, computed, in_engine, noise
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from mnist_exp.common import interrupts
from mnist_exp.engine.compiled import CompiledNetwork
from mnist_exp.engine.reads import Snapshot, calls_into

IMAGES = noise(19, 2, 9, 9)


def conv(inputs: int = 4, outputs: int = 4) -> nn.Conv2d:
    torch.manual_seed(inputs)
    return nn.Conv2d(inputs, outputs, 3, padding=1)


# ---- Steps by torch -----------------------------------------------------------------------------


class Straight(torch.autograd.Function):
    """Rounds, and lets the gradient pass."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Straight.apply(x)


class Scaled(nn.Module):
    """Each channel by a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 4).view(1, 4, 1, 1))
        self.register_buffer("shift", torch.linspace(-1, 1, 4).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Signed(nn.Module):
    """Does one thing or another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if x.mean() > 0 else self.other(x)


class Counting(nn.Module):
    """Its factor grows from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Lines(nn.Module):
    """A convolution over the rows of an image as if they were one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flatten(2)).view(x.shape)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return mixed.transpose(1, 2).reshape(x.shape)


def hooked() -> nn.Module:
    layer = conv()
    layer.register_forward_hook(lambda _, __, output: 2 * output)
    return layer


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


STEPS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "group norm": (lambda: nn.GroupNorm(2, 4), ("step",)),
    "layer norm": (lambda: nn.LayerNorm((9, 9)), ("step",)),
    "leaky": (lambda: nn.LeakyReLU(0.1), ("step",)),
    "leaky in place": (lambda: nn.LeakyReLU(0.1, inplace=True), ("step",)),
    "elu in place": (lambda: Apply(lambda x: F.elu_(x)), ("elu_",)),
    "prelu": (lambda: nn.PReLU(4), ("step",)),
    "circular": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), ("step",),
    ),
    "conv in one dimension": (Lines, ("step.conv", "view")),
    "autograd function": (Rounded, ("step",)),
    "a parameter": (Scaled, ("mul", "add")),
    "control flow": (Signed, ("step",)),
    "counting": (Counting, ("step",)),
    "softmax": (lambda: nn.Softmax(1), ("step",)),
    "einsum": (lambda: Apply(lambda x: torch.einsum("nchw,ndhw->nchw", x, x)), ("einsum",)),
    "interpolate": (
        lambda: Apply(lambda x: F.interpolate(x, scale_factor=2)), ("interpolate",),
    ),
    "attention": (Attention, ("step.attention", "reshape")),
    "weight norm": (lambda: parametrizations.weight_norm(conv()), ("step",)),
    "spectral norm": (lambda: frozen(parametrizations.spectral_norm(conv())), ("step",)),
    "hooked": (hooked, ("step",)),
    "power": (lambda: Apply(lambda x: x**2), ("pow",)),
    "halves": (lambda: Apply(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)), ("chunk", "cat")),
    "slice": (lambda: Apply(lambda x: x[:, 1:]), ("getitem",)),
    "turned": (lambda: Apply(lambda x: x.permute(0, 1, 3, 2)), ("permute",)),
    "turned within": (lambda: Apply(lambda x: x.permute(3, 1, 2, 0).permute(3, 1, 2, 0)),
                      ("permute",)),
    "detached": (lambda: Apply(lambda x: x.detach() * x), ("detach",)),
    "mean of all": (lambda: Apply(lambda x: x - x.mean()), ("mean", "sub")),
    "mean of a batch": (lambda: Apply(lambda x: x - x.mean(0)), ("mean", "sub")),
    "mean of a row": (lambda: Apply(lambda x: x * x.mean(3, keepdim=True)), ("mean", "mul")),
    "own window": (lambda: Apply(lambda x: F.avg_pool2d(x, (x.size(2), x.shape[3]))),
                   ("avg_pool2d",)),
    "window of its size": (lambda: Apply(lambda x: F.max_pool2d(x, x.size()[2:])),
                           ("max_pool2d",)),
    "maximum": (lambda: Apply(lambda x: torch.maximum(x, x.tanh())), ("maximum",)),
    "double": (lambda: Apply(lambda x: x.double().sin().float()), ("float",)),
    "tensor divided": (lambda: Apply(lambda x: x / (1 + x.sigmoid())), ("truediv",)),
    "number divided": (lambda: Apply(lambda x: 1 / (2 + x.sigmoid())), ("truediv",)),
}  # fmt: skip


class Between(nn.Module):
    """A step with layers of the engine's before it and behind it, or not."""

    def __init__(self, step: nn.Module, *, before: bool, behind: bool) -> None:
        super().__init__()
        self.before = nn.Sequential(conv(2), nn.BatchNorm2d(4), nn.SiLU()) if before else None
        self.step = step
        self.behind = nn.Sequential(nn.AdaptiveMaxPool2d(6), nn.GELU()) if behind else None

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(x)
        x = self.step(x)
        if self.behind is not None:
            x = self.behind(x)
            x = x + F.silu(x.mean((2, 3), keepdim=True))
        return x


PLACED = [
    (name, place) for name in STEPS for place in ("beginning", "middle", "end")
    if not ("in place" in name and place == "beginning")  # that would change the images
]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), PLACED)
def test_a_step_that_the_engine_does_not_know(name: str, place: str) -> None:
    make, expected = STEPS[name]
    torch.manual_seed(3)
    network = Between(make(), before=place != "beginning", behind=place != "end")
    images = IMAGES if place != "beginning" else noise(19, 4, 9, 9)
    check_in_part(network, images, expected, steps=2)


def check_in_part(
    network: nn.Module, images: Tensor, expected: tuple[str, ...], **rest: Any
) -> None:
    """As `check`, of what torch does among others."""
    _, names = in_engine(copy.deepcopy(network), images)
    assert not any("whole" in name for name in names), names
    assert set(expected) <= set(names), names
    check(network, images, through_torch=names, **rest)


class Several(nn.Module):
    """Segments of the engine with torch between them, whose values meet again."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(2), conv(), conv()
        self.norm, self.group = nn.BatchNorm2d(4), nn.GroupNorm(1, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.last = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = F.relu(self.one(x))
        y = self.group(x)
        z = self.two(y) + x
        w = F.softplus(z) * self.scale
        x = self.norm(self.three(w)) * y + torch.tanh(x)
        features = torch.cat([v.mean((2, 3)) for v in (x, z, w)], 1)
        return self.last(features)


def test_segments_with_torch_between_them() -> None:
    torch.manual_seed(1)
    check_in_part(Several(), IMAGES, ("group", "softplus", "mul"), steps=3)


def test_some_of_it_is_not_trained() -> None:
    torch.manual_seed(1)
    for still in ("one", "two", "three", "norm", "group", "last"):
        network = Several()
        getattr(network, still).requires_grad_(False)
        check_in_part(network, IMAGES, ("group",), steps=2)
    check(network.requires_grad_(False), IMAGES, through_torch=("group", "softplus", "mul"))


# ---- Wholly by torch ----------------------------------------------------------------------------

RATE, RATES, COUNTER, CALLS = 0.5, [0.5], itertools.count(1), [1]


class Own(nn.Module):
    """Settings of a module's own."""

    rate = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(2)
        self.calls, self._calls, self._list, self.rates = 0, 0, [1], [1.0]
        self.weight = torch.ones(4, 1, 1)
        self.register_buffer("seen", torch.ones(()))
        self.generator = random.Random(1)
        self.options = {"rate": 0.5}


def counts(self: Own, x: Tensor) -> Tensor:
    self._calls += 1
    return self.conv(x) * self._calls


def lists(self: Own, x: Tensor) -> Tensor:
    self._list.append(1)
    return self.conv(x) * len(self._list)


def writes(self: Own, x: Tensor) -> Tensor:
    self.options["rate"] = self.options["rate"] + 1
    return self.conv(x) * self.options["rate"]


def sets(self: Own, x: Tensor) -> Tensor:
    setattr(self, "cal" + "ls", self.calls + 1)
    return self.conv(x) * self.calls


def draws(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) * random.random()


def draws_by_torch(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) * torch.rand(1).item()


def draws_by_numpy(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) * float(np.random.rand())  # noqa: NPY002


def draws_by_its_own(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) * self.generator.random()


def counts_globally(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) * next(COUNTER)


def lists_globally(self: Own, x: Tensor) -> Tensor:
    CALLS.append(1)
    return self.conv(x) * len(CALLS)


def changes_a_global(self: Own, x: Tensor) -> Tensor:
    global RATE
    RATE *= 1.5
    return self.conv(x) * RATE


def looks(self: Own, x: Tensor) -> Tensor:
    x = self.conv(x)
    return x if x.sum() > 0 else -x


def measures(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) / len(x)


def takes_the_time(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) * float(time.perf_counter_ns())


def changes_its_input(self: Own, x: Tensor) -> Tensor:
    x += 1
    return self.conv(x)


def changes_what_is_shared(self: Own, x: Tensor) -> Tensor:
    x = self.conv(x)
    y = x.view(-1, 4, 9, 9)
    x.mul_(2)
    return y


def changes_what_a_layer_shares(self: Own, x: Tensor) -> Tensor:
    x = self.conv(x)
    return torch.tanh(x) + nn.functional.relu(x, inplace=True) + x


def changes_a_buffer(self: Own, x: Tensor) -> Tensor:
    self.seen.add_(1)
    return self.conv(x) * self.seen


def reads_a_buffer(self: Own, x: Tensor) -> Tensor:
    return self.conv(x) * float(self.seen)


def without_gradients(self: Own, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.conv(x)
    return y + self.conv(x)


@torch.no_grad()
def apart(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def partly_without(self: Own, x: Tensor) -> Tensor:
    return apart(self.conv, x) * self.conv(x)


def in_bfloat16(self: Own, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return self.conv(x).float()


def straight(self: Own, x: Tensor) -> Tensor:
    return Straight.apply(self.conv(x))


def hooks_a_gradient(self: Own, x: Tensor) -> Tensor:
    x = self.conv(x)
    if x.requires_grad:
        x.register_hook(lambda gradient: 3 * gradient)
    return x


def hooks_any_gradient(self: Own, x: Tensor) -> Tensor:
    x = self.conv(x)
    x.register_hook(lambda gradient: 3 * gradient)
    return x


def remembers(self: Own, x: Tensor) -> Tensor:
    self.last = self.conv(x)
    return self.last


WHOLE = {
    "counts": counts, "lists": lists, "writes": writes, "sets": sets, "draws": draws,
    "draws by torch": draws_by_torch, "draws by numpy": draws_by_numpy,
    "draws by its own": draws_by_its_own, "changes a global": changes_a_global, "looks": looks,
    "measures": measures, "changes its input": changes_its_input,
    "changes what is shared": changes_what_is_shared,
    "changes what a layer shares": changes_what_a_layer_shares,
    "changes a buffer": changes_a_buffer, "reads a buffer": reads_a_buffer,
    "without gradients": without_gradients, "partly without": partly_without,
    "in bfloat16": in_bfloat16, "straight": straight, "hooks a gradient": hooks_a_gradient,
    "hooks any gradient": hooks_any_gradient, "remembers": remembers,
}  # fmt: skip


def made(forward: Callable[[Own, Tensor], Any]) -> nn.Module:
    """A network whose class has this forward."""
    torch.manual_seed(1)
    return type("Made", (Own,), {"forward": forward})()


def whole(network: nn.Module, images: Tensor = IMAGES, calls: int = 3) -> str:
    """That the engine leaves several calls of a network to torch, with the numbers and gradients of
    that; returns why."""
    before, rate = copy.deepcopy(network), RATE
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    directions = [noise(19, 4, 9, 9, seed=step) for step in range(calls)]
    expected = computed(before, images.clone(), directions)
    globals()["RATE"] = rate
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    engine = CompiledNetwork(network)
    with engine.standing_in():
        found = computed(network, images.clone(), directions)
    (reason,) = engine.through_torch
    assert reason.startswith("the whole network ("), reason
    torch.testing.assert_close(found.output, expected.output, rtol=0, atol=0)
    for name in expected.gradients:
        torch.testing.assert_close(
            found.gradients[name], expected.gradients[name], rtol=1e-6, atol=1e-6
        )
    globals()["RATE"] = rate
    return reason


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_followed_is_left_to_torch(name: str) -> None:
    whole(made(WHOLE[name]), calls=1 if name == "changes its input" else 3)


@pytest.mark.parametrize("forward", [counts_globally, lists_globally, takes_the_time])
def test_what_changes_out_of_sight_is_left_to_torch(forward: Callable[..., Any]) -> None:
    network = made(forward)
    engine = CompiledNetwork(network)
    with engine.standing_in():
        one, two = network(IMAGES), network(IMAGES)
    assert "the whole network" in engine.through_torch[0]
    assert not torch.equal(one, two) or forward is takes_the_time


# ---- What changes between calls -----------------------------------------------------------------


@dataclasses.dataclass
class Options:
    rate: float = 0.5


class Settings(Own):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.0)
        self.factor, self.held, self.factors = 1.0, Options(), [1.0, 2.0]
        self.scaling = partial(torch.mul, other=2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.conv(x)) * self.factor * RATES[0] * RATE * self.rate
        x = x * self.held.rate + self.factors[1] * self.options["rate"] * self.scaling(x)
        return F.gelu(x + Held.rate) if self.factor > 0.5 else x + Held.rate


class Held:
    rate = 1.0


@contextlib.contextmanager
def changed(holder: Any, key: Any, value: Any) -> Iterator[None]:
    before = holder[key] if isinstance(holder, list | dict) else getattr(holder, key)
    put = (
        (lambda v: holder.__setitem__(key, v))
        if isinstance(holder, list | dict)
        else (lambda v: setattr(holder, key, v))
    )
    put(value)
    try:
        yield
    finally:
        put(before)


def same_as_torch(network: nn.Module, engine: CompiledNetwork, images: Tensor = IMAGES) -> Tensor:
    network.zero_grad()
    expected = network(images)
    with engine.standing_in():
        found = network(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return found


CHANGES: dict[str, Callable[[Any], tuple[Any, Any, Any]]] = {
    "a number": lambda n: (n, "factor", 0.25),
    "a global": lambda _: (globals(), "RATE", 0.25),
    "a global list": lambda _: (RATES, 0, 0.25),
    "a list": lambda n: (n.factors, 1, 5.0),
    "a dictionary": lambda n: (n.options, "rate", 5.0),
    "an object": lambda n: (n.held, "rate", 5.0),
    "of a class": lambda _: (Own, "rate", 5.0),
    "of another class": lambda _: (Held, "rate", 5.0),
    "a function": lambda n: (n, "scaling", torch.tanh),
    "a layer": lambda n: (n, "conv", nn.Sequential(conv(2, 4), nn.Tanh())),
    "a larger layer": lambda n: (n, "conv", conv(2, 20)),
    "a parameter": lambda n: (n.conv, "weight", nn.Parameter(torch.ones(4, 2, 3, 3))),
    "a larger parameter": lambda n: (n.conv, "weight", nn.Parameter(torch.ones(4, 2, 5, 5))),
    "no bias": lambda n: (n.conv, "bias", None),
    "a stride": lambda n: (n.conv, "stride", (2, 2)),
    "a padding": lambda n: (n.conv, "padding", (3, 0)),
    "everything dropped": lambda n: (n.drop, "p", 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_between_calls_is_seen(name: str) -> None:
    network = Settings()
    engine = CompiledNetwork(network)
    before = same_as_torch(network, engine)
    with changed(*CHANGES[name](network)):
        during = same_as_torch(network, engine)
    assert during.shape != before.shape or not torch.allclose(during, before)
    torch.testing.assert_close(same_as_torch(network, engine), before, rtol=0, atol=0)
    assert engine.through_torch == ()


def test_a_bias_that_comes_is_seen() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(3, 4, 3))
    engine = CompiledNetwork(network)
    same_as_torch(network, engine)
    network[0].bias = nn.Parameter(torch.ones(3))
    same_as_torch(network, engine).sum().backward()
    assert network[0].bias.grad is not None


def test_weights_that_are_loaded_are_seen() -> None:
    network = nn.Sequential(conv(2), nn.BatchNorm2d(4), nn.ReLU(), conv())
    engine = CompiledNetwork(network)
    before = same_as_torch(network, engine)
    network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()})
    assert not torch.allclose(same_as_torch(network, engine), before)


@pytest.mark.parametrize("where", [0, 1, None])
@pytest.mark.parametrize("early", [False, True])
def test_a_hook_is_called(where: int | None, early: bool) -> None:
    network = nn.Sequential(conv(2), nn.Sequential(conv(), nn.Tanh()), nn.ReLU())
    engine = CompiledNetwork(network)
    if not early:
        same_as_torch(network, engine)
    seen: list[str] = []
    hooked = network if where is None else network[where]

    def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        seen.append(type(module).__name__)
        return 2 * output

    handle = hooked.register_forward_hook(hook)
    same_as_torch(network, engine)
    assert len(seen) == 2
    back = hooked.register_full_backward_pre_hook(lambda *_: seen.append("back"))
    same_as_torch(network, engine).sum().backward()
    assert seen[-1] == "back"
    handle.remove(), back.remove()
    same_as_torch(network, engine)
    assert len(seen) == 5


def test_a_hook_on_all_modules_is_called() -> None:
    network, seen = nn.Sequential(conv(2), conv()), []
    engine = CompiledNetwork(network)
    same_as_torch(network, engine)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        with engine.standing_in():
            network(IMAGES)
    finally:
        handle.remove()
    assert len(seen) == 3


def test_other_sizes_of_images_and_batches() -> None:
    network = nn.Sequential(conv(2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    engine = CompiledNetwork(network)
    for batch, height, width in [(3, 9, 9), (40, 5, 12), (1, 9, 9), (17, 9, 9), (3, 30, 30)]:
        same_as_torch(network, engine, noise(batch, 2, height, width))
    assert engine.through_torch == ()


def test_a_batch_without_images_is_torchs() -> None:
    network = nn.Sequential(conv(2), nn.Flatten())
    engine = CompiledNetwork(network)
    same_as_torch(network, engine)
    assert same_as_torch(network, engine, noise(0, 2, 9, 9)).shape == (0, 324)


def test_one_number_cannot_be_normalised() -> None:
    network = nn.Sequential(conv(2), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    with CompiledNetwork(network).standing_in():
        network(IMAGES)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network(IMAGES[:1])


def test_a_network_of_doubles_is_torchs() -> None:
    network = nn.Sequential(conv(2), nn.ReLU())
    engine = CompiledNetwork(network)
    same_as_torch(network, engine)
    network.double()
    assert same_as_torch(network, engine, IMAGES.double()).dtype == torch.float64
    with engine.standing_in(), pytest.raises(RuntimeError, match="same"):
        network(IMAGES)
    network.float().to(memory_format=torch.channels_last)
    same_as_torch(network, engine, IMAGES.contiguous(memory_format=torch.channels_last))


def test_an_input_with_a_gradient_has_it() -> None:
    network = nn.Sequential(conv(2), nn.ReLU())
    engine = CompiledNetwork(network)
    one, other = (IMAGES.clone().requires_grad_() for _ in range(2))
    network(one).square().sum().backward()
    with engine.standing_in():
        network(other).square().sum().backward()
    torch.testing.assert_close(other.grad, one.grad)


class Shape(nn.Module):
    """Its output has another size from time to time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x[:, :, self.calls % 3 :]


def test_a_size_that_torch_changes_is_seen() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(conv(2), Shape(), conv(), nn.BatchNorm2d(4), nn.ReLU())
    exact = copy.deepcopy(network)
    engine = CompiledNetwork(network)
    for _ in range(4):
        with engine.standing_in():
            found = network(IMAGES)
        expected = exact(IMAGES)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        found.sum().backward(), expected.sum().backward()
    for one, other in zip(network.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
    assert len(engine._versions) == 1


# ---- What may be done with a network meanwhile --------------------------------------------------


def small() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(conv(2), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 3), nn.Tanh())


def gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters()]


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-4)


def both(act: Callable[[nn.Module], Any]) -> None:
    """That something done with a network gives the same with the engine and without."""
    plain, fast = small(), small()
    expected = act(plain)
    with CompiledNetwork(fast).standing_in():
        found = act(fast)
    close(found, expected)
    close(
        [g for g in gradients(fast) if g is not None],
        [g for g in gradients(plain) if g is not None],
    )
    close(dict(fast.named_buffers()), dict(plain.named_buffers()))


def twice(network: nn.Module) -> Tensor:
    one, other = network(IMAGES), network(IMAGES + 1)
    (one * other).sum().backward()
    return one


def later(network: nn.Module) -> Tensor:
    one, other = network(IMAGES), network(IMAGES[:5] + 1)
    one.sum().backward()
    third = network(IMAGES[:17])
    other.square().sum().backward()
    third.square().sum().backward()
    return other


def back_twice(network: nn.Module) -> Tensor:
    loss = network(IMAGES).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return loss


def asked(network: nn.Module) -> Any:
    return torch.autograd.grad(network(IMAGES).square().sum(), list(network.parameters()))


def no_gradients(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(IMAGES)


def inference(network: nn.Module) -> Tensor:
    with torch.inference_mode():
        return network(IMAGES).clone()


def evaluated(network: nn.Module) -> Tensor:
    network(IMAGES)
    output = network.eval()(IMAGES)
    output.square().sum().backward()
    return output


def functional(network: nn.Module) -> Any:
    weights = {name: 2 * p.detach() for name, p in network.named_parameters()}
    for weight in weights.values():
        weight.requires_grad_()
    output = torch.func.functional_call(network, weights, (IMAGES,))
    return torch.autograd.grad(output.square().sum(), list(weights.values()))


def of_a_function(network: nn.Module) -> Any:
    network.eval()

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, weights, (IMAGES,)).square().sum()

    return torch.func.grad(loss)({n: p.detach() for n, p in network.named_parameters()})


def mapped(network: nn.Module) -> Tensor:
    network.eval()
    return torch.func.vmap(lambda x: network(x[None])[0])(IMAGES).detach()


def directional(network: nn.Module) -> Any:
    network.eval()
    return torch.func.jvp(network, (IMAGES,), (noise(19, 2, 9, 9, seed=3),))


def forward_mode(network: nn.Module) -> Any:
    network.eval()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(IMAGES, IMAGES)
        return torch.autograd.forward_ad.unpack_dual(network(dual)).tangent.detach()


def checkpointed(network: nn.Module) -> Tensor:
    output = torch.utils.checkpoint.checkpoint(network, IMAGES, use_reentrant=False)
    output.square().sum().backward()
    return output


def autocast(network: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return network(IMAGES).float()


def by_keyword(network: nn.Module) -> Tensor:
    return network(input=IMAGES)


def copied(network: nn.Module) -> Tensor:
    network(IMAGES)
    twin = copy.deepcopy(network)
    output = twin(IMAGES)
    output.square().sum().backward()
    return output


def pickled(network: nn.Module) -> Tensor:
    network(IMAGES)
    return pickle.loads(pickle.dumps(network))(IMAGES)


def jit_traced(network: nn.Module) -> Tensor:
    return torch.jit.trace(network.eval(), IMAGES[:2])(IMAGES)


def in_doubles_by_default(network: nn.Module) -> Tensor:
    torch.set_default_dtype(torch.float64)
    try:
        output = network(IMAGES)
        output.square().sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    return output


def channels_last(network: nn.Module) -> Tensor:
    output = network(IMAGES.contiguous(memory_format=torch.channels_last))
    output.square().sum().backward()
    return output


def changes_images_later(network: nn.Module) -> Tensor:
    images = IMAGES.clone()
    output = network(images).square().sum()
    with torch.no_grad():
        images.data.zero_()
    return output


DONE = {
    act.__name__: act
    for act in (
        twice, later, back_twice, asked, no_gradients, inference, evaluated, functional,
        of_a_function, mapped, directional, forward_mode, checkpointed, autocast, by_keyword,
        copied, pickled, in_doubles_by_default, channels_last, changes_images_later,
    )
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", DONE)
def test_a_network_may_be_used_in_any_way(name: str) -> None:
    both(DONE[name])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_it_may_be_traced() -> None:
    both(jit_traced)


@pytest.mark.filterwarnings("ignore:Using backward. with create_graph=True")
def test_gradients_of_gradients_are_refused() -> None:
    network = small()
    with CompiledNetwork(network).standing_in():
        weights = list(network.parameters())
        loss = network(IMAGES).square().sum()
        found = torch.autograd.grad(loss, weights, create_graph=True)
        with pytest.raises(RuntimeError, match="twice"):
            sum(g.square().sum() for g in found).backward()


def test_weights_changed_before_the_way_back_are_noticed() -> None:
    network = small()
    with CompiledNetwork(network).standing_in():
        loss = network(IMAGES).sum()
        with torch.no_grad():
            network[0].weight.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_nothing_is_left_behind() -> None:
    network = small()
    before, keys = copy.deepcopy(network), {m: set(vars(m)) for m in network.modules()}
    engine = CompiledNetwork(network)
    with engine.standing_in():
        network(IMAGES).sum().backward()
        with engine.standing_in():
            network(IMAGES)
        network(IMAGES)
    assert {module: set(vars(module)) for module in network.modules()} == keys
    assert network.state_dict().keys() == before.state_dict().keys()
    pickle.loads(pickle.dumps(network))
    exported = torch.export.export(network.eval(), (IMAGES,)).module()
    close(exported(IMAGES), network(IMAGES))


@pytest.mark.parametrize("result", [list, tuple, lambda pair: {"one": pair[0], "two": pair[1:]}])
def test_a_result_of_several_parts_is_pythons_own(result: Callable[[Any], Any]) -> None:
    network = Apply(lambda x, a: result((a(x), x.tanh())), conv(2))
    expected, (found, names) = network(IMAGES), in_engine(network, IMAGES)
    assert type(found) is type(expected)
    assert names == ()
    close(found, expected)


def test_a_forward_of_more_is_torchs() -> None:
    class More(nn.Sequential):
        def forward(self, x: Tensor, factor: float = 2.0) -> Tensor:
            return super().forward(x) * factor

    network = More(conv(2))
    found, names = in_engine(network, IMAGES)
    close(found, network(IMAGES))
    assert names == ("the whole network (its forward takes more than images)",)


def test_a_forward_of_the_networks_own_is_torchs() -> None:
    network = small().eval()
    network.forward = lambda x: 3 * nn.Sequential.forward(network, x)
    expected, (found, names) = network(IMAGES), in_engine(network, IMAGES)
    assert names == ("the whole network (its forward is not of its class)",)
    assert "forward" in vars(network)
    close(found, expected)
    layer = small()
    layer[0].forward = lambda x: 3 * nn.Conv2d.forward(layer[0], x)
    both_found, _ = in_engine(layer.eval(), IMAGES)
    close(both_found, layer(IMAGES))


def test_what_the_trace_draws_is_not_drawn() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    networks = [Apply(lambda x: x * torch.rand_like(x)), Apply(lambda x: F.dropout2d(x)), small()]
    torch.manual_seed(1)
    assert not any(CompiledNetwork(network).unsuited(IMAGES) for network in networks)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_old_weight_norm_is_torchs() -> None:
    network = nn.Sequential(conv(2), weight_norm(conv()), nn.ReLU())
    engine = CompiledNetwork(network)
    for _ in range(2):
        same_as_torch(network, engine)
    assert "cannot be copied" in engine.through_torch[0]


class Scaled(nn.Module):
    """Has a function that is around another one."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()

        def scaled(x: Tensor) -> Tensor:
            return factors[0] * x

        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x)


def test_what_is_around_a_function_is_read_and_seen_to_change() -> None:
    factors = [2.0]
    network, called = Scaled(factors), {}
    with calls_into(called):
        network(IMAGES)
    snapshot = Snapshot(network, set(), called)
    assert snapshot.is_now()
    factors[0] = 3.0
    assert not snapshot.is_now()


class Signalled(nn.Module):
    """A signal comes while it computes."""

    def forward(self, x: Tensor) -> Tensor:
        signal.raise_signal(signal.SIGTERM)
        return 2 * x


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    interrupts.heard()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, before[number])


class Keeper:
    """Answers a signal, and keeps its number: in the world, and for itself."""

    def __init__(self) -> None:
        self.came: list[int] = []

    def __call__(self, number: int, _: object) -> None:
        self.keep(number)

    def keep(self, number: int) -> None:
        global LAST
        LAST = number
        self.came.append(number)


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize("kind", ["function", "method", "partial", "object"])
def test_a_signal_is_nothing_that_the_network_does(kind: str) -> None:
    keeper = Keeper()
    answers = {
        "function": lambda number, _: keeper.keep(number), "method": keeper.__call__,
        "partial": partial(Keeper.__call__, keeper), "object": keeper,
    }  # fmt: skip
    signal.signal(signal.SIGTERM, answers[kind])
    assert CompiledNetwork(Signalled()).unsuited(IMAGES) == ""
    assert keeper.came


@pytest.mark.usefixtures("signals_as_before")
def test_an_interrupt_ends_what_follows_a_network() -> None:
    interrupts.listen()
    with pytest.raises(KeyboardInterrupt):
        CompiledNetwork(Signalled()).unsuited(IMAGES)
    assert sys.getprofile() is None
