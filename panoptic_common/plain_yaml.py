"""Read YAML that somebody else may have written: plain values, of a size that the text itself has.

A few lines of aliases stand for a list of billions (`a: &a [x, x]`, `b: &b [*a, *a]`, ...), and an
alias may lie within what it stands for. The library reads both; whoever copies the result does not
come to an end. Also, what the library raises for odd values is hardly ever its own error.
"""

from __future__ import annotations

from typing import Any

import yaml

_MOST_VALUES = 100_000  # a complete config has 500
_DEEPEST = 50


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds: dicts, lists, texts, numbers, dates, truth values, None.

    Raises:
        ValueError: in a few words why the text cannot be read.
    """
    try:
        _count(yaml.compose(text, Loader=yaml.SafeLoader), {}, 0)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} deep") from None
    except (ValueError, OverflowError) as error:  # a 30th of February, a number of 5000 digits
        raise ValueError(str(error)) from error
    except (KeyError, AttributeError, TypeError) as error:  # !!bool abc, !!timestamp abc
        raise ValueError(f"a value does not fit its tag ({error})") from error


def _count(node: yaml.Node | None, counts: dict[int, int], depth: int) -> int:
    """Return how many values a node has once its aliases are resolved.

    Args:
        node: of the composed text, in which an alias is the very node that it names.
        counts: of the nodes that are done, by id; 0 for those that contain this one.
        depth: how deep it lies.

    Raises:
        ValueError: there are too many, it contains itself, or a key stands in it twice.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if counts.get(id(node)) == 0:
        raise ValueError("an alias stands for something that contains it")
    if id(node) not in counts:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        counts[id(node)] = 0
        mapping = isinstance(node, yaml.MappingNode)
        if mapping:
            _refuse_twins(node)
        inner = [part for pair in node.value for part in pair] if mapping else node.value
        counts[id(node)] = 1 + sum(_count(part, counts, depth + 1) for part in inner)
    if counts[id(node)] > _MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {_MOST_VALUES} values")
    return counts[id(node)]


def _refuse_twins(mapping: yaml.Node) -> None:
    """Raise ValueError for a key that stands twice: the library takes the last without a word."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise ValueError(
                    f"the key {key.value} stands twice, in lines {lines[name]} and {line}: keep one"
                )
            lines[name] = line
