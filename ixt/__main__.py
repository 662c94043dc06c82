"""`ixt` and `python -m ixt`."""

from ixt.cli import main

if __name__ == "__main__":
    main()
