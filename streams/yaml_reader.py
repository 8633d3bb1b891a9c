"""YAML text → plain values → records, with the line of every value for error messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, get_args

import msgspec
import yaml

from streams.errors import ConfigError

T = TypeVar("T")

MAX_NODES = 3_000_000
"""Values of a file, those that aliases repeat among them."""
MAX_BITS = 63
"""Bits of a whole number."""
LONG_TEXT = 100_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLOCK_SCALAR = re.compile(r"[|>][-+0-9]*[ \t]*(?:#.*)?$", re.MULTILINE)


MAX_DEPTH = 100
"""Levels of nesting: no configuration needs a tenth of them, and the parser written in C recurses into each."""
MAX_EVENTS = 1_000_000
"""Keys, values, and begins and ends of collections in a file, as YAML's parser counts them: some seconds' work."""


def _loader(text: str, file: str) -> Any:
    """The parser in C, in a fifth of the time; the one in Python for the message of a short text that is no YAML."""
    fast = getattr(yaml, "CSafeLoader", None)
    if fast is None:
        return yaml.SafeLoader(text)
    depth = 0
    try:
        for number, event in enumerate(yaml.parse(text, Loader=fast)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecursionError
            if number > MAX_EVENTS:
                place, seen = f"{file}, line {_mark_line(event)}", f"more than {MAX_EVENTS:,} keys and values"
                raise ConfigError(place=place, seen=seen, expected="fewer", mend="split it by models")
    except (yaml.YAMLError, UnicodeError):
        if len(text) > LONG_TEXT:
            raise
        return yaml.SafeLoader(text)  # its message says more
    return fast(text)


class YamlReader:
    """Converts plain values to records, and knows the line of every value."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._children: dict[int, dict[str | int, yaml.Node]] = {}
        """Of mappings that were looked into, by the node's identity: thousands of models are looked up one by one."""
        try:
            loader = _loader(_without_comments(text), file)
            self.root = loader.get_single_node()
            self._check_size()
            self._check_nodes(yaml.constructor.SafeConstructor())
            self.plain = loader.construct_document(self.root) if self.root else None
        except yaml.YAMLError as error:
            line = _line(error, text)
            raise ConfigError(
                place=f"{file}, line {line}" if line else file,
                seen=f"no YAML ({getattr(error, 'problem', None) or getattr(error, 'reason', None) or error})",
                expected="a YAML mapping",
                mend="check the indentation, the quotes and the colons there",
            ) from None
        except RecursionError:
            raise ConfigError(
                place=file, seen="YAML nested too deep", expected="a plain file", mend="flatten it"
            ) from None

    def _check_size(self) -> None:
        """Aliases and merges may say very much in a few lines, or refer to themselves."""
        sizes: dict[int, int] = {}
        stack: list[tuple[yaml.Node, bool]] = [(self.root, False)] if self.root else []
        within: set[int] = set()
        while stack:
            node, done = stack.pop()
            parts = _parts(node)
            if done:
                within.discard(id(node))
                sizes[id(node)] = 1 + sum(sizes[id(part)] for part in parts)
                if sizes[id(node)] > MAX_NODES:
                    seen = f"more than {MAX_NODES:,} values, by aliases"
                    raise self._fail_at(node, seen, "fewer", "write out what is meant, without aliases of aliases")
            elif id(node) in within:
                raise self._fail_at(node, "an alias of what it is a part of", "a plain file", "write out what is meant")
            elif id(node) not in sizes:
                within.add(id(node))
                stack += [(node, True), *((part, False) for part in parts if id(part) not in sizes)]

    def _check_nodes(self, constructor: yaml.constructor.SafeConstructor) -> None:
        """YAML itself lets the second of two equal keys win without a word, and reads `on` as a boolean."""
        nodes, met = [self.root], set()
        while nodes:
            node = nodes.pop()
            if id(node) in met:
                continue
            met.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                nodes += node.value
            if isinstance(node, yaml.ScalarNode):
                self._check_scalar(node, constructor)
            if not isinstance(node, yaml.MappingNode):
                continue
            seen: set[str] = set()
            for key, value in node.value:
                nodes.append(value)
                kind = key.tag.rpartition(":")[2]
                if kind not in ("str", "merge"):
                    raise self._fail_at(key, f"the key {_short(key)}, which YAML reads as {kind}", "a text", "quote it")
                if kind == "str" and key.value in seen:
                    raise self._fail_at(key, f"a second key {_short(key)}", "each key once", "remove or rename one")
                self._check_scalar(key, constructor)
                seen.add(key.value)

    def _check_scalar(self, node: yaml.ScalarNode, constructor: yaml.constructor.SafeConstructor) -> None:
        kind = node.tag.rpartition(":")[2]
        if not node.value.isascii() and _SURROGATE.search(node.value):
            seen = f"{_short(node)}, half of a pair of surrogates"
            raise self._fail_at(node, seen, "a text that UTF-8 can hold", "write the character itself")
        if kind == "merge":
            return
        try:
            value = constructor.construct_object(node)
            if isinstance(value, int) and value.bit_length() > MAX_BITS:
                raise OverflowError(f"{len(node.value)} characters")
        except (ValueError, OverflowError) as error:
            raise self._fail_at(node, f"{_short(node)}, no {kind} ({error})", "a value", "quote it") from None

    def _fail_at(self, node: yaml.Node, seen: str, expected: str, mend: str) -> ConfigError:
        place = f"{self.file}, line {node.start_mark.line + 1}"
        return ConfigError(place=place, seen=seen, expected=expected, mend=mend)

    def _child(self, node: yaml.Node | None, key: str | int) -> yaml.Node | None:
        if isinstance(node, yaml.MappingNode):
            if id(node) not in self._children:
                named = ((name.value, value) for name, value in reversed(node.value))
                self._children[id(node)] = {name: value for name, value in named if isinstance(name, str)}
            return self._children[id(node)].get(key)
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            child: yaml.Node = node.value[key]
            return child
        return None

    def place(self, path: tuple[str | int, ...]) -> str:
        node, line = self.root, 1
        for key in path:
            child = self._child(node, key)
            if child is None:
                break
            node = child
            line = node.start_mark.line + 1
        dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        return f"{self.file}, line {line}" + (f", {dotted}" if dotted else "")

    def fail(self, path: tuple[str | int, ...], seen: str, expected: str, mend: str) -> ConfigError:
        return ConfigError(place=self.place(path), seen=seen, expected=expected, mend=mend)

    def read(self, value: object, kind: type[T], path: tuple[str | int, ...]) -> T:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            message, _, inner = str(error).partition(" - at `$")
            unknown = re.search(r"unknown field `(.*)`", message)
            keys = tuple(_keys(inner.partition("[...]")[0].rstrip("`")))
            path = (*path, *keys)
            if unknown:
                known = _fields(kind, keys)
                close = difflib.get_close_matches(unknown[1], known, 1)
                mend = f"did you mean {close[0]!r}?" if close else f"remove it, or use one of: {', '.join(known)}"
                raise self.fail((*path, unknown[1]), f"unknown key {unknown[1]!r}", "a known key", mend) from None
            expected, _, got = message.partition(", got ")
            raise self.fail(
                path,
                _seen(value, keys) or got.strip("`") or message,
                expected.removeprefix("Expected ").strip("`") if got else "",
                "correct the value",
            ) from None


