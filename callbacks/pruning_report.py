"""What pruning took, layer by layer, on the terminal."""

from collections.abc import Mapping

from deployment.compare import Times
from lightning_modules.backbones import Backbone
from lightning_modules.pruning import widths


def print_pruning(
    net: Backbone,
    small: Backbone,
    protected: Mapping[str, str],
    before: Mapping[str, int],
    after: Mapping[str, int],
    times: Times,
    runtime: str,
) -> None:
    """Print a table of layers, and what the whole network costs.

    Args:
        net: Before this pruning.
        small: After it.
        protected: Layers that were not to be touched, and why.
        before: `params` and `macs` of the network before any pruning of the run.
        after: The same of `small`.
        times: Of one photo through `small` and through the network before, measured in turn.
        runtime: What they were measured in.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"pruned {net.name}: output channels", title_justify="left")
    for heading in ("layer", "before", "after", "left"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    old, new = widths(net), widths(small)
    for name, channels in old.items():
        if new[name] != channels:
            table.add_row(name, str(channels), str(new[name]), f"{new[name] / channels:.0%}")
    console = Console()
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for name, reason in protected.items():
        reasons.setdefault(reason, []).append(name)
    reasons["too few channels to cut, at this ratio"] = [n for n in old if new[n] == old[n] and n not in protected]
    for reason, names in reasons.items():
        if names:
            rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
            console.print(f"kept ({reason}): {', '.join(names[:4])}{rest}", highlight=False)
    for key in ("macs", "params"):
        console.print(f"{key}: {before[key]:,} -> {after[key]:,} ({after[key] / before[key]:.1%})", highlight=False)
    faster = "" if times.ratio < 0.98 else ": NOT FASTER here, in spite of its fewer operations"
    took = f"{times.yardstick:.2f} ms -> {times.net:.2f} ms ({times.ratio:.2f} of the unpruned)"
    console.print(f"latency in {runtime}, one photo: {took}{faster}", highlight=False)
