"""One split's metrics as a table on the terminal."""

from rich.console import Console
from rich.table import Table


def print_metrics(metrics: dict[str, float]) -> None:
    """Print one split's metrics: the headline numbers, then precision and recall of each class.

    Args:
        metrics: by key, such as "test/recall/3"; one prefix only. Nothing is printed for {}.
    """
    if not metrics:
        return
    prefix = next(iter(metrics)).split("/")[0]
    values = {key.removeprefix(f"{prefix}/"): value for key, value in metrics.items()}
    console = Console(soft_wrap=True)
    headline = ("acc", "precision/macro", "recall/macro", "f1/macro", "ece", "loss")
    console.print("  ".join(f"{key} {values[key]:.4f}" for key in headline if key in values))
    table = Table("class", "precision", "recall", title=f"{prefix}: each class")
    for key in values:
        if key.startswith("precision/") and key != "precision/macro":
            name = key.removeprefix("precision/")
            table.add_row(name, f"{values[key]:.4f}", f"{values[f'recall/{name}']:.4f}")
    console.print(table)
