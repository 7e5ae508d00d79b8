"""`python -m warren`: the same as the `warren` command."""

from warren.cli import main

if __name__ == "__main__":
    main()
