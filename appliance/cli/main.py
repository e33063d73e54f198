"""The command tree; each branch is imported when it is used, so that `--version` stays quick."""

import click


@click.group()
@click.version_option("0.1.0", prog_name="kowabunga")
def main() -> None:
    """Run and operate a Kowabunga cloud."""
