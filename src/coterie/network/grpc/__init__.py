"""Real connections between peers, over gRPC. The only place that needs grpcio: the extra ``coterie[node]``."""

from coterie.network.extra import require

require("grpc", "real connections")

from coterie.network.grpc.transport import GrpcTransport  # noqa: E402 - not before that says what is missing

__all__ = ["GrpcTransport"]
