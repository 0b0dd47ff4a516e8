"""`changeroom tryon`: one try-on by the engine itself, without a service, with a progress bar."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine_build.instruction import MAX_GARMENTS
from service.commands.model_options import BACKEND_HELP, DEVICE_HELP, DTYPE_HELP, MODEL_HELP
from service.errors import CommandFailed
from service.settings import SettingsError, parse_loras

if TYPE_CHECKING:
    from engine_build.engine import Engine, ImageInput, Outcome, TryOnRequest

SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}


def tryon(
    person: Annotated[Path, typer.Option(help="The person's photo.")],
    garment: Annotated[
        list[str],
        typer.Option(metavar="CATEGORY[:LAYER]=FILE", help=f"A garment's photo; repeat for up to {MAX_GARMENTS}."),
    ],
    prompt: Annotated[str, typer.Option(help="Wishes in your own words.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture.")] = 0,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of the picture, e.g. 768x1024.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "nano",
    backend: Annotated[str, typer.Option(help=BACKEND_HELP)] = "torch",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "auto",
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE[=STRENGTH]", help="A LoRA file; repeat for several.")
    ] = None,
    overflow: Annotated[
        str, typer.Option(help="Garments beyond the model's references: sheets (one pass) or sequential.")
    ] = "sheets",
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to save: .jpg, .png or .webp")] = Path(
        "try-on.jpg"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")] = False,
) -> None:
    """Dress a person by running the engine here, without a service.

    Example: changeroom tryon --person me.jpg --garment top=shirt.jpg --garment coat=coat.jpg --prompt "coat open"
    """
    if output.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter("use .jpg, .png or .webp", param_hint="--output")
    if len(garment) > MAX_GARMENTS:
        raise typer.BadParameter(f"at most {MAX_GARMENTS} garments", param_hint="--garment")
    if overflow not in ("sheets", "sequential"):
        raise typer.BadParameter("use sheets or sequential", param_hint="--overflow")
    try:
        loras = parse_loras(lora or [])
    except SettingsError as error:
        raise typer.BadParameter(str(error), param_hint="--lora") from error
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    request = _request(person, garment, prompt, seed, size, steps)
    console = Console(stderr=True, quiet=as_json)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"loading {model}", total=None)
        started = time.perf_counter()
        engine = _engine(model, backend, device, dtype, loras, "sequential" if overflow == "sequential" else "sheets")
        loaded = time.perf_counter() - started
        bar.update(task, description="dressing", total=request.steps or engine.describe().default_steps)

        def on_step(event: Any) -> bool:
            bar.update(task, completed=event.step, total=event.steps)
            return True

        started = time.perf_counter()
        (outcome,) = engine.run([request], on_step)
        seconds = time.perf_counter() - started
    _save(outcome, output)
    stages = {"load": loaded, **outcome.stages, "total": seconds}
    if as_json:
        typer.echo(json.dumps(_report(outcome, output, engine, request, stages)))
        return
    typer.echo(f"{output.absolute()}")
    typer.echo("  ".join(f"{name} {value:.2f} s" for name, value in stages.items()))
    if outcome.approximation:
        typer.echo(f"approximation: {outcome.approximation}")


def _engine(
    model: str,
    backend: str,
    device: str,
    dtype: str,
    loras: list[tuple[Path, float]],
    overflow: Literal["sheets", "sequential"],
) -> Engine:
    from engine_build.backends import load_engine
    from service.settings import let_threads_sleep

    let_threads_sleep()
    return load_engine(model, backend=backend, device=device, dtype=dtype, loras=loras, overflow=overflow)


def _request(
    person: Path, garments: list[str], prompt: str, seed: int, size: str | None, steps: int | None
) -> TryOnRequest:
    from engine_build.engine import TryOnRequest
    from engine_build.instruction import CATEGORIES, LAYER_WORDS, NOUNS, GarmentPhrase, compose, parse_layers

    by_noun = {noun: category for category, noun in NOUNS.items()}
    wanted = _size(size)
    pictures: list[ImageInput] = []
    for given in garments:
        said, equals, name = given.partition("=")
        name_said, _, layer = said.partition(":")
        category = by_noun.get(name_said, name_said)
        if not equals or category not in CATEGORIES:
            known = ", ".join(CATEGORIES)
            raise typer.BadParameter(
                f"{given!r} is not CATEGORY=FILE with one of {known}", param_hint="--garment"
            )
        if layer and layer not in LAYER_WORDS[category]:
            known = ", ".join(LAYER_WORDS[category]) or "none"
            raise typer.BadParameter(f"{given!r}: layer words for {category} are {known}", param_hint="--garment")
        pictures.append(_photo(Path(name), category, layer or None))
    wished = parse_layers(prompt, [picture.category or "auto" for picture in pictures])
    phrases = [
        GarmentPhrase(picture.category or "auto", picture.layer or wish)
        for picture, wish in zip(pictures, wished, strict=True)
    ]
    return TryOnRequest(
        id="tryon",
        person=_photo(person),
        garments=tuple(pictures),
        instruction=compose(phrases, prompt),
        seed=seed,
        steps=steps,
        size=wanted,
    )


def _size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    width, x, height = size.lower().partition("x")
    if not x or not width.isdecimal() or not height.isdecimal():
        raise typer.BadParameter(f"{size!r} is not WIDTHxHEIGHT, e.g. 768x1024", param_hint="--size")
    return int(width), int(height)


def _photo(path: Path, category: str | None = None, layer: str | None = None) -> ImageInput:
    from engine_build.engine import ImageInput
    from service.errors import ServiceError
    from service.pictures.images import decode_photo, open_photo

    data = path.read_bytes()
    try:
        photo = decode_photo(data)
    except ServiceError as error:
        raise CommandFailed(f"{path}: {error.detail}") from error
    if photo.warning is not None:
        typer.echo(f"{path}: {photo.warning}", err=True)
    picture = open_photo(photo.data)
    return ImageInput(picture, hashlib.sha256(photo.data).hexdigest(), category=category, layer=layer)


def _save(outcome: Outcome, output: Path) -> None:
    from service.pictures.images import encode_result

    if outcome.image is None:
        raise CommandFailed(str(outcome.error or "the try-on was canceled"))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(encode_result(outcome.image, SUFFIXES[output.suffix.lower()], 90))


def _report(
    outcome: Outcome, output: Path, engine: Engine, request: TryOnRequest, stages: dict[str, float]
) -> dict[str, Any]:
    info = engine.describe()
    return {
        "image": str(output.absolute()),
        "width": outcome.image.width if outcome.image else None,
        "height": outcome.image.height if outcome.image else None,
        "model": info.model,
        "backend": info.backend,
        "device": info.device,
        "seed": request.seed,
        "instruction": request.instruction,
        "nfe": outcome.nfe,
        "approximation": outcome.approximation,
        "seconds": {name: round(value, 4) for name, value in stages.items()},
    }
