"""How models count classes, and our contiguous ids.

Shapes: K contiguous classes, N_th of them things and N_st stuff, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

from panoptic_common.modeling.semantic_map import SOME_THING

UNKNOWN = -1  # a number that means no class, or a class that has no number


class Numbering:
    """The contiguous class behind each number that a model uses.

    Attributes:
        semantic: class of each number in semantic maps, or `SOME_THING` for all things together.
        things: class of each number that a detection, or a thing of a panoptic map, may have.
        stuff: class of each number that stuff of a panoptic map may have.
        is_thing: K flags.
    """

    def __init__(self, style: str, is_thing: Sequence[bool]) -> None:
        """Make the tables.

        Args:
            style: "separate", Detectron2's: things 0..N_th - 1; in semantic maps 0 is any thing,
                and stuff follows, 1..N_st, which is also how a panoptic map names it. Or "joint":
                contiguous ids everywhere.
            is_thing: K flags.

        Raises:
            ValueError: another style.
        """
        if style not in ("separate", "joint"):
            raise ValueError(f"style is {style!r}: use 'separate' or 'joint'")
        self.is_thing = tuple(bool(flag) for flag in is_thing)
        things = [k for k, flag in enumerate(self.is_thing) if flag]
        stuff = [k for k, flag in enumerate(self.is_thing) if not flag]
        if style == "separate":
            self.semantic = [SOME_THING, *stuff]
            self.things, self.stuff = things, [UNKNOWN, *stuff]
        else:
            self.semantic = list(range(len(self.is_thing)))
            self.things = [k if flag else UNKNOWN for k, flag in enumerate(self.is_thing)]
            self.stuff = [UNKNOWN if flag else k for k, flag in enumerate(self.is_thing)]

    def semantic_numbers(self) -> list[int]:
        """Return the number of each of the K classes in semantic maps."""
        some = self.semantic.index(SOME_THING) if SOME_THING in self.semantic else None
        return [
            some if flag and some is not None else self.semantic.index(k)
            for k, flag in enumerate(self.is_thing)
        ]

    def thing_numbers(self) -> list[int]:
        """Return the number of each of the K classes as a detection; `UNKNOWN` for stuff."""
        return [self.things.index(k) if flag else UNKNOWN for k, flag in enumerate(self.is_thing)]
