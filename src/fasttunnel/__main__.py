"""`python -m fasttunnel`."""

from fasttunnel.cli import main

if __name__ == "__main__":
    main(prog_name="fasttunnel")
