"""`changeroom judge page`, `votes` and `similarity`: what people say of results, and what photographs say."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated

import typer

from service.commands.model_options import DEVICE_HELP
from service.commands.progress import bar
from service.errors import CommandFailed

NETS = "Networks, from your own files"


def page(
    a: Annotated[Path, typer.Argument(metavar="A", help="Results of one system: a folder of ID.png.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Results of the other.")],
    judged_set: Annotated[
        str, typer.Option("--set", metavar="SET", help="What was asked for, named as for judge run.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page; its key is written beside it.")] = Path(
        "page.html"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Take this many samples, at random.")] = None,
    question: Annotated[str, typer.Option(help="What stands over every pair.")] = "Which try-on is better?",
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
    from engine_build.judging.people.page import PagePlan, make_page
    from engine_build.judging.sets import load_set

    plan = PagePlan(secrets.randbits(48) if seed is None else seed, limit, height, ship, question)
    with bar("pairs") as progress:
        made = make_page(load_set(judged_set).samples, a, b, plan, progress)
    key = out.with_suffix(".key.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(made.html, encoding="utf-8")
    key.write_text(json.dumps(made.key, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    left_out = len(set(made.key["missing"]["a"]) | set(made.key["missing"]["b"]))
    size = out.stat().st_size / 1e6
    typer.echo(f"{out.absolute()}  {len(made.key['trials'])} pairs, {size:.1f} MB; send this one to people")
    typer.echo(f"{key.absolute()}  which picture is whose; keep this one")
    if left_out:
        typer.echo(f"samples left out, since A or B has no result for them: {left_out}")


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
    from engine_build.judging.people.votes import count, find_key

    tally = count(files, key or find_key(files))
    if json_file is not None:
        json_file.write_text(json.dumps(tally.as_dict(), indent=1) + "\n", encoding="utf-8")
    typer.echo(tally.text(), nl=False)


def similarity(
    results: Annotated[
        Path | None,
        typer.Argument(metavar="RESULTS", help="Results in the garments of the photographs (paired): ID.png each."),
    ] = None,
    *,
    photographs: Annotated[
        Path,
        typer.Option(
            "--set",
            metavar="SET",
            help="VITON-HD, DressCode, a folder with set.jsonl, or photographs called as the results are.",
        ),
    ],
    unpaired: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Results of the same people in other garments.")
    ] = None,
    split: Annotated[str, typer.Option(help="train or test, where a data set has both.")] = "test",
    inception: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="inception-2015-12-05.pt, for FID and KID.", rich_help_panel=NETS),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="torchvision's file of the LPIPS backbone.", rich_help_panel=NETS),
    ] = None,
    lpips_net: Annotated[
        str, typer.Option(help="Which backbone that is: squeeze, alex or vgg.", rich_help_panel=NETS)
    ] = "squeeze",
    dino: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of a DINO, for M-DINO.", rich_help_panel=NETS)
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of a CLIP, for M-CLIP-I.", rich_help_panel=NETS)
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="ID.png: white where the result may differ from the person.")
    ] = None,
    verdicts: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Rows {"id", "usable"}: who would ship what.')
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write every figure here.")
    ] = None,
) -> None:
    r"""Measure results beside photographs: FID and KID, SSIM and LPIPS, what changed outside a mask, usability.

    As CatVTON and FastFit measure: photographs are resized by LANCZOS to the height of the result, KID is times 1000,
    LPIPS is SqueezeNet's. No weights come with this program and none are fetched: a figure whose network you do not
    name is left out, and one whose file is not there says where to get it. Missing results are counted, never scored.

    For M-DINO and M-CLIP-I a set.jsonl names the garments, and masks hold ID-1.png for the place of the first garment
    in the result, and so on. The command needs: pip install 'changeroom\[judge]'

    Example: changeroom judge similarity runs/paired --unpaired runs/unpaired --set VITON-HD --inception
    inception-2015-12-05.pt --lpips squeezenet1_1-b8a52dc0.pth --json similarity.json

    Example: changeroom judge similarity runs/klein --set sets/omnitry --masks sets/omnitry/masks --dino dino-vits16
    --clip clip-vit-base-patch32 --verdicts verdicts.jsonl
    """
    if results is None and unpaired is None:
        raise typer.BadParameter("name a folder of results, --unpaired or both", param_hint="RESULTS")
    if results is None and (lpips is not None or masks is not None):
        raise typer.BadParameter("--lpips and --masks measure one result at a time: name RESULTS", param_hint="RESULTS")
    if lpips is None and lpips_net != "squeeze":
        raise typer.BadParameter("it says which network --lpips is: name its file", param_hint="--lpips-net")
    if masks is None and (dino is not None or clip is not None):
        raise typer.BadParameter("M-DINO and M-CLIP-I cut garments out by --masks", param_hint="--masks")
    from service.settings import let_threads_sleep

    let_threads_sleep()
    try:
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise CommandFailed("similarity needs torchmetrics: pip install 'changeroom[judge]'") from error
    from engine_build.judging.similarity.inception import Inception
    from engine_build.judging.similarity.likeness import Likeness
    from engine_build.judging.similarity.measure import Folders, Tools, measure
    from engine_build.judging.similarity.perceptual import Lpips
    from engine_build.runtime.loading import pick_device

    on = str(pick_device(device))
    tools = Tools(
        Inception(inception, on) if inception is not None else None,
        Lpips(lpips, lpips_net, on) if lpips is not None else None,
        Likeness(dino, "dino", on) if dino is not None else None,
        Likeness(clip, "clip", on) if clip is not None else None,
    )
    with bar("pictures") as progress:
        report = measure(Folders(photographs, results, unpaired, masks, verdicts, split), tools, progress)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    typer.echo(report.text(), nl=False)
