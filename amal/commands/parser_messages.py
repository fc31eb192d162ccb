"""The messages of jsonargparse, in one line."""

from __future__ import annotations

import re

# What jsonargparse wraps causes in, in lines of their own and within a line.
_AROUND_CAUSES = re.compile(r"Does not validate against any of the|Subtypes: |Errors:$|Given value( type)?: ")
_NESTED_KEYS = {
    r"Problem with given class_path '[\w.]+': (?=Parser key)": "",
    r"Type \S*Callable\[.*?\] expects a function or a callable class: (?=Parser key|Option)": "",
    r'": Parser key "': ".",
    r'^Parser key "([\w.]+)":': r"\1:",
}


def one_line(message: str) -> str:
    """The gist of a message of jsonargparse, which also tells of every other type that an argument could have had."""
    message = re.sub(r"\. Got value: Namespace\(.*", "", message, flags=re.DOTALL)  # arrays in it take several lines
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    causes = [line for line in lines if line and not _AROUND_CAUSES.match(line)]
    told = [cause for cause in causes if "NoneType" not in cause and "Expected a path" not in cause] or causes
    line = " ".join(cause for i, cause in enumerate(told) if cause.startswith("Parser key") or cause not in told[:i])
    for pattern, instead in _NESTED_KEYS.items():
        line = re.sub(pattern, instead, line)
    given = re.search(r"\n\s*Given value: (?!NestedArg|Namespace|[\[{])(.{1,60})", message)
    return f"{line}, got {given[1]}" if given and given[1] not in line else line
