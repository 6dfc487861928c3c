"""The asyncio engine: the same tunnel in plain Python, written to be read.

It is the executable specification of what the Cython data plane does, the oracle that tests compare it with, and what
the program falls back to where no extension can be loaded. It speaks the same wire contract, shares the control layer,
and imports nothing of the compiled modules.
"""
