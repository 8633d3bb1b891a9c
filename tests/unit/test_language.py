"""The language of docs/glossary.md: private words stay out of public docstrings and of the documents.

A reader whose English is his third language, and who knows Kafka, Flink or Prometheus, meets the words of the field.
The check reads prose alone: text in backticks, in blocks of code and in doctests is left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("streams", "agents") for path in (ROOT / package).rglob("*.py"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "bench/README.md", "docs/contract/metrics.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
"""Without docs/decisions, whose records keep the words of their day."""

WORDS = ("told", "seen", "worth", "welcome", "facts", "given", "found", "patience", "furthest")
INFLECTED = ("mend", "place", "lap", "beat")
PHRASES = ("as long as labels take", "lets? news through")
PRIVATE = re.compile(
    rf"\b(?:{'|'.join(WORDS)}|mended|(?:{'|'.join(INFLECTED)})s?|{'|'.join(PHRASES)})\b", re.IGNORECASE
)
ALLOWED = re.compile(
    r"\b(?:not found|in place|takes? place|decimal places?|given (?:that|the|system))\b", re.IGNORECASE
)
"""Honest uses: an error, an update of an array, an event, a precision, a conditional probability."""


def private_words(prose: str) -> list[str]:
    """The private words in a text, in lower case and in order, what is in backticks left out."""
    text = re.sub(r"\s+", " ", re.sub(r"`[^`]*`", " ", prose))
    return [word.lower() for word in PRIVATE.findall(ALLOWED.sub(" ", text))]


def of_document(markdown: str) -> list[str]:
    """The private words of a document, without its blocks of code and the targets of its links."""
    return private_words(re.sub(r"```.*?```|^ {4}[^\n]*$|\]\([^)]*\)", " ", markdown, flags=re.MULTILINE | re.DOTALL))


def of_docstring(text: str) -> list[str]:
    """The private words of a docstring, without its doctests."""
    return private_words(re.sub(r"^ *>>> .*?(?:\n\s*\n|\Z)", "\n", cleandoc(text), flags=re.MULTILINE | re.DOTALL))


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and text of each docstring of a module, of its public definitions, and of their public attributes."""
    yield "the module", ast.get_docstring(tree) or ""
    yield from _of_public(tree.body)


def _of_public(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for before, node in zip([None, *body], body, strict=False):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_"):
                yield node.name, ast.get_docstring(node) or ""
                if isinstance(node, ast.ClassDef):
                    yield from _of_public(node.body)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            name = _assigned(before)
            if name and not name.startswith("_"):
                yield name, node.value.value


def _assigned(node: ast.stmt | None) -> str:
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target)
    return ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""


def of_module(source: str) -> dict[str, list[str]]:
    """Public name → the private words in its docstring, where there are any."""
    words = {name: of_docstring(text) for name, text in docstrings(ast.parse(source))}
    return {name: some for name, some in words.items() if some}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_docstrings_use_the_words_of_the_field(path: Path) -> None:
    assert of_module(path.read_text(encoding="utf-8")) == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_documents_use_the_words_of_the_field(path: Path) -> None:
    assert of_document(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("prose", "words"),
    [
        ("What is told of a model.", ["told"]),
        ("Evicts panes older than the horizon.", []),
        ("Two\nplaces, and a beat; worthwhile untold.", ["places", "beat"]),
        ("The topic is not found; updates the array in place.", []),
        ("The ack `seen`.", []),
        ("It waits as long as labels\ntake.", ["as long as labels take"]),
    ],
)
def test_private_words_are_those_of_prose(prose: str, words: list[str]) -> None:
    assert private_words(prose) == words
    assert of_docstring(prose) == of_document(prose) == words


def test_code_is_left_out() -> None:
    assert of_document("See [places](places.md).\n\n    seen = told(facts)\n") == ["places"]
    assert of_docstring("Rounds.\n\n    >>> told(1)\n    'seen'\n\n    Raises:\n        Error: worth it.") == ["worth"]


def test_a_private_word_in_a_public_docstring_is_reported() -> None:
    source = '''
class Judge:
    """Gives what was told."""
    limit: int = 3
    """The furthest."""
    _own = 4
    """Seen by nobody."""

    def close(self):
        """Mends it."""

def _private():
    """Told."""
'''
    assert of_module(source) == {"Judge": ["told"], "limit": ["furthest"], "close": ["mends"]}
