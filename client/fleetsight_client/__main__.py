"""`python -m fleetsight_client` is the command `fleetsight`."""

from fleetsight_client.cli import main

if __name__ == "__main__":
    main()
