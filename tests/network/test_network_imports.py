"""What needs the extra ``coterie[node]`` says so, and the rest does without."""

import subprocess
import sys

from coterie.network import extra

WITHOUT = """
import sys
for name in ("grpc", "libtorrent", "zstandard", "uvloop"):
    sys.modules[name] = None
import coterie.network, coterie.network.join, coterie.network.limits, coterie.network.members, coterie.network.sealing
from coterie.errors import NetworkError
from coterie.network.compression import encoding, encodings, by_code
assert [e.name for e in encodings()] == ["none", "fp16", "int8"]
assert by_code(3) is None
for attempt in (lambda: __import__("coterie.network.grpc"), lambda: encoding("zstd")):
    try:
        attempt()
    except NetworkError as error:
        assert error.remedy == "pip install 'coterie[node]'", error.remedy
    else:
        raise SystemExit("no error")
print("done")
"""


def test_the_network_can_be_imported_without_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60)
    assert done.stdout == "done\n", done.stderr


def test_grpc_is_imported_only_where_it_is_needed():
    code = "import sys, coterie.network, coterie.network.join; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_a_module_is_looked_for_once(monkeypatch):
    looked = []
    monkeypatch.setattr(extra, "find_spec", looked.append)
    assert not any(extra.is_there("there_is_no_such_module") for _ in range(3))
    assert looked == ["there_is_no_such_module"]
