"""The Cython data plane: extension modules for everything that runs per message, plain Python for starting and stopping it."""
