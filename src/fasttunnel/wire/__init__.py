"""The wire contract as generated Python code (``make proto``): `tunnel_pb2`, and `tunnel_pb2_grpc` for stock gRPC programs.

Import the modules by name. `tunnel_pb2_grpc` imports grpcio, which the engines do not need.
"""
