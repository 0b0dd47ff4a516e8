"""`changeroom samples`, `train` and `evaluate`: the procedural world, and models made and judged by it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine_build.instruction import MAX_GARMENTS
from service.commands.model_options import MODEL_HELP


def samples(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made when absent.")],
    seed: Annotated[int, typer.Option(help="The same seed draws the same people and clothes.")] = 0,
    garments: Annotated[int, typer.Option(min=1, max=MAX_GARMENTS, help="How many garments to draw.")] = 2,
) -> None:
    """Draw a procedural person, garments and the true answer: pictures you may use for anything.

    Example: changeroom samples ./demo --seed 7 --garments 3
    """
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.world.sample_files import write_samples

    write_samples(folder, seed, garments)
    typer.echo(str(folder.absolute()))


def train(
    stage: Annotated[
        str,
        typer.Argument(
            help="recipe (every stage that has a table in the file), or one stage: pretrain, resolution, tryon, "
            "isolate, nft, cfg-distill, dmd, expert; nano is the bundled checkpoint's own recipe; packing and evidence "
            "measure; keep and export hand on what a run has reached."
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(help="The configuration file; default: the bundled checkpoint's own.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last saved state.")] = False,
    out: Annotated[Path | None, typer.Option(help="The run's folder, instead of the file's own.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop, saved, after so long; --resume goes on from there.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="For export: held-out try-ons to judge both models by.")] = 200,
) -> None:
    """Train a checkpoint, stage by stage; progress, losses and sample grids go to the run's folder.

    In order: pretrain (general edits), resolution (growing pictures), tryon, isolate (references that see only
    themselves, cached across requests), nft (reinforcement by four rewards), cfg-distill (one pass for two), dmd (few
    steps); expert makes a LoRA for one domain. Each is a table of the file and starts where its start_from says.
    Without data = "shards/*.tar" in a table it draws the procedural world; docs/training.md leads from your own
    pictures to a served model. A stage interrupted at any moment goes on with --resume, with exactly the next step.
    keep writes the newest stage's weights to the file's kept folder, from which a run goes on whose own folder is gone.
    export bundles them as nano if they judge better than the bundled ones.

    Example: changeroom train tryon --config engine_build/training/configs/pico.toml --resume

    A machine lent for minutes: changeroom train recipe --config FILE --resume --out DIR --minutes 9

    Many GPUs: torchrun --nproc-per-node 8 -m service.cli train tryon --config FILE
    """
    from engine_build.training.train import Asked, main

    typer.echo(str(main(stage, config, Asked(resume, out, minutes, samples)).absolute()))


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    samples: Annotated[int, typer.Option(min=1, help="How many try-ons to judge.")] = 64,
    garments: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_GARMENTS, help=f"Only outfits of this many; default: 1 to {MAX_GARMENTS} in turn."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a picture; default: the model's.")] = None,
    height: Annotated[
        int | None,
        typer.Option(help="Judge scenes this many pixels high; default: the model's. Smaller pictures are enlarged."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the scores here.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help=f"Also paint a contact sheet here, 1 to {MAX_GARMENTS} garments.")
    ] = None,
) -> None:
    """Judge a model against the truth of the procedural world.

    Example: changeroom evaluate nano --samples 64 --json scores.json
    """
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.training.measure.evaluate import main

    main(model, samples, garments, json_file, steps, typer.echo, sheet, height)
