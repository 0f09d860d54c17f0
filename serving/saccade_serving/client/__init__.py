"""An asyncio client of the Open Inference Protocol: REST with binary tensors first, gRPC second.

Used by the transformer towards the predictor, and by the command line towards either.
"""

from saccade_serving.client.balanced import Balanced
from saccade_serving.client.client import BadAnswer, ConnectionFailed, Refused, V2Client
from saccade_serving.client.grpc import GrpcClient
from saccade_serving.client.rest import RestClient

__all__ = ["BadAnswer", "Balanced", "ConnectionFailed", "GrpcClient", "Refused", "RestClient", "V2Client"]
