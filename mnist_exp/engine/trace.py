"""A network is followed with torch.fx, and becomes parts: operations that the engine knows, and
steps that torch takes."""

import contextlib
import copy
import dis
import itertools
import os
import random
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from mnist_exp.engine.fallback import is_size
from mnist_exp.engine.layers import Nodes
from mnist_exp.engine.operations import Operation, Same

NOT_THE_USERS = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib") + os.sep, __file__)
STORES = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_SUBSCR"}
Read = tuple[dict[str, Any], str, Any]
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class UntraceableError(Exception):
    """A network cannot be followed; the text says why, in a line."""


@dataclass(frozen=True)
class Segment:
    """Operations that follow each other, with the values that they take and that they give."""

    operations: tuple[Operation, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the network's own tensors that they read or write."""
        names = [name for operation in self.operations for name in operation.tensors]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Traced:
    """A network as parts in their order: segments, and nodes of the graph that torch computes.

    `sizes` are those of values, by the names of nodes and without that of the batch; `reads` are
    the plain global values on which the network depends, each as its namespace, name and value;
    `through_torch` are the layers and functions that torch computes.
    """

    graph: fx.Graph
    parts: tuple[Segment | fx.Node, ...]
    sizes: dict[str, tuple[int, ...]]
    reads: tuple[Read, ...]
    through_torch: tuple[str, ...]


def trace(network: nn.Module, example: Tensor) -> Traced:
    """Follow a network as it is now, in training or not, for images like the first of `example`,
    float32 (N, C, H, W).

    Raises UntraceableError where what it does depends on more than its input, its tensors and its
    settings: on numbers that it computes, draws or keeps.
    """
    own = copy.deepcopy(network)
    with _random_states_kept():
        try:
            graph, reads = _follow(own, set())
        except UntraceableError:
            opaque = _untraceable_within(own)
            graph, reads = _follow(own, opaque)
        run = _Run(own, graph, example)
    nodes = Nodes(network, run.gave, run.images)
    items = _items(graph, nodes, run.changing)
    by_torch = [
        item for item in items if isinstance(item, fx.Node) and nodes.size(item) is not None
    ]
    sizes = {node.name: size for node in graph.nodes if (size := nodes.size(node)) is not None}
    names = tuple(dict.fromkeys(map(_name, by_torch)))
    return Traced(graph, tuple(_parts(items, graph, nodes)), sizes, tuple(reads), names)


class _Tracer(fx.Tracer):
    """Goes into modules of the user's; torch's own are steps, and so are the opaque ones."""

    def __init__(self, opaque: set[str]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(
            m, module_qualified_name
        )


def _follow(network: nn.Module, opaque: set[str]) -> tuple[fx.Graph, list[Read]]:
    """The graph of a network, and the plain global values that it reads."""
    if any(_has_hooks(module) for module in network.modules()):
        raise UntraceableError("it has hooks")
    before, states = _kept(network), _random_states()
    frames: dict[CodeType, dict[str, Any]] = {}
    try:
        with _calls_into(frames):
            graph = _Tracer(opaque).trace(network)
    except Exception as error:  # of torch.fx, or of a network that takes no proxy for a tensor
        reason = str(error).strip().partition("\n")[0][:120]
        raise UntraceableError(f"torch.fx cannot follow it: {reason}") from error
    if not _same_states(states, _random_states()):
        raise UntraceableError("it draws random numbers of its own")
    if _kept(network) != before or set(vars(network)) & {"_tensor_constant0"}:
        raise UntraceableError("it keeps something from one call to the next")
    return graph, [read for code, names in frames.items() for read in _reads(code, names)]


def _untraceable_within(network: nn.Module) -> set[str]:
    """The names of the outermost modules of a network that cannot be followed."""
    found: set[str] = set()
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and not fx.Tracer().is_leaf_module(module, name):
            try:
                _follow(module, set())
            except UntraceableError:
                found.add(name)
    return found


def _reads(code: CodeType, names: dict[str, Any]) -> Iterator[Read]:
    """What a function reads from outside, if it is plain. Raises UntraceableError when the function
    writes anything, or reads what may change without a word."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in STORES:
            raise UntraceableError(f"{code.co_qualname} keeps something from one call to the next")
        if instruction.opname == "LOAD_GLOBAL" and instruction.argval in names:
            value = names[instruction.argval]
            if isinstance(value, ModuleType | FunctionType | type) or callable(value):
                continue
            if not _is_plain(value):
                raise UntraceableError(f"{code.co_qualname} reads {instruction.argval}")
            yield names, instruction.argval, value


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


@contextlib.contextmanager
def _calls_into(frames: dict[CodeType, dict[str, Any]]) -> Iterator[None]:
    """Collect the functions outside of torch that are called in the block, with their globals."""

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and not code.co_filename.startswith(NOT_THE_USERS):
            frames[code] = frame.f_globals

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def _has_hooks(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
        module._backward_pre_hooks,
    )  # fmt: skip
    return any(hooks)


def _kept(network: nn.Module) -> str:
    """What modules keep beside parameters and modules, to be compared."""
    kept = {
        name: {key: value for key, value in vars(module).items() if not key.startswith("_")}
        for name, module in network.named_modules()
    }
    return repr(kept)


def _random_states() -> tuple[Tensor, Any, Any]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


def _same_states(one: tuple[Tensor, Any, Any], other: tuple[Tensor, Any, Any]) -> bool:
    return torch.equal(one[0], other[0]) and repr(one[1:]) == repr(other[1:])


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    of_torch, of_python, of_numpy = _random_states()
    try:
        yield
    finally:
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


class _Run(fx.Interpreter):
    """Runs a graph in evaluation mode on so many `images`: what each node `gave`, and the names of
    those that are `changing` a tensor that they are given."""

    def __init__(self, network: nn.Module, graph: fx.Graph, example: Tensor) -> None:
        super().__init__(network.eval(), garbage_collect_values=False, graph=graph)
        # No length of any of its tensors, so that this number in front tells a batch.
        tensors = itertools.chain(network.parameters(), network.buffers())
        lengths = set(itertools.chain.from_iterable(tensor.shape for tensor in tensors))
        self.images = next(n for n in itertools.count(7) if n not in lengths)
        self.gave: dict[str, Any] = {}
        self.changing: set[str] = set()
        try:
            with torch.no_grad():
                self.run(example[:1].repeat(self.images, 1, 1, 1))
        except Exception as error:  # of whatever the network does
            reason = str(error).strip().partition("\n")[0][:120]
            raise UntraceableError(f"it cannot be run step by step: {reason}") from error

    def run_node(self, n: fx.Node) -> Any:
        tensors = [x for node in n.all_input_nodes if isinstance(x := self.gave[node.name], Tensor)]
        versions = [tensor._version for tensor in tensors]
        self.gave[n.name] = super().run_node(n)
        if [tensor._version for tensor in tensors] != versions:
            self.changing.add(n.name)
        return self.gave[n.name]


def _items(graph: fx.Graph, nodes: Nodes, changing: set[str]) -> list[Operation | fx.Node]:
    """What is to be done, in order: operations, and nodes that torch computes. What nothing uses is
    left out, and what needs no value of the network comes first."""
    wanted: set[str] = set()
    items: list[Operation | fx.Node] = []
    for node in reversed(graph.nodes):
        if node.op == "output":
            wanted.update(used.name for used in node.all_input_nodes)
        elif node.op != "placeholder" and (node.name in wanted or node.name in changing):
            item = nodes.operation(node) or node
            if node.name in changing and not _is_last_use(node, item):
                raise UntraceableError(f"{_name(node)} changes in place what is used elsewhere")
            items.append(item)
            wanted.update(_needs(item, nodes))
    items.reverse()
    early: set[str] = set()
    for item in items:
        if isinstance(item, fx.Node) and early.issuperset(_needs(item, nodes)):
            early.add(item.name)
    return sorted(items, key=lambda item: isinstance(item, Operation) or item.name not in early)


def _is_last_use(node: fx.Node, item: Operation | fx.Node) -> bool:
    """Whether nobody sees that a node changes what it is given: the engine writes elsewhere."""
    given = node.all_input_nodes[0]
    return (
        isinstance(item, Operation) and len(given.users) == 1 and given.op.startswith("call")
        and not isinstance(item, Same)
    )  # fmt: skip


def _needs(item: Operation | fx.Node, nodes: Nodes) -> tuple[str, ...]:
    """The values that an item takes. A size is known without the value that has it."""
    if isinstance(item, Operation):
        return item.xs
    if is_size(item) and nodes.size(item.args[0]) is not None:
        return ()
    return tuple(node.name for node in item.all_input_nodes)


def _parts(
    items: list[Operation | fx.Node], graph: fx.Graph, nodes: Nodes
) -> Iterator[Segment | fx.Node]:
    """Segments as long as they can be, and torch's nodes between them."""
    (output,) = graph.find_nodes(op="output")
    results = {node.name for node in output.all_input_nodes}
    for is_segment, group in itertools.groupby(
        enumerate(items), lambda pair: isinstance(pair[1], Operation)
    ):
        if not is_segment:
            yield from (node for _, node in group if isinstance(node, fx.Node))
            continue
        numbered = list(group)
        own = tuple(item for _, item in numbered if isinstance(item, Operation))
        made = dict.fromkeys(operation.y for operation in own)
        taken = dict.fromkeys(x for operation in own for x in operation.xs if x not in made)
        later = results.union(*(_needs(item, nodes) for item in items[numbered[-1][0] + 1 :]))
        yield Segment(own, tuple(taken), tuple(y for y in made if y in later))


def _name(node: fx.Node) -> str:
    """A step as the user knows it: the name of a module, or of a function."""
    if node.op == "call_module":
        return str(node.target)
    return getattr(node.target, "__name__", str(node.target))
