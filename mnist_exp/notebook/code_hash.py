"""What makes two recipes the same code: a hash of the syntax tree."""

import ast
import hashlib


def code_sha256(source: str) -> str:
    """SHA-256 (hexadecimal) of the code without its docstrings, comments and layout.

    Taken of the syntax tree, without its empty fields, of which newer Pythons have more: an
    Analysis added after the run does not change the hash, nor does another version of Python, but
    for an f-string with a format inside a format, f"{x:{width}}", which Python 3.12 reads
    differently.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, scope) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(repr(_structure(tree)).encode()).hexdigest()


def has_code(source: str, sha256: str) -> bool:
    """Whether `source`, which may be anything, is code of that hash."""
    try:
        return code_sha256(source) == sha256
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _structure(node: object) -> object:
    if isinstance(node, ast.AST):
        fields = [(key, _structure(value)) for key, value in ast.iter_fields(node)]
        return type(node).__name__, [
            (key, value) for key, value in fields if value not in (None, [])
        ]
    return [_structure(item) for item in node] if isinstance(node, list) else node
