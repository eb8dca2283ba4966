"""The command line in a checkout: `python cli.py build CLEVR` is `saestore build CLEVR`."""

from saestore.cli import main

if __name__ == "__main__":
    main()
