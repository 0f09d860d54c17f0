"""The Open Inference Protocol (V2): messages and their three encodings (JSON, binary extension, gRPC)."""
