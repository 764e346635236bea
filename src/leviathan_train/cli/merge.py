"""`leviathan merge`: from an adapter to a model one can serve."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from leviathan_train.cli import complete
from leviathan_train.cli.options import as_json, find_run
from leviathan_train.cli.prompts import confirm
from leviathan_train.config.load import Config, load_config
from leviathan_train.errors import Declined, UsageError
from leviathan_train.merge import adapters, publish
from leviathan_train.merge import output as targets
from leviathan_train.merge import plan as plans
from leviathan_train.merge.job import Progress, Proof
from leviathan_train.run.folder import Run
from leviathan_train.ui import text as render


@click.command(short_help="Merge the adapter into the base model.")
@click.argument("run", metavar="[RUN|CONFIG]", required=False, shell_complete=complete.runs)
@click.option(
    "--checkpoint",
    "choice",
    default="final",
    show_default=True,
    metavar="final|best|latest|STEP|PATH",
    help="The adapter to merge.",
    shell_complete=complete.adapters,
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to write the model; models/<run>-merged without it.",
)
@click.option(
    "--precision",
    type=click.Choice(["training", "full"]),
    default="training",
    show_default=True,
    help="Of a base trained in 4 bits: its weights as training saw them, or unrounded.",
)
@click.option(
    "--prove",
    type=click.Choice(["none", "weights", "logits"]),
    default="weights",
    show_default=True,
    help="Check the result: not at all, that its files on disk are what was computed, or"
    " also that it answers as base and adapter do.",
)
@click.option("--yes", is_flag=True, help="Replace an existing merged model.")
@as_json
def merge(
    run: str | None,
    choice: str,
    output: Path | None,
    precision: plans.Precision,
    prove: Proof,
    yes: bool,
    json: bool,
) -> None:
    """Merge a run's adapter into its base model: a model that needs neither to be served.

    By default the final adapter of a finished run. An incomplete model never appears under the
    output name.

    Example:  leviathan merge leviathan_10pct_a4000 --checkpoint best
    """
    found, cfg = _find(run, choice, quiet=json)
    goal = output or targets.MODELS / f"{found.name}-merged"
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not json
    asks = interactive and not yes and targets.is_model(goal)
    plan = plans.make_plan(
        found, choice, goal, config=cfg, precision=precision, prove=prove, replace=yes or asks
    )
    if asks and not confirm(f"Replace {goal}?"):  # what cannot be merged is told before
        raise Declined("Nothing was changed.")
    screen = _Screen(quiet=json)
    screen.line(f"Merging {plan.adapter.label} of {found.name} with its base {plan.base_name}")
    try:
        record = publish.merge(plan, screen.show)
    except KeyboardInterrupt:  # it leaves nothing behind
        raise click.Abort from None
    finally:
        screen.close()
    render.document(record) if json else _tell(record)


def _find(target: str | None, choice: str, *, quiet: bool) -> tuple[Run, Config | None]:
    """The run that is meant, and its config if that was named.

    An adapter that is named by its path may lie anywhere, and need not have a run here.
    """
    is_adapter = (Path(choice) / "adapter_config.json").is_file()
    if target is None and is_adapter:
        return adapters.owner(Path(choice)), None
    path = Path(target or "")
    config = load_config(path) if path.suffix in {".yml", ".yaml"} else None
    try:
        return find_run(target, quiet=quiet), config
    except UsageError:
        if config is None or not is_adapter:
            raise
        return Run(config.output_dir), config


class _Screen:
    """Progress by shard: a line each, or on a terminal one line that is drawn over."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stdout.isatty()
        self._drawn = False

    def line(self, text: str) -> None:
        self.close()
        if not self._quiet:
            print(render.folded(render.plain_lines(text), sys.stdout), flush=True)

    def show(self, now: Progress) -> None:
        """Draw what the merge does now."""
        if self._quiet or now.done == now.total:
            return
        if now.phase == "loading":
            text = "Loading the libraries and the adapter..."
        elif now.phase == "merging":
            text = f"Merging shard {now.done + 1} of {now.total}: {now.detail}"
        else:
            text = f"Comparing {now.detail}"
        if self._live:
            sys.stdout.write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")
            sys.stdout.flush()
            self._drawn = True
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Take the drawn line away."""
        if self._drawn:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()
        self._drawn = False


def _tell(record: publish.Record) -> None:
    proof, told = record["proof"], []
    if weights := proof.get("weights"):
        told.append(
            f"✅ {weights['tensors']} tensors written, {weights['adapted']} of them base + adapter"
            " as peft computes it; read back from disk unchanged"
        )
    if logits := proof.get("logits"):
        told.append(
            f"✅ Logits over {logits['tokens']} tokens: largest difference"
            f" {logits['max_difference']:.2g}, most likely token the same at"
            f" {100 * logits['agreement']:.4g}%"
        )
    size = sum(file["bytes"] for file in record["files"].values())
    seconds = render.duration(record["seconds"])
    told.append(f"Merged model in {record['path']} ({render.size(size)}, {seconds})")
    for line in told:
        print(render.folded(render.plain_lines(line), sys.stdout))
