"""`changeroom judge`: a folder of results judged by a vision model, and how far its numbers can be trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from service.commands import judge_people
from service.commands.judge_options import (
    BaselineOptions,
    PairOptions,
    Results,
    RunOptions,
    TheCost,
    TheJudge,
    TheSet,
)
from service.commands.option_groups import flattened
from service.commands.progress import bar
from service.errors import CommandFailed

if TYPE_CHECKING:
    from engine_build.judging.calls import Endpoint
    from engine_build.judging.run import Outcome, Work
    from engine_build.judging.samples import JudgedSet


class RunUnlessNamed(TyperGroup):
    """A group whose command `run` need not be named: `changeroom judge RESULTS ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


judge = typer.Typer(
    cls=RunUnlessNamed, help="Judge a folder of results; run is what RESULTS alone means.", no_args_is_help=True
)


def run(results: Results, options: RunOptions, of: TheSet, by: TheJudge, cost: TheCost) -> None:
    """Judge RESULTS: two questions a sample to a vision model, answers kept for good, a report.

    Identity and each garment's fidelity are judged from person, references and result; background and physics from
    person and result alone. Overall is the mean of the samples' geometric means. What the judge did not answer is
    missing, never guessed. The same command goes on after any interruption, and asks nothing twice.

    Example: changeroom judge run ./results --set world:48 --url http://localhost:8001/v1 --model qwen-vl --out ./judged

    Example: changeroom judge ./results --set ./tstars.parquet --columns tstars.toml --generate http://localhost:8000
    --url http://localhost:8001/v1 --model qwen-vl --again 0.1 --sham 0.1 --out ./judged
    """
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.judging import cases
    from engine_build.judging.run import Work

    _refuse_what_does_nothing(options, by, cost)
    judged = of.load()
    if options.generate is not None:
        _generate(judged, results.results, options)
    wanted = cases.scoring(judged.samples, cases.Shares(options.again, options.repeats, options.sham))
    if options.oracle:
        from engine_build.training.measure.classifier import load
        from engine_build.training.measure.oracle import OracleJudge

        _ask(Work(judged, (results.results,), OracleJudge(judged, load()), options.out), wanted, cost)
    else:
        _with_endpoint(judged, (results.results,), options.out, list(wanted), by, cost)


def pairs(options: PairOptions, of: TheSet, by: TheJudge, cost: TheCost) -> None:
    """Ask which of A and B is better, every pair in both orders; verdicts that flip with the order do not count.

    Example: changeroom judge pairs ./ours ./theirs --set ./set --url http://localhost:8001/v1 --model qwen-vl
    --out ./ours-theirs
    """
    from engine_build.judging import cases

    judged = of.load()
    _with_endpoint(judged, (options.a, options.b), options.out, list(cases.pairing(judged.samples)), by, cost)


judge.command()(flattened(run))
judge.command()(flattened(pairs))


@judge.command()
def report(
    judged: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Judged folders; the first is compared with.")],
    truth: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The oracle's judgement of the same results.")
    ] = None,
    votes: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="People's votes on the first two; repeat for more.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Unblinds the votes.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the report here.")] = None,
) -> None:
    """Tables of judged folders, compared on the samples that all have; refuses other words, judges or sets.

    Example: changeroom judge report ./ours ./theirs --json report.json
    """
    from engine_build.judging.report import report as report_on

    made = report_on(judged, truth, votes or (), key)
    if json_file is not None:
        json_file.write_text(made.json(), encoding="utf-8")
    typer.echo(made.text(), nl=False)


def baseline(options: BaselineOptions, of: TheSet) -> None:
    """Write the photo, or the truth, of every sample as its result: what the lowest and the best must score.

    Example: changeroom judge baseline ./copies --of copy --set world:48
    """
    from engine_build.judging.generating import write_baseline

    typer.echo(f"{write_baseline(of.load(), options.results, options.of)} results in {options.results}")


judge.command()(flattened(baseline))
for command in (judge_people.page, judge_people.votes, judge_people.similarity):
    judge.command()(command)


def _refuse_what_does_nothing(options: RunOptions, by: TheJudge, cost: TheCost) -> None:
    if options.oracle and (by.url or by.model or by.key_file or cost.dry_run or cost.max_cost is not None):
        raise typer.BadParameter("the oracle has no address and costs nothing", param_hint="--oracle")
    if options.generate is not None and cost.dry_run:
        raise typer.BadParameter("makes results, which a dry run does not", param_hint="--generate")
    made = (options.steps, options.size, options.service_key_file, options.seed or None)
    if options.generate is None and any(one is not None for one in made):
        raise typer.BadParameter("--steps, --size, --seed and --service-key-file need it", param_hint="--generate")


def _generate(judged: JudgedSet, results: Path, options: RunOptions) -> None:
    from engine_build.judging.generating import Service, generate

    key = _key(options.service_key_file)
    service = Service(str(options.generate), key, seed=options.seed, steps=options.steps, size=options.size)
    with bar("results") as progress:
        made = generate(judged, results, service, progress)
    typer.echo(f"{made.made} results made, {made.there} there already, {len(made.failed)} could not be made", err=True)
    for name, reason in sorted(made.failed.items())[:10]:
        typer.echo(f"  {name}: {reason}", err=True)


def _with_endpoint(
    judged: JudgedSet, results: tuple[Path, ...], out: Path, wanted: Sequence[Any], by: TheJudge, cost: TheCost
) -> None:
    if not by.url or not by.model:
        raise typer.BadParameter("name the judge: --url and --model", param_hint="--url")
    if cost.max_cost is not None and not (cost.price_read or cost.price_written):
        raise typer.BadParameter("needs --price-read or --price-written", param_hint="--max-cost")
    from engine_build.judging.calls import Caller
    from engine_build.judging.cost import Prices
    from engine_build.judging.judges import EndpointJudge
    from engine_build.judging.run import Work, estimate

    with Caller(_endpoint(by, cost)) as caller:
        work = Work(judged, results, EndpointJudge(caller), out)
        if cost.dry_run:
            typer.echo(estimate(work, wanted).text(Prices(cost.price_read, cost.price_written)))
        else:
            _ask(work, wanted, cost)


def _ask(work: Work, wanted: Any, cost: TheCost) -> None:
    from engine_build.judging.cost import Prices
    from engine_build.judging.report import report as report_on
    from engine_build.judging.run import run as run_judge

    prices = Prices(cost.price_read, cost.price_written)
    with bar("questions") as progress:
        outcome = run_judge(work, wanted, prices, cost.max_cost, progress)
    made = report_on([work.out])
    (work.out / "report.json").write_text(made.json(), encoding="utf-8")
    (work.out / "report.txt").write_text(made.text(), encoding="utf-8")
    typer.echo(made.text(), nl=False)
    typer.echo(_told(outcome, prices), err=True)
    typer.echo(str(work.out.absolute()))
    if outcome.stopped:
        raise CommandFailed(f"ended early: {outcome.stopped}; the same command goes on")


def _told(outcome: Outcome, prices: Any) -> str:
    cost = f", ${prices.of(outcome.tokens):.2f}" if prices.read or prices.written else ""
    return (
        f"{outcome.asked} questions asked in {outcome.requests} requests, {outcome.answered} answered before, "
        f"{outcome.absent} samples without a result, {outcome.tokens[0]} + {outcome.tokens[1]} tokens{cost}"
    )


def _endpoint(by: TheJudge, cost: TheCost) -> Endpoint:
    from engine_build.judging.calls import Endpoint

    try:
        decoding = json.loads(by.decoding)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--decoding") from error
    if not isinstance(decoding, dict) or set(decoding) & {"model", "messages", "response_format"}:
        raise typer.BadParameter("an object of decoding settings expected", param_hint="--decoding")
    return Endpoint(
        by.url,
        by.model,
        _key(by.key_file),
        cost.budget,
        by.timeout,
        by.retries,
        by.parallel,
        asked_again=1,
        max_wait_s=60.0,
        long_side=by.long_side,
        quality=95,
        decoding=decoding,
    )


def _key(path: Path | None) -> str:
    return path.read_text(encoding="utf-8").strip() if path is not None else ""
