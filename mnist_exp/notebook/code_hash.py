"""What makes two recipes the same code: a hash of the syntax tree."""

import ast
import hashlib
from collections.abc import Mapping
from types import MappingProxyType

SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
"""What may have a docstring."""
NO_HELPERS: Mapping[str, str] = MappingProxyType({})


def code_sha256(source: str, helpers: Mapping[str, str] = NO_HELPERS) -> str:
    """SHA-256 (hexadecimal) of the code without its docstrings, comments and layout.

    Taken of the syntax tree, without its empty fields, of which newer Pythons have more: an
    Analysis added after the run does not change the hash, nor does another version of Python, but
    for an f-string with a format inside a format, f"{x:{width}}", which Python 3.12 reads
    differently.

    `helpers` are the other files that take part, by name. With them it is the hash of all their
    hashes and names; without any, that of the source alone.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, SCOPES) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    own = hashlib.sha256(repr(_structure(tree)).encode()).hexdigest()
    if not helpers:
        return own
    parts = [own, *(f"{code_sha256(helpers[name])} {name}" for name in sorted(helpers))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def has_code(source: str, sha256: str, helpers: Mapping[str, str] = NO_HELPERS) -> bool:
    """Whether `source`, which may be anything, is code of that hash, together with `helpers`."""
    try:
        return code_sha256(source, helpers) == sha256
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _structure(node: object) -> object:
    if isinstance(node, ast.AST):
        fields = [(key, _structure(value)) for key, value in ast.iter_fields(node)]
        return type(node).__name__, [
            (key, value) for key, value in fields if value not in (None, [])
        ]
    return [_structure(item) for item in node] if isinstance(node, list) else node
