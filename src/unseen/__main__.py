"""``python -m unseen`` is the command line."""

from unseen.cli.main import main

main()
