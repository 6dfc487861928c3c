"""The wire contract as generated Python code (``make proto``).

Import the modules by name: `tunnel_pb2`, and for stock gRPC programs `tunnel_pb2_grpc`, which imports grpcio.
"""
