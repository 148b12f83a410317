"""`python -m reunet`: the command, where the folder of scripts is not on the PATH."""

from reunet.cli import main

if __name__ == "__main__":
    main(prog_name="python -m reunet")
