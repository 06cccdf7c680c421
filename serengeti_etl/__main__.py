"""``python -m serengeti_etl`` is the command line."""

from serengeti_etl.cli.main import main

if __name__ == "__main__":
    main()
