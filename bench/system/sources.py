"""Hashes of source text that a comment, a docstring or a blank line does not change, and the files that belong to a source."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def code(source: bytes) -> str:
    """A Python source without comments, docstrings and blank lines; text that is no Python comes back as it is.

    What is left is cut from the text itself, since tokens and trees of one source differ between versions of Python. Blank lines and
    blanks at the end of a line are dropped within long strings, too.
    """
    try:
        text = source.decode(tokenize.detect_encoding(io.BytesIO(source).readline)[0])
        lines = text.replace("\r\n", "\n").split("\n")
        for (row, start), (last, end) in sorted(_said("\n".join(lines)), reverse=True):
            lines[row - 1 : last] = [lines[row - 1][:start] + lines[last - 1][end:]]
    except (SyntaxError, ValueError, tokenize.TokenError):
        return source.decode("latin-1")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _said(text: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where comments and strings that are a statement of their own begin and end: row from 1, column from 0."""
    begins = True
    strings: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start, token.end
        elif token.type == tokenize.STRING and (begins or strings):
            strings.append((token.start, token.end))
            begins = False
        elif token.type != tokenize.NL:
            if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
                yield from strings
            begins, strings = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING), []


def code_sha256(paths: Iterable[Path]) -> str:
    """Hex SHA-256 over the `code` of files, in the order given."""
    return hashlib.sha256("\0".join(code(path.read_bytes()) for path in paths).encode("utf-8", "surrogatepass")).hexdigest()


def with_helpers(path: Path, root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """A source file, then by name the files below `root` that it imports, also through others and within functions.

    Args:
        root: the folder that absolute imports start from.
        wanted: whether a file counts, by the name of its package or, where it is in none, its own.
    """
    found: set[Path] = set()
    left = [path]
    while left:
        if (file := left.pop()) not in found:
            found.add(file)
            left += [
                place
                for name in _imported(file, root)
                if wanted(name[0])
                for end in range(1, len(name) + 1)
                for place in (root.joinpath(*name[:end]).with_suffix(".py"), root.joinpath(*name[:end], "__init__.py"))
                if place.is_file()
            ]
    return [path, *sorted(found - {path})]


def _imported(file: Path, root: Path) -> Iterator[tuple[str, ...]]:
    """The names that a file imports, absolute, in parts; `from a import b` counts as a.b, which may be a module."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError, OSError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = file.parent.relative_to(root).parts
            base = (*(here[: len(here) + 1 - node.level] if node.level else ()), *(node.module or "").split("."))
            yield from (tuple(filter(None, (*base, alias.name))) for alias in node.names)
