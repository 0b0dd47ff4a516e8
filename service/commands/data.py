"""`changeroom data`: make training shards of folders or of the procedural world, and look into shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.progress import bar
from service.errors import CommandFailed

data = typer.Typer(help="Make training data, and look into it.", no_args_is_help=True, rich_markup_mode="rich")

FROM = "Where samples come from (one of --from and --world)"
RULES = "What is left out"
MODEL = "A vision model, over an OpenAI-compatible endpoint"
SHARDS = "What is written"


@data.command()
def build(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the shards; made when absent.")],
    folder: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="A folder of real pairs.", rich_help_panel=FROM)
    ] = None,
    layout: Annotated[str, typer.Option(help="auto, viton-hd, dresscode or requests.", rich_help_panel=FROM)] = "auto",
    split: Annotated[str, typer.Option(help="train or test, where a layout has both.", rich_help_panel=FROM)] = "train",
    people: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Photos of the same people in other clothes, under the same names; without them the garment is "
            "greyed out of the target.",
            rich_help_panel=FROM,
        ),
    ] = None,
    world: Annotated[str | None, typer.Option(help="Draw instead: try-ons or edits.", rich_help_panel=FROM)] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples to draw.", rich_help_panel=FROM)] = 1000,
    first: Annotated[int, typer.Option(min=0, help="Number of the first drawn sample.", rich_help_panel=FROM)] = 0,
    height: Annotated[int, typer.Option(min=32, help="Pixels, of drawn people.", rich_help_panel=FROM)] = 96,
    shot: Annotated[int, typer.Option(min=16, help="Pixels, of drawn garments.", rich_help_panel=FROM)] = 40,
    min_side: Annotated[
        int, typer.Option(min=1, help="Shorter side of people and targets, pixels.", rich_help_panel=RULES)
    ] = 256,
    min_garment: Annotated[
        int, typer.Option(min=1, help="Shorter side of garments, pixels.", rich_help_panel=RULES)
    ] = 128,
    max_aspect: Annotated[float, typer.Option(min=1.0, help="Longer side over shorter.", rich_help_panel=RULES)] = 2.5,
    distance: Annotated[
        int,
        typer.Option(
            min=-1,
            max=31,
            help="Bits of 128 within which pictures repeat each other; -1 keeps all.",
            rich_help_panel=RULES,
        ),
    ] = 6,
    model_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask this endpoint about every sample. Its pictures are sent there.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the model there.", rich_help_panel=MODEL)] = "",
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the endpoint's key.", rich_help_panel=MODEL)
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Most requests, retries included.", rich_help_panel=MODEL)] = 1000,
    caption: Annotated[
        str,
        typer.Option(help="Who describes garments: grammar (by category) or model.", rich_help_panel=MODEL),
    ] = "grammar",
    unjudged: Annotated[
        str, typer.Option(help="Samples the model gave no usable answer about: keep or drop.", rich_help_panel=MODEL)
    ] = "keep",
    shard_samples: Annotated[int, typer.Option(min=1, help="Most samples in a shard.", rich_help_panel=SHARDS)] = 1000,
    shard_mib: Annotated[float, typer.Option(min=0.1, help="Most MiB in a shard.", rich_help_panel=SHARDS)] = 512.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a build that was interrupted.", rich_help_panel=SHARDS)
    ] = False,
) -> None:
    """Turn pairs of pictures into training shards, and say what was dropped and why.

    A sample is a person, 1 to 6 garments, the truth and an instruction; shards are tar files in the WebDataset
    layout, which training reads with data = "OUT/*.tar" in a stage's table. report.txt and report.json beside them
    name what was dropped. An interrupted build leaves whole shards and goes on with --resume.

    Layouts: viton-hd has image/ and cloth/ (or train/image ...), dresscode has upper_body/images/ID_0.jpg and
    ID_1.jpg, requests has NAME/request.json as changeroom samples writes it.

    Example: changeroom data build ./shards --from ./VITON-HD --min-side 512

    Example: changeroom data build ./shards --from ./DressCode --model-url http://localhost:8000/v1 --model qwen-vl
    --caption model

    Example: changeroom data build ./shards --world try-ons --count 10000 --height 96
    """
    if (folder is None) == (world is None):
        raise typer.BadParameter("name one: a folder with --from, or a world to draw with --world")
    if model_url is not None and not model:
        raise typer.BadParameter("name the model at that address", param_hint="--model")
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.judging.calls import Endpoint
    from engine_build.training.data import origins
    from engine_build.training.data.build import BuildPlan
    from engine_build.training.data.build import build as build_shards
    from engine_build.training.data.candidate_entry import Rules

    origin: Any
    if folder is not None:
        origin = origins.Folder(folder, layout, split, people, Rules(min_side, min_garment, max_aspect))
    else:
        origin = origins.World(str(world), count, first, height, shot)
    endpoint = None
    if model_url is not None:
        key = key_file.read_text(encoding="utf-8").strip() if key_file is not None else ""
        endpoint = Endpoint(model_url, model, key, budget)
    plan = BuildPlan(shard_samples, shard_mib, None if distance < 0 else distance, endpoint, caption, unjudged)
    with bar("samples") as progress:
        report = build_shards(origin, out, plan, resume, progress)
    typer.echo(report.text(), nl=False)
    if not report.written:
        raise CommandFailed(f"no sample was left; {out / 'report.txt'} says why")
    typer.echo(str(out.absolute()))


@data.command()
def inspect(
    shards: Annotated[list[str], typer.Argument(metavar="SHARDS...", help="Folders, files or patterns of shards.")],
    every: Annotated[
        bool, typer.Option("--every", help="Read and decode every sample; fails when one is broken.")
    ] = False,
    sheet: Annotated[Path | None, typer.Option(help="Paint a contact sheet here.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write what was found here.")] = None,
) -> None:
    """Say what shards hold: samples, categories, sizes, instructions.

    Without --every, 200 samples spread over all shards are looked at. A row of the sheet is the picture to edit, the
    garments, the truth.

    Example: changeroom data inspect ./shards --every --sheet sheet.png
    """
    from engine_build.training.data.inspection import inspect as look

    with bar("samples") as progress:
        found = look(shards, every, sheet, progress)
    if json_file is not None:
        json_file.write_text(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(found.text())
    if found.broken:
        raise CommandFailed(f"{len(found.broken)} of {found.looked_at} samples are broken")
