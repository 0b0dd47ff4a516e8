"""`changeroom judge page`, `votes` and `similarity`: what people say of results, and what photographs say."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


def page(
    a: Annotated[Path, typer.Argument(metavar="A", help="Results of one system: a folder of ID.png.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Results of the other.")],
    judged_set: Annotated[
        Path, typer.Option("--set", metavar="SET", help="What was asked for: a folder with set.jsonl.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page; its key is written beside it.")] = Path(
        "page.html"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Take this many samples, at random.")] = None,
    ship: Annotated[
        bool, typer.Option("--ship", help="Also ask of each picture whether it is good enough to ship.")
    ] = False,
    height: Annotated[int, typer.Option(min=64, help="Longest side of a result on the page, pixels.")] = 1024,
    seed: Annotated[
        int | None, typer.Option(help="Order and sides; without it they are new each time.", show_default=False)
    ] = None,
) -> None:
    """Make one page on which people compare two systems blind: better, same or worse, by keyboard or touch.

    The page is one file for anyone's browser. It asks the network for nothing, keeps what was voted when it is closed,
    and saves the votes as a JSON file to send back. Which picture is whose stands only in FILE.key.json: keep that to
    yourself, changeroom judge votes needs it. A sample that A or B has no result for is left out, and counted.

    Example: changeroom judge page runs/nano runs/klein --set sets/summer --out page.html --limit 60 --ship
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter("a page is called something.html", param_hint="--out")
    from engine_build.judging.manifest import read_set
    from engine_build.judging.page import PagePlan, make_page

    plan = PagePlan(secrets.randbits(48) if seed is None else seed, limit, height, ship)
    with _bar("pairs") as progress:
        made = make_page(read_set(judged_set), a, b, plan, progress)
    key = out.with_suffix(".key.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(made.html, encoding="utf-8")
    key.write_text(json.dumps(made.key, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    left_out = len(set(made.key["missing"]["a"]) | set(made.key["missing"]["b"]))
    size = out.stat().st_size / 1e6
    typer.echo(f"{out.absolute()}  {len(made.key['trials'])} pairs, {size:.1f} MB; send this one to people")
    typer.echo(f"{key.absolute()}  which picture is whose; keep this one")
    if left_out:
        typer.echo(f"{left_out} samples are left out: A or B has no result for them")


def votes(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Votes that people saved from one page.")],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page's key; without it, looked for beside the votes and here."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the tally here.")] = None,
) -> None:
    """Count what people voted on a page: how often A wins, ties and loses, by the number of garments.

    Each share has a 95% interval over samples, however many people looked at them. Files of another page are refused,
    and so is the same sitting twice.

    Example: changeroom judge votes anna.json ben.json --key page.key.json --json tally.json
    """
    from engine_build.judging.votes import count, find_key

    tally = count(files, key or find_key(files))
    if json_file is not None:
        json_file.write_text(json.dumps(tally.as_dict(), indent=1) + "\n", encoding="utf-8")
    typer.echo(tally.text(), nl=False)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr as a function of (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
