"""A network is followed with torch.fx, and becomes parts: operations that the engine knows, and
steps that torch takes."""

import itertools
import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from mnist_exp.common.copying import copied
from mnist_exp.common.randomness import RandomStates, random_states, random_states_kept
from mnist_exp.engine.fallback import is_size
from mnist_exp.engine.layers import Nodes
from mnist_exp.engine.operations import Operation
from mnist_exp.engine.reads import (
    Called,
    Snapshot,
    UntraceableError,
    calls_into,
    has_hooks,
    kept,
)


@dataclass(frozen=True, eq=False)
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

    `sizes` are those of values, by the names of nodes and without that of the batch; `snapshot`
    tells how long all that holds; `through_torch` are the layers and functions that torch computes.
    """

    graph: fx.Graph
    parts: tuple[Segment | fx.Node, ...]
    sizes: dict[str, tuple[int, ...]]
    snapshot: Snapshot
    through_torch: tuple[str, ...]


def trace(network: nn.Module, example: Tensor) -> Traced:
    """Follow a network as it is now, in training or not, for images like the first of `example`,
    float32 (N, C, H, W).

    Raises UntraceableError where what it does depends on more than its input, its tensors and its
    settings: on numbers that it computes, draws or keeps.
    """
    with random_states_kept():
        try:
            own = copied(network)
        except Exception as error:  # of whatever it holds
            raise UntraceableError(f"it cannot be copied: {_in_a_line(error)}") from error
        vars(own).pop("forward", None)  # what stands in for it
        opaque = {name for name, module in own.named_modules() if name and has_hooks(module)}
        _without_hooks(own)
        try:
            graph, called = _follow(own, opaque)
        except UntraceableError:
            opaque = _untraceable_within(own, opaque)
            graph, called = _follow(own, opaque)
        placeholders = graph.find_nodes(op="placeholder")
        if len(placeholders) != 1 or str(placeholders[0].target).startswith("*"):
            raise UntraceableError("its forward takes more than images")
        opaque &= {str(node.target) for node in graph.find_nodes(op="call_module")}
        snapshot = Snapshot(network, opaque, called)
        run, sizes = _sizes_of(own, graph, example)
    nodes = Nodes(network, run.gave, sizes, opaque)
    items = _items(graph, nodes, run)
    by_torch = [item for item in items if isinstance(item, fx.Node) and _computes(item, run)]
    names = tuple(dict.fromkeys(map(_name, by_torch)))
    return Traced(graph, tuple(_parts(items, graph, nodes)), sizes, snapshot, names)


class _Tracer(fx.Tracer):
    """Goes into modules of the user's; torch's own are steps, and so are the opaque ones."""

    proxy_buffer_attributes = True  # else numbers of them would be taken for constants

    def __init__(self, opaque: Collection[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.modes = _modes()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(
            m, module_qualified_name
        )

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self.modes:
            raise UntraceableError("a part of it is without gradients, or in autocast")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class _Proxy(fx.Proxy):
    """One for which x += y is not x = x + y: others may see the change."""


def _in_place(change: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda own, other: own.tracer.create_proxy("call_function", change, (own, other), {})


for _name_of_it in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    setattr(_Proxy, f"__i{_name_of_it}__", _in_place(getattr(operator, f"i{_name_of_it}")))


def _without_hooks(network: nn.Module) -> None:
    """Of a copy, whose calls are not the user's."""
    for module in network.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()


def _modes() -> tuple[bool, ...]:
    """What a `with` of torch's may change."""
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )  # fmt: skip


def _follow(network: nn.Module, opaque: set[str]) -> tuple[fx.Graph, Called]:
    """The graph of a network, and the functions that it calls."""
    for name, module in network.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer in opaque)
        if "forward" in vars(module) and not inside:
            raise UntraceableError(f"{name or 'it'} has a forward that is not of its class")
    before, states = kept(network), random_states()
    called: Called = {}
    try:
        with calls_into(called):
            graph = _Tracer(opaque).trace(network)
        again = _Tracer(opaque).trace(network)
    except UntraceableError:
        raise
    except Exception as error:  # of torch.fx, or of a network that takes no proxy for a tensor
        raise UntraceableError(f"torch.fx cannot follow it: {_in_a_line(error)}") from error
    if not _same_states(states, random_states()):
        raise UntraceableError("it draws random numbers of its own")
    if kept(network) != before or "_tensor_constant0" in vars(network):
        raise UntraceableError("it keeps something from one call to the next")
    if _written(graph) != _written(again):
        raise UntraceableError("it does something else from one call to the next")
    return graph, called


def _written(graph: fx.Graph) -> list[str]:
    return [f"{node.op} {node.target} {node.args} {node.kwargs}" for node in graph.nodes]


def _in_a_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120]


