"""`python -m subbyte` is the command `subbyte`."""

from subbyte.app.cli import main

if __name__ == "__main__":
    main()
