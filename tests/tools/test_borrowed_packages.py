"""Detectron2 from an archive or a wheel: hashes, what is refused, which source is next, records."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import re
import subprocess
import sys
import tarfile
import threading
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from setup_programs import load_tool

borrowed = load_tool("borrowed_packages")
records = load_tool("borrowed_records")
commands = load_tool("setup_commands")
SetupError, UnreachableError = borrowed.SetupError, borrowed.UnreachableError

FILES = {
    "detectron2/__init__.py": b"__version__ = 'made up'\n",
    "detectron2/layers/__init__.py": b"",
    "detectron2/log.py": b"def tell():\n    print(\n        1\n    )\n",
}
# As in the real wheel: a call is commented out in one file, and there is one file more.
IN_WHEEL = {
    **FILES,
    "detectron2/log.py": b"def tell():\n    # print(\n    #     1\n    # )\n",
    "detectron2/more.py": b"",
    "carrier/__init__.py": b"",
}
HASHES = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}


def make_archive(files: dict[str, bytes], link: str = "") -> bytes:
    """A gzipped tar archive in upstream's form: all in one folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"detectron2-0ad20f1/{name}")
            member.size = len(data)
            if name == link:
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(member, io.BytesIO(data[: member.size]))
    return content.getvalue()


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """Start a server on this machine that answers each request in one way; return its address."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):  # the client gave up
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/archive.tar.gz"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def sending(data: bytes, length: int | None = None) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def no_wheel(package: object) -> Path:
    raise AssertionError("the wheel was asked for")


def collect(
    url: str, download_wheel: Callable[..., Path] = no_wheel
) -> tuple[dict[str, bytes], list[str]]:
    said: list[str] = []
    return borrowed.collect_detectron2(HASHES, url, download_wheel, said.append), said


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that counts as the examined one."""
    path = make_wheel(tmp_path, IN_WHEEL)
    package = replace(
        borrowed.DETECTRON2,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        commented_out=("detectron2/log.py", 2, 4),
    )
    monkeypatch.setattr(borrowed, "DETECTRON2", package)
    return path


def test_archive_is_taken_and_only_the_listed_files_of_it(serve) -> None:
    others = {"setup.py": b"x", "detectron2/projects/x.py": b"x", "../evil.py": b"x"}
    files, said = collect(serve(sending(make_archive({**FILES, **others}))))
    assert files == FILES and said == []


def not_found(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def hang(handler: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (not_found, "Not Found"),
        (hang, "timed out"),
        (sending(make_archive(FILES)[:-9], length=10_000), "broke off|IncompleteRead"),
        (sending(make_archive(FILES)[:-9]), "cut off"),
        (sending(b"<html>Please log in</html>"), "no gzipped tar archive"),
        (sending(gzip.compress(b"no tar" * 200)), "no gzipped tar archive"),
    ],
)
def test_source_that_does_not_deliver_gives_way_to_the_wheel(
    serve, wheel: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, reason: str
) -> None:
    """Both sources give the same tree, and one line says that it was the second."""
    monkeypatch.setattr(borrowed, "PATIENCE", 0.3)
    begin = time.monotonic()
    files, said = collect(serve(answer), lambda package: wheel)
    assert files == FILES
    assert time.monotonic() - begin < 2.5
    (line,) = said
    assert re.search(reason, line) and "roof-mask==0.5.4" in line


