"""gRPC's settings for both ends, and credentials."""

from __future__ import annotations

from typing import Any

import grpc

from coterie.identity import Certificate, TransportKey
from coterie.network.grpc.wire import MESSAGE_BYTES
from coterie.network.limits import Limits

_KEEPALIVE_MS = 20_000
"""An idle stream is pinged this often: firewalls forget connections after a minute at the earliest."""
_PING_TIMEOUT_MS = 20_000
_WINDOW = 4 << 20
"""Bytes under way on a stream before the receiver must have read some: the bandwidth-delay product of 300 Mbit/s and
100 ms. It also bounds what gRPC buffers for a stream that is not read."""

Options = list[tuple[str, Any]]


def common() -> Options:
    """Settings of both ends."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _WINDOW),
    ]


def of_server(limits: Limits) -> Options:
    return [
        *common(),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", limits.streams_of_a_peer),
        ("grpc.max_allowed_incoming_connections", limits.handshakes),
        ("grpc.server_handshake_timeout_ms", int(limits.connect_seconds * 1000)),
        ("grpc.max_connection_idle_ms", int(limits.connect_seconds * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 4),
        ("grpc.max_metadata_size", 4096),
        ("grpc.absolute_max_metadata_size", 8192),
    ]


def of_client(name: str) -> Options:
    """``name``: what the server's certificate is made out to."""
    return [
        *common(),
        ("grpc.ssl_target_name_override", name),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]


def client_credentials(key: TransportKey, expected: tuple[Certificate, ...]) -> Any:
    """Our certificate, and exactly those that the other may show."""
    roots = b"".join(certificate.pem for certificate in expected)
    return grpc.ssl_channel_credentials(roots, key.key_pem, key.certificate.pem)
