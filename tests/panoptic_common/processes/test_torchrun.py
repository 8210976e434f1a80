"""What torchrun says by the environment: taken whole and without contradiction, or refused."""

from __future__ import annotations

import socket

from panoptic_common.compat.launch import count_workers, launch, leads

import pytest

from panoptic_common.processes.torchrun import LaunchRefused, TorchrunPlace, torchrun_place

SOUND = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SOUND:
        monkeypatch.delenv(name, raising=False)


def _set(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_sound_environment_gives_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun_place() is None and leads() and count_workers(2) == 2
    _set(monkeypatch, **SOUND)
    assert torchrun_place() == TorchrunPlace(5, 8, 1, 4, "127.0.0.1:29500")
    assert not leads() and count_workers(0) == 8
    _set(monkeypatch, RANK="0", LOCAL_RANK="0")
    assert leads()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"RANK": ""}, "RANK is '' in the environment, no number"),
        ({"RANK": "x"}, "RANK is 'x' in the environment, no number"),
        ({"RANK": "-1"}, "RANK is '-1' in the environment, no number"),
        ({"WORLD_SIZE": "0"}, "RANK is 5, but WORLD_SIZE 0"),
        ({"RANK": "8"}, "RANK is 8, but WORLD_SIZE 8"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK is 4, but LOCAL_WORLD_SIZE 4"),
        ({"LOCAL_WORLD_SIZE": "16"}, "RANK 5 of WORLD_SIZE 8 cannot be LOCAL_RANK 1"),
        ({"LOCAL_WORLD_SIZE": "3"}, "RANK 5 of WORLD_SIZE 8 cannot be LOCAL_RANK 1"),
        ({"LOCAL_RANK": "0"}, "RANK 5 of WORLD_SIZE 8 cannot be LOCAL_RANK 0"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT is 'x' in the environment, no number"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536, no port"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is 0, no port"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], sentence: str
) -> None:
    """Else a traceback would follow, or half an hour of waiting for a peer that never comes."""
    _set(monkeypatch, **{**SOUND, **change})
    with pytest.raises(LaunchRefused, match=sentence):
        torchrun_place()


@pytest.mark.parametrize("name", SOUND)
def test_a_part_of_it_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _set(monkeypatch, **{key: value for key, value in SOUND.items() if key != name})
    with pytest.raises(LaunchRefused, match=f", but {name} not: start by torchrun, or unset"):
        torchrun_place()


def test_one_of_two_would_be_two_runs_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch script that sets WORLD_SIZE alone means more than one process."""
    _set(monkeypatch, WORLD_SIZE="2")
    with pytest.raises(LaunchRefused, match="WORLD_SIZE is in the environment, .* but RANK,"):
        torchrun_place()
    _set(monkeypatch, WORLD_SIZE="1")  # as some containers have it
    assert torchrun_place() is None


def test_a_port_that_is_taken_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        ends = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        _set(monkeypatch, **{**SOUND, **ends, "MASTER_PORT": port})
        with pytest.raises(LaunchRefused, match=f"process 0 of 1 cannot meet .* 127.0.0.1:{port}"):
            launch(print, 0)
