from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from pathlib import Path

import pytest

from coterie.data import CoterieDataWarning, load, mnist, sources
from coterie.data.sources import PublishedFile, cache_dir, download, obtain
from coterie.errors import DataError
from coterie.registry import datasets

CONTENT = bytes(range(256)) * 40


def published(content: bytes = CONTENT, name: str = "f.gz") -> PublishedFile:
    return PublishedFile(name, hashlib.sha256(content).hexdigest(), len(content))


class Server:
    """Serves ``files`` on a free port of 127.0.0.1; ``asked`` lists the paths that were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.promise = 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                content = server.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"") + server.promise))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture
def nobody():
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


def remains(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "coterie"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "coterie"


def test_downloaded_once_into_the_cache(server):
    server.files["/f.gz"] = CONTENT
    for _ in range(2):
        paths = obtain("set", [published()], [server.url], None)
        assert paths == {"f.gz": cache_dir() / "set" / "f.gz"}
        assert paths["f.gz"].read_bytes() == CONTENT
    assert server.asked == ["/f.gz"]
    assert remains(cache_dir()) == ["set/f.gz"]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!", CONTENT[:-1] + b"!", b""])
def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path, content):
    server.files["/f.gz"] = content
    with pytest.raises(DataError, match=r"SHA-256 is .*, not the published"):
        download(server.url + "f.gz", published(), tmp_path / "d")
    assert remains(tmp_path) == []
    with pytest.raises(DataError, match="not the published"):
        obtain("set", [published()], [server.url], None)
    assert remains(tmp_path) == []


def test_a_connection_cut_short_leaves_nothing_behind(server, tmp_path):
    server.files["/f.gz"] = CONTENT[:5000]
    server.promise = len(CONTENT) - 5000
    with pytest.raises(DataError):
        download(server.url + "f.gz", published(), tmp_path / "d")
    assert remains(tmp_path) == []


def test_an_endless_answer_is_cut_off(tmp_path, monkeypatch):
    class Endless:
        given = 0

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def read(self, size):
            self.given += size
            assert self.given <= len(CONTENT) + 1
            return b"x" * size

    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda *args, **kwargs: Endless())
    with pytest.raises(DataError, match="not the published"):
        download("http://127.0.0.1/f.gz", published(), tmp_path)
    assert remains(tmp_path) == []


def test_a_silent_server_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DataError, match="timed out"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/f.gz", published(), tmp_path)
    assert remains(tmp_path) == []


def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sources.urllib.request, "urlopen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download("http://127.0.0.1/f.gz", published(), tmp_path)
    assert remains(tmp_path) == []


def test_the_second_mirror_helps_out(server, nobody):
    server.files["/good/f.gz"] = CONTENT
    server.files["/bad/f.gz"] = b"a login page"
    mirrors = [nobody, server.url + "missing/", server.url + "bad/", server.url + "good/"]
    assert obtain("set", [published()], mirrors, None)["f.gz"].read_bytes() == CONTENT


def test_only_what_the_cache_lacks_is_downloaded(server):
    files = [published(name="a.gz"), published(name="b.gz")]
    server.files |= {"/a.gz": CONTENT, "/b.gz": CONTENT}
    (cache_dir() / "set").mkdir(parents=True)
    (cache_dir() / "set" / "a.gz").write_bytes(CONTENT)
    obtain("set", files, [server.url], None)
    assert server.asked == ["/b.gz"]


def test_a_changed_file_in_the_cache_is_taken_with_a_warning(nobody):
    (cache_dir() / "set").mkdir(parents=True)
    (cache_dir() / "set" / "f.gz").write_bytes(b"mine")
    with pytest.warns(CoterieDataWarning, match="differs"):
        obtain("set", [published()], [nobody], None)


def test_mnist_without_a_network(monkeypatch, nobody, tmp_path):
    monkeypatch.setattr(mnist, "MIRRORS", (nobody,))
    with pytest.raises(DataError) as caught:
        load(datasets.resolve("mnist", Path(), "data.dataset"), None)
    message = str(caught.value)
    for word in (*(file.name for file in mnist.FILES), "COTERIE_DATA", "--data-dir", str(cache_dir()), "refused"):
        assert word in message
    assert remains(tmp_path) == []


def test_folders_that_cannot_be_used(tmp_path, monkeypatch, server):
    with pytest.raises(DataError, match="--data-dir: there is no folder"):
        obtain("set", [published()], [server.url], tmp_path / "none")
    with monkeypatch.context() as named, pytest.raises(DataError, match="COTERIE_DATA: there is no folder"):
        named.setenv("COTERIE_DATA", str(tmp_path / "none"))
        obtain("set", [published()], [server.url], None)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written"):
        obtain("set", [published()], [server.url], None)
    assert server.asked == []
