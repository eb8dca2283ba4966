"""``python -m saestore.cli`` is the command ``saestore``."""

from saestore.cli import main

if __name__ == "__main__":
    main(prog_name="saestore")