def test_server_that_drips_is_given_up(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time; the whole never does."""

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(30):
            handler.wfile.write(b"x")
            time.sleep(0.1)

    monkeypatch.setattr(borrowed, "LONGEST_DOWNLOAD", 0.3)
    with pytest.raises(UnreachableError, match="not complete after"):
        borrowed.download(serve(drip))


def test_nobody_listens(serve, wheel: Path) -> None:
    files, said = collect("http://127.0.0.1:1/archive.tar.gz", lambda package: wheel)
    assert files == FILES and len(said) == 1


@pytest.mark.parametrize(
    ("files", "link", "reason"),
    [
        ({**FILES, "detectron2/log.py": b"import evil\n"}, "", "log.py has SHA-256"),
        ({"detectron2/__init__.py": FILES["detectron2/__init__.py"]}, "", "is missing"),
        (FILES, "detectron2/log.py", "log.py in the archive is no plain small file"),
        ({**FILES, "detectron2/log.py": b"#" * 1_000_001}, "", "is no plain small file"),
    ],
)
def test_other_files_than_upstreams_are_refused_without_a_look_at_the_wheel(
    serve, files: dict[str, bytes], link: str, reason: str
) -> None:
    with pytest.raises(SetupError, match=f"^refused: .*{reason}"):
        collect(serve(sending(make_archive(files, link))))


def test_too_much_is_refused(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_archive({**FILES, "large": bytes(1_000_000)})  # 1 MB of zeros: 1 kB
    monkeypatch.setattr(borrowed, "LARGEST_CONTENT", 100_000)
    with pytest.raises(SetupError, match="holds more than 100000 bytes"):
        collect(serve(sending(archive)))
    monkeypatch.setattr(borrowed, "LARGEST_DOWNLOAD", 100)
    with pytest.raises(SetupError, match="sends more than 100 bytes"):
        collect(serve(sending(archive)))


def test_other_wheel_is_refused(tmp_path: Path) -> None:
    """The index serves a wheel with the right name and other content."""
    path = make_wheel(tmp_path, IN_WHEEL)
    with pytest.raises(SetupError, match="^refused.*has SHA-256.*another file under this name"):
        collect("http://127.0.0.1:1/", lambda package: path)


def test_pip_lists_and_removes_what_was_unpacked(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = commands.python_of(environment)
    site = Path(commands.ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "detectron2").mkdir()
    (site / "detectron2" / "old.py").write_text("")  # an older one is replaced
    records.unpack(FILES, borrowed.DETECTRON2, site)
    dist_info = f"detectron2-{borrowed.DETECTRON2.version}.dist-info"
    assert sorted(path.name for path in site.iterdir()) == ["detectron2", dist_info]
    assert not (site / "detectron2" / "old.py").exists()

    def pip(*words: str) -> str:
        command = [sys.executable, "-m", "pip", "--python", python, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    shown = pip("show", "--files", "detectron2")
    assert f"Version: {borrowed.DETECTRON2.version}" in shown and "fvcore" in shown
    assert "layers" in shown and "roof" not in shown
    assert borrowed.COMMIT in pip("freeze")
    pip("uninstall", "--yes", "detectron2")
    assert not [path for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"]


def test_record_holds_the_true_digests(tmp_path: Path) -> None:
    records.unpack(FILES, borrowed.DETECTRON2, tmp_path)
    (record,) = tmp_path.glob("detectron2-*.dist-info/RECORD")
    rows = [line.rsplit(",", 2) for line in record.read_text().splitlines()]
    listed = {name: (digest, size) for name, digest, size in rows}
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in paths}
    assert listed.keys() == files.keys()
    assert listed.pop(f"{record.parent.name}/RECORD") == ("", "")
    for name, (digest, size) in listed.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).decode()
        assert (digest, size) == (f"sha256={expected.rstrip('=')}", str(len(files[name])))


def test_only_what_an_earlier_set_up_unpacked_can_be_outdated(tmp_path: Path) -> None:
    package = borrowed.DETECTRON2
    assert not records.is_outdated(package, tmp_path)  # there is none
    records.unpack(FILES, package, tmp_path)
    assert not records.is_outdated(package, tmp_path)
    (dist_info,) = tmp_path.glob("*.dist-info")
    (dist_info / "direct_url.json").unlink()  # earlier versions did not write it
    assert records.is_outdated(package, tmp_path)
    (dist_info / "INSTALLER").write_text("pip\n")  # a user's own
    assert not records.is_outdated(package, tmp_path)


def test_committed_list_is_well_formed() -> None:
    listed = borrowed.read_hash_list()
    assert len(listed) == 147 and list(listed) == sorted(listed)
    for name, digest in listed.items():
        assert re.fullmatch(r"detectron2(/\w+)+\.py", name), name
        assert re.fullmatch("[0-9a-f]{64}", digest), name
    assert borrowed.DETECTRON2.commented_out[0] in listed


def test_committed_list_agrees_with_what_was_unpacked_here() -> None:
    for found in metadata.distributions(name="detectron2"):
        note = found.read_text("direct_url.json") or ""
        ours = (found.read_text("INSTALLER") or "").strip() == records.INSTALLER
        if ours and borrowed.COMMIT in note:
            break
    else:
        pytest.skip("no Detectron2 of the listed commit was unpacked here")
    root = Path(str(found.locate_file("")))
    paths = (root / "detectron2").rglob("*.py")
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    assert files.keys() == borrowed.read_hash_list().keys()
    borrowed.check_files(files, borrowed.read_hash_list())
