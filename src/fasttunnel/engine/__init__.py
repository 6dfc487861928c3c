"""The Cython data plane: extension modules for what runs per message, plain Python for starting and stopping."""