def _untraceable_within(network: nn.Module, opaque: set[str]) -> set[str]:
    """The names of the modules of a network that cannot be followed, even if those within them that
    cannot be are steps; and those that are `opaque` already."""
    found = set(opaque)
    for name, module in reversed(list(network.named_modules())):
        if name and name not in found and not fx.Tracer().is_leaf_module(module, name):
            within = {one.removeprefix(f"{name}.") for one in found if one.startswith(f"{name}.")}
            try:
                _follow(module, within)
            except UntraceableError:
                found.add(name)
    return found


def _same_states(one: RandomStates, other: RandomStates) -> bool:
    return torch.equal(one[0], other[0]) and repr(one[1:]) == repr(other[1:])


class _Run(fx.Interpreter):
    """Runs a graph on some images: what each node `gave`, the memory of what it gave, and
    the memory of what those change that are `changing` what they are given."""

    def __init__(self, network: nn.Module, graph: fx.Graph, images: Tensor) -> None:
        super().__init__(network, garbage_collect_values=False, graph=graph)
        self.gave: dict[str, Any] = {}
        self.changing: dict[str, set[int]] = {}
        self.memory: dict[str, set[int]] = {}
        try:
            with torch.no_grad():
                self.run(images)
        except Exception as error:  # of whatever the network does
            raise UntraceableError(f"it cannot be run step by step: {_in_a_line(error)}") from error

    def run_node(self, n: fx.Node) -> Any:
        tensors = _tensors_of([self.gave[node.name] for node in n.all_input_nodes])
        versions = [tensor._version for tensor in tensors]
        self.gave[n.name] = super().run_node(n)
        changed = [x for x, version in zip(tensors, versions, strict=True) if x._version != version]
        if changed:
            self.changing[n.name] = _memory_of(changed)
        self.memory[n.name] = _memory_of(_tensors_of(self.gave[n.name]))
        return self.gave[n.name]


def _tensors_of(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    fx.node.map_aggregate(value, lambda x: found.append(x) if isinstance(x, Tensor) else None)
    return found


def _memory_of(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def _sizes_of(
    network: nn.Module, graph: fx.Graph, example: Tensor
) -> tuple[_Run, dict[str, tuple[int, ...]]]:
    """A run of a graph, and the sizes of its values without that of the batch: of what is as long
    as the batch, whatever that is."""
    run, other = (_Run(network, graph, example[:1].repeat(n, 1, 1, 1)) for n in (7, 11))
    sizes = {}
    for node in graph.nodes:
        one, two = (r.gave[node.name] for r in (run, other))
        if node.op == "get_attr" or not isinstance(one, Tensor) or one.dim() < 2:
            continue
        if one.dtype == torch.float32 and (len(one), len(two)) == (7, 11):
            if one.shape[1:] != two.shape[1:]:
                raise UntraceableError(f"{_name(node)} gives other sizes for other batches")
            sizes[node.name] = tuple(one.shape[1:])
    return run, sizes


def _computes(node: fx.Node, run: _Run) -> bool:
    """Whether it makes a tensor, and does not only take one out of several."""
    given = [run.gave[used.name] for used in node.all_input_nodes]
    is_part = node.target is operator.getitem and not isinstance(given[0], Tensor)
    return node.op != "get_attr" and not is_part and bool(_tensors_of(run.gave[node.name]))


def _items(graph: fx.Graph, nodes: Nodes, run: _Run) -> list[Operation | fx.Node]:
    """What is to be done, in order: operations, and nodes that torch computes. What nothing uses is
    left out, and what needs no value of the network comes first."""
    wanted: set[str] = set()
    items: list[Operation | fx.Node] = []
    for node in reversed(graph.nodes):
        if node.op == "output":
            wanted.update(used.name for used in node.all_input_nodes)
        elif node.op != "placeholder" and (node.name in wanted or node.name in run.changing):
            if node.name in run.changing:
                _refuse_if_seen(node, graph, run)
            items.append(nodes.operation(node) or node)
            wanted.update(_needs(items[-1], nodes))
        elif node.op == "call_module" and _keeps_something(node, nodes):
            raise UntraceableError(f"it calls {_name(node)} without using what that gives")
    items.reverse()
    early: set[str] = set()
    for item in items:
        if isinstance(item, fx.Node) and early.issuperset(_needs(item, nodes)):
            early.add(item.name)
    return sorted(items, key=lambda item: isinstance(item, Operation) or item.name not in early)


def _refuse_if_seen(node: fx.Node, graph: fx.Graph, run: _Run) -> None:
    """Raise UntraceableError if somebody sees that a node changes what it is given: a later node
    that uses what lies in the same memory, or whose that is."""
    order = {other: number for number, other in enumerate(graph.nodes)}
    for other in itertools.takewhile(lambda other: other is not node, graph.nodes):
        is_used = any(order[user] > order[node] for user in other.users)
        kept = is_used or not other.op.startswith("call")
        if kept and run.memory[other.name] & run.changing[node.name]:
            raise UntraceableError(f"{_name(node)} changes in place what is used elsewhere")


def _keeps_something(node: fx.Node, nodes: Nodes) -> bool:
    module = nodes.network.get_submodule(str(node.target))
    return node.target in nodes.opaque or any(True for _ in module.buffers())


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
