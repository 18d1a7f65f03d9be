"""A command's own options: a mistake in them is told as every other."""

import argparse
from typing import NoReturn

from losslab.errors import UserError


class OptionParser(argparse.ArgumentParser):
    """Raises UserError where argparse prints its usage and leaves; no option may be abbreviated."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)
