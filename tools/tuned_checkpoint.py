"""A checkpoint under other values of its config: its maps, and the values worth trying."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import read_checkpoint_metadata
from panoptic_common.config import Extension, load_config, stored_config
from panoptic_common.inference.predictor import Predictor
from panoptic_common.systems import thresholds_of
from panoptic_tools.threshold_search import Choice, Maker

SCORES = (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
# Of meta-architectures without a module `thresholds`. Areas are times the config's own.
PEERS = {
    "PanopticFPN": {
        "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": SCORES,
        "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": (0, 0.25, 0.5, 1, 2, 4),
    }
}


class TunedCheckpoint:
    """A checkpoint whose config is changed here and there.

    Attributes:
        metadata: of the checkpoint.
        cfg: its complete config, with the options of the program.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        opts: Sequence[str] = (),
        extensions: Sequence[Extension] = (),
        *,
        allow_unsafe: bool = False,
    ) -> None:
        """Read what the file says of itself.

        Args:
            path: of the checkpoint.
            opts: config keys and values, by turns.
            extensions: that add the keys of a model which is none of ours.
            allow_unsafe: read pickles that could run code.

        Raises:
            CheckpointError, ValueError: something cannot be used; says what.
        """
        self._path, self._opts, self._unsafe = str(path), list(opts), allow_unsafe
        self._extensions = tuple(extensions)
        self.metadata = read_checkpoint_metadata(self._path, allow_unsafe)
        self.cfg = self.config(())
        self._thresholds = thresholds_of(self.cfg.MODEL.META_ARCHITECTURE)

    def config(self, choice: Choice) -> Any:
        """Return the complete config with a choice."""
        return load_config(
            stored_config(self.metadata.config),
            self._words(choice),
            table=self.metadata.class_table,
            extensions=self._extensions,
        )

    def _words(self, choice: Choice) -> list[str]:
        return [*self._opts, *(str(word) for pair in choice for word in pair)]

    def predictor(self, choice: Choice = ()) -> Predictor:
        """Build the model with a choice."""
        return Predictor.from_checkpoint(
            self._path,
            opts=self._words(choice),
            allow_unsafe=self._unsafe,
            extensions=self._extensions,
        )

    @cached_property
    def _unchanged(self) -> Predictor:
        return self.predictor()

    def candidates(self, wanted: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """List the values to try of each key, as the config reads them.

        Args:
            wanted: values of each key; empty: the usual ones of the model.

        Raises:
            ValueError: a key or value does not fit, or is a list, or there is none to try.
        """
        name = self.cfg.MODEL.META_ARCHITECTURE
        if wanted:
            chosen = wanted
        elif self._thresholds is not None:
            chosen = self._thresholds.usual_candidates(self.cfg)
        elif name in PEERS:
            chosen = {
                key: [self._scaled(key, value) for value in values]
                for key, values in PEERS[name].items()
            }
        else:
            raise ValueError(f"no thresholds of {name} are known here: name some by --try")
        found = {}
        for key, values in chosen.items():
            read = [value_of(self.config(((key, value),)), key) for value in values]
            if not all(isinstance(value, (int, float, str)) for value in read):
                raise ValueError(f"--try {key}: its values are no numbers or words: name another")
            found[key] = list(dict.fromkeys(read))
        return found

    def _scaled(self, key: str, value: float) -> float:
        is_area = key.endswith("AREA_LIMIT")
        return round(value * value_of(self.cfg, key)) if is_area else value

    def makers(self, choices: Sequence[Choice]) -> Iterator[Maker]:
        """Yield what makes maps: of all choices at once, or of one after the other."""
        found = self._thresholds
        keys = [key for key, _ in choices[0]]
        if found is not None and all(key.startswith(found.PREFIX) for key in keys):
            configs = [self.config(choice) for choice in choices]

            def remake(image: Any) -> Iterator[Any]:
                make = found.map_maker(self._unchanged, image)
                for cfg in configs:
                    id_map, segments = make(cfg)
                    yield id_map.cpu().numpy(), segments

            yield remake
            return
        for choice in choices:
            rebuilt = self.predictor(choice)

            def run(image: Any, predictor: Predictor = rebuilt) -> Iterator[Any]:
                prediction = predictor(image)
                yield prediction.id_map, prediction.segments_info

            yield run

    def write(self, choice: Choice, out: Path) -> None:
        """Write the checkpoint anew with the config of a choice."""
        checkpointer = PanopticCheckpointer(
            self.predictor(choice).model,
            str(out.parent),
            cfg=self.config(choice),
            class_table=self.metadata.class_table,
            seed=self.metadata.seed,
        )
        iteration = self.metadata.iteration
        checkpointer.save(out.stem, tag=False, iteration=iteration)


def value_of(cfg: Any, key: str) -> Any:
    """Return the value of a dotted key of a config."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