def _without_comments(text: str) -> str:
    """A long text with its lines of comments empty: YAML reads them letter by letter. Where a block of text may hold
    such lines it is left alone."""
    if len(text) < LONG_TEXT or _BLOCK_SCALAR.search(text):
        return text
    return "\n".join("" if line.lstrip(" \t").startswith("#") else line for line in text.split("\n"))


def _mark_line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(error: Exception, text: str) -> int | None:
    """Where YAML is broken. A quote that nobody closed is told by its beginning."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    opened = "scanning" in (getattr(error, "context", None) or "")
    mark = (opened and getattr(error, "context_mark", None)) or getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else None


def _fields(kind: Any, keys: Iterable[str | int]) -> list[str]:
    """Names of the fields of the record that stands at the end of a path of field names."""
    for key in keys:
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == key)
        kind = next((one for one in get_args(kind) if one is not type(None)), kind)  # of an optional one
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _seen(value: Any, keys: Iterable[Any]) -> str:
    """The value at the end of a path, if it is a number, a boolean or a text."""
    for key in keys:
        value = value[key] if isinstance(value, list) or (isinstance(value, dict) and key in value) else None
    return repr(value)[:80] if isinstance(value, str | int | float) else ""


def _short(node: yaml.Node) -> str:
    return repr(node.value)[:80]


def _keys(path: str) -> Iterator[str | int]:
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        yield int(index) if index else name
