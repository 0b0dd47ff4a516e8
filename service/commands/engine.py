"""`changeroom engine`: build TensorRT engines, check them without a GPU, measure every backend."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_build.instruction import MAX_GARMENTS
from service.commands.model_options import DEVICE_HELP, MODEL_HELP
from service.errors import CommandFailed

engine = typer.Typer(help="Build, check and measure engines.", no_args_is_help=True)

ModelArgument = Annotated[str, typer.Option(help=MODEL_HELP)]
AttentionOption = Annotated[
    str, typer.Option(help="plugin: our packed kernel inside the engine; standard: TensorRT's own operator.")
]


@engine.command()
def build(
    model: ModelArgument = "nano",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the engines; default: engines in the checkpoint's own.")
    ] = None,
    bucket: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WxH[:GARMENTS][*REQUESTS]",
            help=f"A size to be fast at, with up to {MAX_GARMENTS} garments and as many requests together; "
            "repeat for several.",
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="tensorrt; no other backend is built.")] = "tensorrt",
    attention: AttentionOption = "plugin",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32")] = "bfloat16",
    level: Annotated[int, typer.Option(min=0, max=5, help="TensorRT's optimisation effort.")] = 3,
    workspace_gib: Annotated[
        float | None, typer.Option(min=0.1, help="Scratch memory a kernel may take; default: all there is.")
    ] = None,
    fp8: Annotated[bool, typer.Option("--fp8", help="Linears in FP8, calibrated on drawn people.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Keep weights replaceable, for LoRA files.")] = False,
    same_family: Annotated[
        bool, typer.Option("--same-family", help="Run on every GPU of this compute capability.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run with later TensorRT of this major version.")
    ] = False,
) -> None:
    r"""Build TensorRT engines of a checkpoint. Needs an NVIDIA GPU and: pip install 'changeroom\[tensorrt]'

    Every bucket becomes one optimisation profile of every engine, and one execution context at run time. Beside
    the engines lies manifest.json, which says what they were built from; they refuse to load anywhere else.
    Afterwards: changeroom up --model MODEL --backend tensorrt

    Example: changeroom engine build --model ./klein --bucket 768x1024:6 --bucket 1024x1024:6*2
    """
    _one_of("--backend", backend, ("tensorrt",))
    _one_of("--attention", attention, ("plugin", "standard"))
    _one_of("--dtype", dtype, ("bfloat16", "float16", "float32"))
    from engine_build.tensorrt.library import tensorrt

    tensorrt()
    _require_onnx()
    from engine_build.config import CheckpointConfig
    from engine_build.model.weights import locate
    from engine_build.request.warm_sizes import WarmSize
    from engine_build.tensorrt.compile import BuildOptions
    from engine_build.tensorrt.compile import build as build_engines

    folder = locate(model)
    width, height = CheckpointConfig.load(folder).default_size
    options = BuildOptions(
        attention="plugin" if attention == "plugin" else "standard",
        dtype=dtype,
        level=level,
        workspace_bytes=None if workspace_gib is None else int(workspace_gib * 2**30),
        refit=refit,
        fp8=fp8,
        same_family=same_family,
        version_compatible=version_compatible,
    )
    buckets = [WarmSize.parse(text) for text in bucket or [f"{width}x{height}"]]
    target = out or folder / "engines"
    manifest = build_engines(model, target, buckets, options, _say)
    typer.echo(f"{target.absolute()}: {', '.join(manifest.engines)} for {manifest.gpu}")


@engine.command()
def verify(
    model: ModelArgument = "nano",
    backend: Annotated[
        str, typer.Option(help="onnx: exported graphs on the CPU; tensorrt: built engines on the GPU.")
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the ONNX files, or of the built engines; default: a passing one.")
    ] = None,
    attention: AttentionOption = "plugin",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write what was found here.")] = None,
) -> None:
    r"""Compare a checkpoint's engines with the torch backend, part by part and picture by picture.

    With --backend onnx no GPU is needed: every graph is exported, checked by ONNX, its operators compared with
    the list that TensorRT's parser takes, and run in onnxruntime, our attention replaced by its definition.
    Needs: pip install 'changeroom\[onnx]'

    Example: changeroom engine verify --model nano --attention plugin --json verify.json
    """
    import tempfile

    from service.settings import let_threads_sleep

    _one_of("--attention", attention, ("plugin", "standard"))
    _one_of("--backend", backend, ("onnx", "tensorrt"))
    let_threads_sleep()
    if backend == "tensorrt":
        from engine_build.tensorrt.library import tensorrt

        tensorrt()
    _require_onnx()
    from engine_build.tensorrt import verify as checks

    if backend == "tensorrt":
        verdict = checks.verify_engines(model, out, _say)
    else:
        with tempfile.TemporaryDirectory(prefix="changeroom-onnx-") as passing:
            kind = checks.PLUGIN if attention == "plugin" else checks.STANDARD
            verdict = checks.verify(model, out or Path(passing), kind, _say)
    if json_file is not None:
        json_file.write_text(verdict.as_json() + "\n", encoding="utf-8")
    for row in verdict.rows:
        typer.echo(f"{row.part:<24} {row.error:.2e}  of {row.bound:.0e}  {'ok' if row.ok else 'TOO FAR'}")
    for name, operators in verdict.operators.items():
        typer.echo(f"{name:<24} {sum(operators.values())} nodes, {len(operators)} operators, all in TensorRT's list")
    if not verdict.ok:
        raise CommandFailed(f"the engines of {model} do not agree with torch")


@engine.command()
def bench(
    preset: Annotated[
        str, typer.Option(help="Shape of the model, with random weights: klein-4b, tstars-5b or nano.")
    ] = "klein-4b",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs of every case.")] = 10,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Stop starting new cases then; the goals' own come first.")
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="Only this mode; repeat for several. Default: all of them.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Measure a checkpoint instead, once for every --backend.")] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A checkpoint's, nano's by default: torch, triton or tensorrt; the first is the base."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE|DIR", help="Also write everything here.")
    ] = None,
) -> None:
    """Measure try-ons end to end: diffusers, torch.compile, and every mode of this engine, in one run.

    One row a mode, size and number of garments, with p20, p50 and p80, how many times faster than diffusers, and
    how many times the floor that arithmetic allows an H200. Then attention alone against torch's, and pictures a
    second when requests are packed together. The last line is the same as one line of JSON. With --json what there
    is gets written after every mode, so that a run that is cut short leaves what it had found.

    With --model or --backend it measures a checkpoint's own try-ons instead, with each of the named backends;
    tensorrt alone is measured against torch.

    Example: changeroom engine bench --preset klein-4b --json loadtests/results
    Example: changeroom engine bench --model ./klein --backend torch --backend tensorrt
    """
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.bench import report, run
    from engine_build.bench.plan import BenchPlan
    from engine_build.bench.rows import Results

    if backend and model is None:
        model = "nano"
    if backend and "tensorrt" in backend:
        from engine_build.tensorrt.library import tensorrt

        tensorrt()
        backend = backend if len(backend) > 1 else ["torch", *backend]
    if model is None:
        plan = BenchPlan.of(preset, device, repeats, tuple(mode or ()), minutes)
        chosen = f"--preset {preset}" + "".join(f" --mode {name!r}" for name in mode or ())
        chosen += "" if minutes is None else f" --minutes {minutes:g}"
    else:
        chosen = f"--model {model}" + "".join(f" --backend {name}" for name in backend or ())
    command = f"changeroom engine bench {chosen} --device {device} --repeats {repeats}"

    def write(results: Results) -> dict[str, Any]:
        found: dict[str, Any] = report.as_dict(results, command)
        if json_file is not None:
            target = json_file / report.file_name(results) if json_file.is_dir() else json_file
            target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            typer.echo(f"written: {target}", err=True)
        return found

    if model is None:
        results = run.run(plan, _say, write)
    else:
        results = run.run_checkpoint(model, backend or ["torch"], device, repeats, _say)
    found = write(results)
    typer.echo(report.table(results))
    typer.echo(json.dumps(found))


@engine.command("bench-adapters")
def bench_adapters(
    model: ModelArgument = "nano",
    backend: Annotated[str, typer.Option(help="torch, triton or triton-tma")] = "torch",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or fp8")] = "auto",
    requests: Annotated[int, typer.Option(min=1, help="Try-ons of the stream, the most adapters it can have.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Try-ons given to the engine at once.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of each.")] = 2,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the random LoRAs.")] = 16,
    adapter_mib: Annotated[
        float, typer.Option(min=0.1, help="Memory for adapters; with less than they take, they come and go.")
    ] = 1024,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; in each, every number of adapters runs once.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write it here.")] = None,
) -> None:
    """Measure what 1, 4, 16 and 64 distinct adapters in a stream of mixed try-ons cost, against none.

    Throughput is told as a share of the same stream's without adapters, the median over turns in one process. On a CPU
    it counts processor time of one thread. The last line is the same as one line of JSON.

    Example: changeroom engine bench-adapters --requests 16 --repeats 5 --json adapters.json
    """
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.bench import adapters

    plan = adapters.AdapterBench(
        model=model, backend=backend, device=device, dtype=dtype, requests=requests, batch=batch, steps=steps,
        rank=rank, repeats=repeats, adapter_bytes=int(adapter_mib * 2**20),
    )  # fmt: skip
    command = (
        f"changeroom engine bench-adapters --model {model} --backend {backend} --device {device} --dtype {dtype} "
        f"--requests {requests} --batch {batch} --steps {steps} --rank {rank} --repeats {repeats} "
        f"--adapter-mib {adapter_mib:g}"
    )
    rows = adapters.run(plan, _say)
    found = adapters.as_dict(plan, rows, command)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    typer.echo(adapters.table(rows))
    typer.echo(json.dumps(found))


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandFailed(f"{', '.join(missing)} not installed; run: pip install 'changeroom[onnx]'")


def _one_of(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise typer.BadParameter(f"{given!r} is not one of {', '.join(known)}", param_hint=option)


def _say(text: str) -> None:
    typer.echo(text, err=True)
