"""Addresses of weights, fetched from a server on this machine; nothing else is reached."""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkpoint_factory import TinyModel, checkpointer_of, randomised

from panoptic_common.checkpoint import addresses
from panoptic_common.checkpoint.addresses import local_weights
from panoptic_common.checkpoint.files import CheckpointError, read_weights_file
from panoptic_common.checkpoint.weights_format import write_weights


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and writes no log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which it is served; the cache is in another one."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served" / tmp_path.name  # the cache knows paths, not ports
    folder.mkdir(parents=True)
    handler = functools.partial(Quiet, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/{tmp_path.name}"
        server.shutdown()
        thread.join()


@pytest.fixture
def model(served: tuple[Path, str]) -> tuple[str, str]:
    """The address of a file of weights, and its hash."""
    folder, address = served
    checkpointer_of(randomised(TinyModel()), folder).save("model", iteration=0)
    write_weights(folder / "model.safetensors", read_weights_file(folder / "model.pth"))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return f"{address}/model.safetensors", digest


def test_the_right_hash_gives_the_file(model: tuple[str, str]) -> None:
    address, digest = model
    for digits in (digest, digest[:8], digest[:12].upper()):
        path = local_weights(f"{address}#sha256={digits}")
        assert read_weights_file(path)["iteration"] == 0
    target = TinyModel()
    checkpointer_of(target).load(f"{address}#sha256={digest}", checkpointables=[])
    assert (target.backbone[0].bias > 0.4).all()  # `randomised` has 0.5 and more


def test_a_wrong_hash_is_refused_before_anything_is_read(
    model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, digest = model
    wrong = ("0" if digest[0] != "0" else "1") + digest[1:]
    monkeypatch.setattr("panoptic_common.checkpoint.checkpointer.read_weights_file", None)
    with pytest.raises(CheckpointError, match=f"has the SHA-256 {digest}, not {wrong}") as raised:
        checkpointer_of(TinyModel()).load(f"{address}#sha256={wrong}", checkpointables=[])
    assert "\n" not in str(raised.value)
    assert local_weights(f"{address}#sha256={digest}")  # what was deleted is fetched again


def test_an_earlier_file_in_the_cache_is_fetched_again(
    model: tuple[str, str], served: tuple[Path, str]
) -> None:
    """The author replaced the file: its new hash is right, and the cache holds the old one."""
    address, digest = model
    local_weights(f"{address}#sha256={digest}")
    (served[0] / "model.safetensors").write_bytes(b"newer")
    newer = hashlib.sha256(b"newer").hexdigest()
    assert Path(local_weights(f"{address}#sha256={newer}")).read_bytes() == b"newer"


def test_a_hash_in_the_name_counts(served: tuple[Path, str]) -> None:
    folder, address = served
    right = hashlib.sha256(b"weights").hexdigest()[:8]
    assert not right.isdigit()
    (folder / f"net-{right}.pth").write_bytes(b"weights")
    (folder / "net-0badc0de.pth").write_bytes(b"weights")
    assert Path(local_weights(f"{address}/net-{right}.pth")).read_bytes() == b"weights"
    with pytest.raises(CheckpointError, match="not 0badc0de"):
        local_weights(f"{address}/net-0badc0de.pth")


def test_without_a_hash_the_log_says_which_would_hold(
    model: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    address, digest = model
    with caplog.at_level(logging.WARNING, logger=addresses.__name__):
        local_weights(address)
    assert f"#sha256={digest}" in caplog.text


@pytest.mark.parametrize("part", ["sha256=xyz", "sha256=1234567", "md5=0123456789abcdef"])
def test_a_malformed_hash_is_refused(part: str) -> None:
    with pytest.raises(CheckpointError, match="sha256= and 8 to 64 hexadecimal digits"):
        local_weights(f"https://example.invalid/model.pth#{part}")


def test_what_cannot_be_fetched_is_a_sentence(served: tuple[Path, str]) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth could not be fetched.*404"):
        local_weights(f"{served[1]}/absent.pth")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hf://a/b.c/m.pth", "https://huggingface.co/a/b.c/resolve/main/m.pth"),
        ("hf://a/b@v1.0/x/m.pth", "https://huggingface.co/a/b/resolve/v1.0/x/m.pth"),
    ],
)
def test_repositories_become_https(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the hash compared as for every address."""
    asked: list[str] = []
    (tmp_path / "m.pth").write_bytes(b"x")

    def fetch(url: str) -> str:
        asked.append(url)
        return str(tmp_path / "m.pth")

    monkeypatch.setattr(addresses.PathManager, "get_local_path", fetch)
    digest = hashlib.sha256(b"x").hexdigest()
    assert local_weights(f"{given}#sha256={digest}") == str(tmp_path / "m.pth")
    assert asked == [expected]


def test_an_address_of_no_repository_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no address hf://owner/name/file"):
        local_weights("hf://owner/file.pth")


def test_names_that_are_neither_files_nor_models(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file of weights nucleus, and no model"):
        local_weights("nucleus")
    assert local_weights("out/model.pth") == "out/model.pth"  # its reader says what is missing
