"""JSON as strict as the other readers of a dump are, so that no two of them understand one file differently.

Python's own parser takes NaN for a number, the last of two equal names, and text that is not Unicode.
"""

import json
from collections import Counter
from math import isfinite
from typing import Any, TypeGuard


def loads(data: bytes) -> Any:
    """Parse UTF-8 JSON.

    Raises
    ------
    ValueError
        If it is no JSON, nested too deeply, names a thing twice, or holds half a character.
    """
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_number,
            parse_int=_whole_number,
        )
        if b"\\u" in data:  # escapes may spell half a character; no other program could read such a name
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return content


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a JSON object."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether it is a JSON list."""
    return isinstance(value, list)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice[:80]!r} stands twice in one object")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _whole_number(text: str) -> int | float:
    """Read what 64 bits may hold as int; -0 and longer numbers are floats, as in Rust."""
    return _number(text) if text == "-0" or len(text) > 20 else int(text)


def _number(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
