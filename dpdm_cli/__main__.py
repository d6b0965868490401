"""`python -m dpdm_cli`, the same as the command `dpdm`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from dpdm_cli.commands.app import app

    app()


if __name__ == "__main__":
    main()
