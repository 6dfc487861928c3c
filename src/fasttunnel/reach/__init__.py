"""Whether the public reaches a client, and whether its backends listen: what a client says of itself is to be true."""
