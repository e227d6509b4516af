"""What a file has that some of its names need, as its syntax tree says; nothing is run.

A file with a network often holds a whole script: digits that are fetched, a loop that trains. Of
such a file an iteration takes the class, and the imports, functions and constants that it uses.
"""

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

Definition = ast.FunctionDef | ast.ClassDef
ImportLine = ast.Import | ast.ImportFrom


@dataclass(frozen=True)
class Statement:
    """A statement of a file, with the comments above it."""

    node: ast.stmt
    text: str
    line: int
    """That of the file on which `text` begins."""

    @cached_property
    def binds(self) -> frozenset[str]:
        """The names that it gives a meaning; "*" for all those of a module."""
        if isinstance(self.node, ImportLine):
            return frozenset(name for name, _ in targets(self.node))
        return frozenset(s.get_name() for s in self._table.get_symbols() if _is_bound(s))

    @cached_property
    def reads_at_once(self) -> frozenset[str]:
        """The names that it looks up where it stands."""
        return frozenset(s.get_name() for s in self._table.get_symbols() if s.is_referenced())

    @cached_property
    def reads(self) -> frozenset[str]:
        """Those names, and what its functions look up when they are called."""
        return self.reads_at_once | frozenset(_globals_of(self._table))

    @cached_property
    def changes(self) -> frozenset[str]:
        """The names whose objects it changes in place, as `sizes.append(8)` does."""
        if isinstance(self.node, Definition):
            return frozenset()
        places: list[ast.expr] = []
        for node in ast.walk(self.node):
            if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
                places.append(node)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                places.append(node.value.func)
        roots = (_root(place) for place in places if not isinstance(place, ast.Name))
        return frozenset(root.id for root in roots if isinstance(root, ast.Name))

    @cached_property
    def _table(self) -> symtable.SymbolTable:
        return symtable.symtable(ast.unparse(self.node), "", "exec")


class Script:
    """A Python file, by its statements; those under `if __name__ == "__main__"` are left out."""

    def __init__(self, source: str, file: str) -> None:
        """`source` is the text of the file, which errors call `file`. Raises SyntaxError."""
        self.file = file
        body = ast.parse(source).body
        first = 1 if body and _is_text(body[0]) else 0  # the docstring
        lines = source.splitlines(keepends=True)
        ends = [0, *(statement.end_lineno or 0 for statement in body)]
        self.statements = [
            _statement(node, end, lines)
            for node, end in list(zip(body, ends, strict=False))[first:]
            if not _is_main(node)
        ]
        self.imported = {
            name: full
            for statement in self.statements if not isinstance(statement.node, Definition)
            for node in ast.walk(statement.node) if isinstance(node, ImportLine)
            for name, full in targets(node)
        }  # fmt: skip
        """What each imported name stands for, as in `torch.nn`."""

    def needed(self, names: Iterable[str]) -> list[Statement]:
        """The statements that these names need, in their order."""
        chosen = {place for place, s in enumerate(self.statements) if is_future(s.node)}
        waiting, seen = list(names), set(names)
        while waiting:
            for place in self._places(waiting.pop()) - chosen:
                chosen.add(place)
                more = self.statements[place].reads - seen
                waiting += more
                seen |= more
        return [self.statements[place] for place in sorted(chosen)]

    def modules(self) -> list[str]:
        """The classes that are torch modules, as far as their bases tell."""
        modules: list[str] = []
        for statement in self.statements:
            node = statement.node
            if isinstance(node, ast.ClassDef) and any(
                base in modules or _is_module(base) for base in map(self.full_name, node.bases)
            ):
                modules.append(node.name)
        return list(dict.fromkeys(modules))

    def networks(self) -> list[str]:
        """Those of the modules that no other is made of; where there are none, what is made at the
        top of the file by `nn.Sequential(...)`."""
        modules = self.modules()
        if not modules:
            return list(dict.fromkeys(n for s in self.statements for n in s.binds if self.made(n)))
        parts = {
            name
            for module in modules
            for statement in self.needed([module]) if module not in statement.binds
            for name in statement.binds
        }  # fmt: skip
        return [module for module in modules if module not in parts] or modules

    def definition(self, name: str) -> ast.stmt | None:
        """The last class or function of that name, at the top of the file."""
        found = [s.node for s in self.statements if isinstance(s.node, Definition)]
        return next((node for node in reversed(found) if node.name == name), None)

    def made(self, name: str) -> ast.Call | None:
        """The last `nn.Sequential(...)` that has that name, as it is or moved `.to(device)`."""
        for statement in reversed(self.statements):
            value = getattr(statement.node, "value", None)
            while isinstance(value, ast.Call) and name in statement.binds:
                if self.full_name(value.func) in ("torch.nn.Sequential", "Sequential"):
                    return value
                value = getattr(value.func, "value", None)
        return None

    def line_of(self, name: str) -> int:
        """The line on which a network begins."""
        node = self.definition(name) or self.made(name)
        return node.lineno if node else 1

    def full_name(self, node: ast.AST) -> str:
        """What an expression such as `nn.Module` names in full; empty for any other."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (owner := self.full_name(node.value)):
            return f"{owner}.{node.attr}"
        return ""

    def _places(self, name: str) -> set[int]:
        """Where a name gets its meaning: where it is bound and, if it stands for an object that was
        made here, where that is changed."""
        own = [place for place, s in enumerate(self.statements) if name in s.binds]
        if not own and not hasattr(builtins, name):
            return {place for place, s in enumerate(self.statements) if "*" in s.binds}
        for place in reversed(own):
            statement = self.statements[place]
            if isinstance(statement.node, Definition | ImportLine):
                if name not in statement.reads_at_once:
                    own = [later for later in own if later >= place]  # the earlier ones are gone
                    break
            else:
                own += [other for other, s in enumerate(self.statements) if name in s.changes]
        return set(own)


def targets(node: ImportLine) -> Iterator[tuple[str, str]]:
    """Each name that an import binds, and what it stands for, as in ("nn", "torch.nn")."""
    for alias in node.names:
        top = alias.name.partition(".")[0]
        if isinstance(node, ast.Import):
            yield alias.asname or top, alias.name if alias.asname else top
        else:
            module = "." * node.level + (node.module or "")
            yield alias.asname or alias.name, f"{module}.{alias.name}"


def is_future(node: ast.stmt) -> bool:
    """Whether it is a `from __future__ import`, which holds for all of a file."""
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _statement(node: ast.stmt, end: int, lines: list[str]) -> Statement:
    """The statement `node`; the one before it ends on line `end`."""
    first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", []))])
    last = node.end_lineno or first
    rest = lines[last - 1].encode()[node.end_col_offset :]
    if first <= end or rest.partition(b"#")[0].strip():  # there are two of them on a line
        return Statement(node, ast.unparse(node), first)
    while first > 2 and first - 1 > end and lines[first - 2].startswith("#"):
        first -= 1
    return Statement(node, "".join(lines[first - 1 : last]).rstrip(), first)


def _is_bound(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported()


def _globals_of(table: symtable.SymbolTable) -> Iterator[str]:
    for child in table.get_children():
        yield from (
            s.get_name() for s in child.get_symbols() if s.is_global() and s.is_referenced()
        )
        yield from _globals_of(child)


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )


def _is_module(base: str) -> bool:
    ours = base.startswith(("torch.nn.", "torchvision.models.", "experiments."))
    return ours or base in ("Module", "Sequential")  # as `from torch.nn import *` has them
