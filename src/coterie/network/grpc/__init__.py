"""Real connections between peers, over gRPC. The only place that needs grpcio: the extra ``coterie[node]``."""

from importlib.util import find_spec

from coterie.errors import RunError

if find_spec("grpc") is None:
    raise RunError("grpcio is not installed", where="coterie.network.grpc", remedy="pip install 'coterie[node]'")

from coterie.network.grpc.transport import GrpcTransport

__all__ = ["GrpcTransport"]
