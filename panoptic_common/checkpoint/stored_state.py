"""What a resume needs of the stored state of an optimizer, a schedule or a loss scale.

torch loads whatever it is given. Momentum of another shape is broadcast without a word, and a text
where a rate belongs is a traceback deep inside the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from panoptic_common.checkpoint.safe_load import odd_kind
from panoptic_common.values import is_integer, is_number


def state_problem(state: Any, item: Any) -> str | None:
    """Check the stored state of an optimizer, a schedule or a loss scale.

    Args:
        state: as the file has it.
        item: what it is to be loaded into, as built from the config.
    """
    own = item.state_dict()
    if not isinstance(item, torch.optim.Optimizer):
        return _difference(state, own, "its state")
    if not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
        return "its state is not that of an optimizer"
    groups = state["param_groups"]
    if not isinstance(groups, list) or not all(_lists_params(group) for group in groups):
        return "its param_groups are no list of groups"
    ours = own["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in ours]:
        return None  # another config, which the optimizer itself refuses
    for place, (theirs, group) in enumerate(zip(groups, ours, strict=True)):
        if theirs["params"] != group["params"]:  # numbers, by which the moments are found
            return f"'params' of group {place} are not those of this model, in their order"
        # Versions of torch differ in the keys; those of both are compared.
        shared = {key: group[key] for key in group if key in theirs and key != "params"}
        if problem := _difference(theirs, shared, f"group {place}"):
            return problem
    parameters = [p for group in item.param_groups for p in group["params"]]
    return _moments_problem(state["state"], parameters)


def _lists_params(group: Any) -> bool:
    """Tell whether this may be a group of an optimizer."""
    return isinstance(group, dict) and isinstance(group.get("params"), list)


def _moments_problem(moments: Any, parameters: Sequence[torch.Tensor]) -> str | None:
    """Check what an optimizer remembers of each parameter: tensors of its shape, and numbers."""
    if not isinstance(moments, dict):
        return f"its moments are {_shown(moments)}, not a dict"
    kept = {name for entries in moments.values() if isinstance(entries, dict) for name in entries}
    for index, entries in moments.items():
        if not is_integer(index) or not 0 <= index < len(parameters):
            return f"it holds moments of parameter {_shown(index)}, which there is not"
        if not isinstance(entries, dict):
            return f"its moments of parameter {index} are {_shown(entries)}, not a dict"
        if lacking := kept - entries.keys():
            return f"it holds no {_shown(lacking.pop())} of parameter {index}, but of others"
        for name, value in entries.items():
            fits = _moment_fits(name, value, parameters[index])
            if not isinstance(name, str) or not fits:
                return f"{_shown(name)} of parameter {index} is {_shown(value)}, which fits it not"
    return None


def _moment_fits(name: Any, value: Any, parameter: torch.Tensor) -> bool:
    """Tell whether an optimizer can go on with one of its values for a parameter."""
    if not isinstance(value, torch.Tensor):
        return value is None or is_number(value)
    if odd_kind(value) or not value.is_floating_point():
        return False
    if name == "step":  # of what our optimizers keep, the only one for all values
        return value.shape == () and not bool(value < 0)
    # A mean of squares below 0 would have no root.
    squares = str(name).endswith("_sq")
    return value.shape == parameter.shape and not (squares and bool((value < 0).any()))


def _difference(theirs: Any, ours: Any, place: str) -> str | None:
    """Return where a nested value is of another kind than one that is known to be right."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return f"{place} is {_shown(theirs)}, not a dict"
        for key, value in ours.items():
            if key not in theirs:
                return f"{place} has no {key!r}"
            if problem := _difference(theirs[key], value, f"{key!r} of {place}"):
                return problem
        return None
    if isinstance(ours, (list, tuple)):
        if not isinstance(theirs, (list, tuple)) or len(theirs) != len(ours):
            return f"{place} is {_shown(theirs)}, not {len(ours)} values"
        pairs = enumerate(zip(theirs, ours, strict=True))
        return next(filter(None, (_difference(a, b, f"{place}[{i}]") for i, (a, b) in pairs)), None)
    return None if _same_kind(theirs, ours) else f"{place} is {_shown(theirs)}, not as {ours!r}"


def _same_kind(theirs: Any, ours: Any) -> bool:
    """Tell whether two single values are of one kind; None stands for a choice left to torch."""
    if ours is None or isinstance(ours, bool):
        return theirs is None or isinstance(theirs, bool) or (ours is None and is_number(theirs))
    if is_integer(ours):
        return is_integer(theirs)
    if isinstance(ours, float):
        return is_number(theirs)
    return type(theirs) is type(ours)


def _kind(value: Any) -> str:
    return type(value).__name__


def _shown(value: Any) -> str:
    """Show a plain value, shortened, or else its kind."""
    if isinstance(value, (dict, list, tuple, torch.Tensor)):
        return f"a {_kind(value)}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
