"""`python -m saestore` is `saestore`."""

from saestore.cli import main

if __name__ == "__main__":
    main(prog_name="saestore")
