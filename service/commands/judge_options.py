"""The options of `changeroom judge` in groups: which samples, who judges, what it may cost, how much is asked again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine_build.judging.samples import JudgedSet

GENERATED, ASKED, SPENT, TRUSTED, SET_OF = "Results", "The judge", "What it may cost", "Trust", "The set"
SET_HELP = (
    "A folder or file (set.jsonl, parquet with --columns, request.json files, VITON-HD, DressCode), or "
    "world:COUNT[:GARMENTS[:HEIGHT]]."
)


@dataclass(frozen=True)
class TheSet:
    """Which samples."""

    set: Annotated[str, typer.Option(metavar="SET", help=SET_HELP, rich_help_panel=SET_OF)]
    columns: Annotated[
        Path | None,
        typer.Option(metavar="TOML", help="Which column of the parquet is what.", rich_help_panel=SET_OF),
    ] = None
    pairs: Annotated[
        str, typer.Option(help="unpaired or paired, of VITON-HD and DressCode.", rich_help_panel=SET_OF)
    ] = "unpaired"
    split: Annotated[str, typer.Option(help="Which list of theirs.", rich_help_panel=SET_OF)] = "test"
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many samples only.", rich_help_panel=SET_OF)
    ] = None

    def load(self) -> JudgedSet:
        from engine_build.judging.sets import load_set

        return load_set(self.set, columns=self.columns, pairs=self.pairs, split=self.split, limit=self.limit)


@dataclass(frozen=True)
class TheJudge:
    """Who is asked, and how."""

    url: Annotated[
        str,
        typer.Option(help="An OpenAI-compatible address. Pictures are sent there.", rich_help_panel=ASKED),
    ] = ""
    model: Annotated[str, typer.Option(help="Name of the model there.", rich_help_panel=ASKED)] = ""
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the endpoint's key.", rich_help_panel=ASKED)
    ] = None
    decoding: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help='How the model is to speak, instead of {"temperature": 0, "max_tokens": 1200}.',
            rich_help_panel=ASKED,
        ),
    ] = '{"temperature": 0, "max_tokens": 1200}'
    long_side: Annotated[
        int, typer.Option(min=32, help="Longest side of a picture as sent, pixels.", rich_help_panel=ASKED)
    ] = 1024
    parallel: Annotated[int, typer.Option(min=1, help="Questions at once.", rich_help_panel=ASKED)] = 4
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.", rich_help_panel=ASKED)] = 120.0
    retries: Annotated[
        int, typer.Option(min=0, help="Tries more for a busy or failing endpoint.", rich_help_panel=ASKED)
    ] = 6


@dataclass(frozen=True)
class TheCost:
    """What a run may cost, and whether it is only told."""

    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say how many calls, tokens and dollars; ask nothing.", rich_help_panel=SPENT),
    ] = False
    budget: Annotated[
        int, typer.Option(min=1, help="Most requests of this run, retries included.", rich_help_panel=SPENT)
    ] = 20_000
    price_read: Annotated[
        float, typer.Option(min=0, help="US dollars for a million tokens read.", rich_help_panel=SPENT)
    ] = 0.0
    price_written: Annotated[
        float, typer.Option(min=0, help="US dollars for a million tokens written.", rich_help_panel=SPENT)
    ] = 0.0
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Dollars after which the run ends.", rich_help_panel=SPENT)
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """What is judged, where the answers go, and how much is asked again."""

    out: Annotated[Path, typer.Option(metavar="DIR", help="Keeps journal.jsonl and the report.")]
    oracle: Annotated[
        bool,
        typer.Option("--oracle", help="Exact scores of the procedural world, no model.", rich_help_panel=ASKED),
    ] = False
    again: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples asked again.", rich_help_panel=TRUSTED)
    ] = 0.0
    repeats: Annotated[int, typer.Option(min=1, help="How often these are.", rich_help_panel=TRUSTED)] = 2
    sham: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share asked about the result encoded as JPEG.", rich_help_panel=TRUSTED),
    ] = 0.0
    generate: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Make missing results through this service first.", rich_help_panel=GENERATED),
    ] = None
    service_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds that service's key.", rich_help_panel=GENERATED)
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps of a made result.", rich_help_panel=GENERATED)
    ] = None
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of a made result.", rich_help_panel=GENERATED)
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of a made result.", rich_help_panel=GENERATED)] = 0


@dataclass(frozen=True)
class Results:
    """The folder that is judged."""

    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Holds ID.png, one a sample.")]


@dataclass(frozen=True)
class PairOptions:
    """Two folders, and where the answers go."""

    a: Annotated[Path, typer.Argument(metavar="A", help="Results of one system.")]
    b: Annotated[Path, typer.Argument(metavar="B", help="Results of another.")]
    out: Annotated[Path, typer.Option(metavar="DIR", help="Keeps journal.jsonl and the report.")]


@dataclass(frozen=True)
class BaselineOptions:
    """Which baseline, and where it goes."""

    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Gets ID.png, one a sample.")]
    of: Annotated[str, typer.Option(help="copy (the photo unchanged) or truth.")]
