"""Addresses: one spelling each, and nothing that cannot be dialled."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import NetworkError
from coterie.network.discovery import Address

labels = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
ports = st.integers(1, 65535)


@given(names, ports)
def test_a_name_in_any_case_is_one_address(name, port):
    address = Address.parse(f"{name.upper()}:{port}")
    assert (address.host, address.port, str(address)) == (name, port, f"{name}:{port}")
    assert Address.parse(str(address)) == address


@given(st.integers(1 << 24, (224 << 24) - 1), ports)
def test_ipv4(number, port):
    text = ".".join(str(byte) for byte in number.to_bytes(4, "big"))
    address = Address.parse(f"{text}:{port}")
    assert str(address) == f"{text}:{port}"
    assert address == Address.of(f"::ffff:{text}", port)


@given(st.integers(0x2000 << 112, (0x4000 << 112) - 1), ports)
def test_ipv6_is_in_brackets_and_in_its_shortest_form(number, port):
    long = number.to_bytes(16, "big").hex(":", 2).upper()
    address = Address.parse(f"[{long}]:{port}")
    assert str(address) == f"[{ipaddress.IPv6Address(number).compressed}]:{port}"
    assert Address.parse(str(address)) == address
    assert Address.of(long, port) == address
    with pytest.raises(NetworkError):
        Address.parse(f"{long}:{port}")


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_an_error(text):
    try:
        address = Address.parse(text)
    except NetworkError as error:
        assert error.what
        assert error.remedy
    else:
        assert Address.parse(str(address)) == address


NONE = """
host host: :7 host:0 host:65536 host:+1 host:1_0 host:٣ host:007000 ho_st!:7 -host:7 host-:7 a..b:7 .a:7 a.:7
::1:7 [::1:7 ::1]:7 [::1] [host]:7 [127.0.0.1]:7 [fe80::1%eth0]:7 [::]:7 0.0.0.0:7 255.255.255.255:7 224.0.0.1:7
240.0.0.1:7 [ff02::1]:7 [::ffff:0.0.0.0]:7 1.2.3:7 127.1:7 0x7f.1:7 0x7f000001:7 2130706433:7 010.0.0.1:7
1.2.3.256:7 user@host:7 host/path:7 http://host:7 host:7:8
""".split()  # noqa: SIM905 - a list of words is easier to read without quotes
ODD = ["", " host:7", "host:7 ", "ho st:7", "host:7\n", "h\0st:7", "é:7", "a" * 64 + ":7", "a." * 200 + "a:7"]


@pytest.mark.parametrize("text", NONE + ODD)
def test_refused(text):
    with pytest.raises(NetworkError) as caught:
        Address.parse(text)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["0.0.0.0:0", "[::]:7000", "127.0.0.1:0"])
def test_to_listen(text):
    assert str(Address.parse(text, to_listen=True)) == text
    with pytest.raises(NetworkError):
        Address.parse(text)


def test_public():
    public = ["8.8.8.8:1", "[2606:4700::1111]:1", "hospital.example:1"]
    others = [
        "127.0.0.1:1",
        "10.1.2.3:1",
        "192.168.0.1:1",
        "169.254.169.254:1",
        "100.64.0.1:1",
        "[::1]:1",
        "[fe80::1]:1",
    ]
    others += ["[fd00::1]:1", "[::ffff:10.0.0.1]:1", "localhost:1", "a.localhost:1", "printer.local:1", "LOCALHOST:1"]
    assert [text for text in public + others if Address.parse(text).public] == public
