"""`python -m keeptune`: the command line."""

from keeptune.cli import main

if __name__ == "__main__":
    main()
