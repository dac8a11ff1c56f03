"""The ``geo4d-bench`` script as a module, for launchers: ``torchrun -m geo4d_bench train --data ...``."""

from geo4d_bench.cli import console

if __name__ == "__main__":
    console()
