"""What is said once, however many processes train one network."""

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def say(text: str) -> None:
    """Print, in the first process."""
    print(text)
