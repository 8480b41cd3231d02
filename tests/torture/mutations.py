"""Damage of trees, such as parsed JSON, YAML or a checkpoint, and of bytes."""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

HOSTILE = "a\x1b[2J\x1b]0;title\x07\nFORGED: done\r\u202e\x9b31m"
"""Text that clears the screen, sets the title, forges a line and reverses the order of letters."""


def _nest(depth: int) -> Any:
    tree: Any = []
    for _ in range(depth):
        tree = [tree]
    return tree


VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "0": 0,
    "1": 1,
    "-1": -1,
    "0.5": 0.5,
    "1e300": 1e300,
    "2^63": 2**63,
    "10^25": 10**25,
    "-10^400": -(10**400),
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "empty text": "",
    "word": "word",
    "number as text": "7",
    "exponent": "1e5",
    "path": "/proc/self/mem",
    "parent": "../..",
    "hostile": HOSTILE,
    "surrogate": "\udcff",
    "long text": "x" * 5000,
    "empty list": [],
    "list": [1, "a", None],
    "long list": list(range(3000)),
    "empty mapping": {},
    "mapping": {"a": {"b": 1}},
    "deep": _nest(30),
}
"""Values of every type and size, one for each way to be wrong."""


def as_typed(value: Any) -> str:
    """The value as somebody types it on a command line."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


_RENAMED: dict[str, Callable[[Any], str]] = {
    "misspelt": lambda key: f"{key}s",
    "in upper case": lambda key: str(key).upper(),
    "renamed to hostile text": lambda key: HOSTILE,  # noqa: ARG005
}


def mutations(tree: Any, values: dict[str, Any] = VALUES) -> Iterator[tuple[str, Any]]:
    """Yield nested dictionaries and lists with one node dropped, nested, renamed or of each of `values`, and which."""
    pairs = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for at, (key, old) in enumerate(pairs):
        changes: dict[str, list[tuple[Any, Any]]] = {
            " dropped": [],
            " nested": [(key, {key: old})],
            " in a list": [(key, [old])],
        }
        changes |= {f" {what}": [(rename(key), old)] for what, rename in _RENAMED.items()}
        changes |= {f" is {what}": [(key, value)] for what, value in values.items()}
        inner = ((f".{what}", [(key, value)]) for what, value in mutations(old, values))
        for what, new in (*changes.items(), *inner):
            changed = [*pairs[:at], *new, *pairs[at + 1 :]]
            yield f"{key}{what}", dict(changed) if isinstance(tree, dict) else [value for _, value in changed]


TOKENS = [
    *[b"\t", b"\0", b"\r", b"\x85", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1b[2J", b'"\\UFFFFFFFF"'],
    *[b"&a ", b"*a ", b"!x ", b"<<: ", b"? ", b"- ", b": ", b"'", b'"', b"[", b"{", b"}", b"]", b"#", b"|", b">", b","],
    *[b"\n---\n", b"\n...\n", b"%YAML 1.1\n---\n", b"!!python/object/apply:os.abort []", b"@", b"`", b"1e999999"],
    *[b"[" * 3000, b"{a: " * 3000, b"9" * 6000],
]  # fmt: skip
"""What a damaged or hostile text may hold at any place."""


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Damage a file at a random place; returns a description and the content."""
    at = draw.randrange(len(content) + 1)
    to = min(len(content), at + draw.choice([1, 1, 2, 7, 40]))
    kind = draw.choice(["flip", "cut", "end", "insert", "insert", "insert", "repeat", "swap"])
    if kind == "flip":
        return f"bit flipped at {at}", content[:at] + bytes(
            b ^ 1 << draw.randrange(8) for b in content[at:to]
        ) + content[to:]
    if kind == "cut":
        return f"cut from {at} to {to}", content[:at] + content[to:]
    if kind == "end":
        return f"ends at {at}", content[:at]
    if kind == "repeat":
        return f"repeats {at} to {to}", content[:to] + content[at:to] * draw.choice([1, 100]) + content[to:]
    if kind == "swap":
        lines = content.splitlines(keepends=True)
        draw.shuffle(lines)
        return "lines shuffled", b"".join(lines)
    token = draw.choice(TOKENS)
    return f"{token[:12]!r} at {at}", content[:at] + token + content[at:]
