"""The ``saccade`` command: what a person types."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from saccade_cli import (
    ab_command,
    cache_command,
    cache_report,
    detect_command,
    rollout_command,
    shadow_command,
    shadow_report,
    still_camera,
)
from saccade_cli import demo as demo_run
from saccade_cli.curl_lines import curl_lines
from saccade_cli.detect import DetectFailed, summary, with_scheme
from saccade_cli.experiment import UnreadableInput
from saccade_cli.pair import Pair, PairFailed, Ports
from saccade_cli.terminal import complain, literal, note
from saccade_serving import __version__
from saccade_serving.client import ConnectionFailed, Refused, RestClient
from saccade_transformers.cache.policy import Rules

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Computer-vision serving on KServe: run the pair on this machine, ask it what it sees.",
)
#: What a command ends with for a reason that a person can act on.
_FAILURES: Final = (
    PairFailed,
    demo_run.DemoFailed,
    still_camera.NotNoticed,
    shadow_report.ReportFailed,
    cache_report.CacheReportFailed,
    DetectFailed,
    ConnectionFailed,
    Refused,
)
app.add_typer(rollout_command.app, name="rollout")
console = Console()

#: Set where the command runs from a source checkout, which holds the example model and photos.
_EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
_DEFAULT_REPOSITORY: Final = _EXAMPLES / "model-repository"

Repository = Annotated[
    Path, typer.Option("--model-repository", "-r", help="Triton model repository: <model>/<version>/model.onnx.")
]
Model = Annotated[str, typer.Option(help="Model to serve; may be omitted where the repository holds one.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version, or let the command run."""
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def up(
    model_repository: Repository = _DEFAULT_REPOSITORY,
    model: Model = "",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="REST port of the transformer.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="gRPC port of the transformer.")] = 8081,
) -> None:
    """Run transformer and predictor on this machine until Ctrl-C."""
    name = _model_name(model_repository, model)
    with _reporting():
        ports = Ports.choose(host, rest=port, grpc=grpc_port)
        pair = Pair(model_repository, name, host, ports)
        asyncio.run(_run_up(pair))


@app.command("detect")
def detect_in_pictures(
    pictures: Annotated[
        list[Path],
        typer.Argument(
            help="JPEG, PNG, WebP or BMP files, and directories, whose images are taken in the order of their names.",
            show_default=False,
        ),
    ],
    url: Annotated[str, typer.Option(help="The transformer; http:// may be left out.")] = "http://127.0.0.1:8080",
    save: Annotated[Path | None, typer.Option(help="Write pictures with boxes into this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Least score: from the model's min_score (0.05 unless built otherwise) to 1; the server's default if "
            "omitted.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer.")] = 30.0,
) -> None:
    """Ask a running transformer what is in some pictures."""
    with _reporting():
        images = detect_command.images_of(pictures)
    asking = detect_command.run(images, with_scheme(url), save, as_json, threshold, timeout, console)
    raise typer.Exit(1 if asyncio.run(asking) else 0)


@app.command()
def demo(
    model_repository: Repository = _DEFAULT_REPOSITORY,
    model: Model = "",
    images: Annotated[Path, typer.Option(help="Directory of photos.")] = _EXAMPLES / "images",
    out: Annotated[Path, typer.Option(help="Directory for the drawn pictures and the logs.")] = Path("demo-out"),
) -> None:
    """Run the pair once: photos by three protocols, a table, pictures with boxes."""
    begun = time.monotonic()
    name = _model_name(model_repository, model)
    photos = [path for path in sorted(images.glob("*")) if path.suffix.lower() in demo_run.SUFFIXES]
    if not photos:
        _fail(f"{images} holds no .jpg or .png file")
    with _reporting():
        host = "127.0.0.1"
        pair = Pair(model_repository, name, host, Ports.choose(host), log_dir=out / "logs")
        asyncio.run(_run_demo(pair, photos, out))
    console.print(f"Pictures with boxes: {out}/  ({time.monotonic() - begun:.1f} s in all)")


@app.command("ab-report")
def ab_report_command(
    log: Annotated[
        list[Path],
        typer.Option(help="The transformer's ab_log; once for each file: of all replicas, and older ones (.1)."),
    ],
    outcomes: Annotated[
        Path | None, typer.Option(help="CSV with the columns request_id, value and, for several outcomes, name.")
    ] = None,
    candidate: Annotated[str, typer.Option(help="The candidate's name in the log.")] = "candidate",
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the report into this file, too.")] = None,
) -> None:
    """Compare the two variants of an A/B test.

    Ends with 1 if nothing could be compared, or outcomes were given and none of them could.
    """
    try:
        report = ab_command.read_report(log, outcomes, candidate)
        if as_json is not None:
            ab_command.write_json(report, as_json)
    except (UnreadableInput, OSError) as error:
        _fail(str(error))
    ab_command.show(report, console)
    raise typer.Exit(0 if report.has_compared else 1)


@app.command("shadow-report")
def shadow_report_command(
    directory: Annotated[Path, typer.Argument(help="The transformer's SHADOW_DIR, or a copy.", show_default=False)],
    limit: Annotated[int, typer.Option(min=1, help="Frames to list, the least agreement first.")] = 20,
    save: Annotated[Path | None, typer.Option(help="Write both answers, drawn side by side, into this.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the report into this file, too.")] = None,
) -> None:
    """Show the frames on which a candidate disagreed most with the model that serves."""
    with _reporting():
        frames = shadow_report.read_frames(directory)
        found, listed = shadow_report.summarise(frames), frames[:limit]
        if as_json is not None:
            shadow_command.write_json(found, listed, as_json)
        if not frames:
            note(f"no frame in {directory}: nothing was compared yet, or all answers agree")
            return
        console.print(shadow_command.frames_table(listed), shadow_command.classes_table(found.classes))
        console.print(shadow_command.tell(found), highlight=False, soft_wrap=True, markup=False)
        if save is not None:
            saved = shadow_report.save_pairs(directory, listed, save, note)
            told = f"{saved} pictures, served left and candidate right: {save}/"
            console.print(told, highlight=False, soft_wrap=True, markup=False)


@app.command("cache-report")
def cache_report_command(
    video: Annotated[Path, typer.Argument(help="What a camera saw: a video file.", show_default=False)],
    url: Annotated[
        str, typer.Option(help="A running transformer; if omitted, the pair is started for it.", show_default=False)
    ] = "",
    model_repository: Repository = _DEFAULT_REPOSITORY,
    model: Model = "",
    frames: Annotated[int, typer.Option(min=2, max=5000, help="Most frames to ask about.")] = 300,
    every: Annotated[int, typer.Option(min=1, max=10_000, help="Take each n-th frame of the video.")] = 1,
    fps: Annotated[
        float | None,
        typer.Option(min=0.01, max=1000, help="Frames per second of the video; what the file says if omitted."),
    ] = None,
    f1: Annotated[float, typer.Option("--f1", min=0, max=1, help="F1 that cached answers shall have.")] = 0.95,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEGs that frames are sent as.")] = 90,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this .png, .svg or .pdf file.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the report into this file, too.")] = None,
) -> None:
    """Choose the frame cache's threshold by a video of one's own.

    Every frame is asked about twice, past the cache. Then the cache is replayed over the answers at many thresholds,
    all else being as SACCADE_TRANSFORMER_CACHE_* set it here.
    """
    pair = None
    with _reporting():
        cache_command.be_quiet()
        settings = cache_command.read_settings()
        film = cache_report.Video(video, fps, every, frames, settings.max_image_pixels)
        cache_command.check_outputs(video, plot, as_json)
        if not url:
            host = "127.0.0.1"
            pair = Pair(model_repository, _model_name(model_repository, model), host, Ports.choose(host))
        found = asyncio.run(_run_cache_report(pair, with_scheme(url), film, f1, settings.cache_rules, quality))
        console.print(cache_command.table(found))
        console.print(cache_command.tell(found), highlight=False, soft_wrap=True, markup=False)
        if plot is not None:
            cache_command.plot(found, plot)
            console.print(f"Curves: {plot}", highlight=False, soft_wrap=True, markup=False)
        if as_json is not None:
            as_json.write_bytes(cache_command.as_json(found))
            console.print(f"Report: {as_json}", highlight=False, soft_wrap=True, markup=False)


async def _run_cache_report(
    pair: Pair | None, url: str, video: cache_report.Video, aim: float, rules: Rules, quality: int
) -> cache_report.Report:
    with contextlib.ExitStack() as stack:
        if pair is not None:
            stack.enter_context(_stopped_at_the_end(pair))
            await _start(pair)
        client = RestClient(url if pair is None else pair.url)
        status = stack.enter_context(console.status("asking about the frames"))
        try:
            return await cache_report.watch(
                client, video, aim, rules, quality, lambda step, done, of: status.update(f"{step}: {done} of {of}")
            )
        finally:
            await client.close()


async def _run_up(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stop.set)
    with _stopped_at_the_end(pair):
        starting = asyncio.create_task(_start(pair))
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        console.print(
            curl_lines(pair, _EXAMPLES / "images" / "astronaut.jpg"), highlight=False, soft_wrap=True, markup=False
        )
        while not stop.is_set():
            pair.check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)
        console.print("stopping")


async def _run_demo(pair: Pair, photos: list[Path], out: Path) -> None:
    """Run it and show the tables."""
    table = Table("photo", "protocol", "detections", "ms")
    table.columns[3].justify = "right"

    def add(row: demo_run.Row) -> None:
        table.add_row(literal(row.photo), row.protocol, literal(summary(row.detections)), f"{row.milliseconds:.1f}")

    with _stopped_at_the_end(pair):
        await _start(pair)
        with console.status("sending the photos"):
            await demo_run.run(pair, photos, out, add)
        console.print(table)
        console.print(demo_run.verdict(table.row_count), highlight=False)
        with console.status("watching a still camera"):
            frames = await demo_run.watch(pair, photos)
    console.print(_frames_table(frames))
    console.print(still_camera.tell(frames), highlight=False)


def _frames_table(frames: Sequence[still_camera.Frame]) -> Table:
    table = Table("frame", "a still camera sees", "cache", "ms", "detections")
    for column in (0, 3):
        table.columns[column].justify = "right"
    for number, frame in enumerate(frames, 1):
        found = literal(summary(list(frame.detections)))
        table.add_row(str(number), literal(frame.what), frame.cache, f"{frame.milliseconds:.1f}", found)
    return table


async def _start(pair: Pair) -> None:
    pair.start()
    with console.status("starting") as status:

        def step(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                console.print(text)

        await pair.wait_ready(step)


@contextlib.contextmanager
def _stopped_at_the_end(pair: Pair) -> Iterator[None]:
    """Stop both processes whatever happens; an unclean end of theirs is an error."""
    try:
        yield
    finally:
        codes = pair.stop()
    if unclean := {name: code for name, code in codes.items() if code != 0}:
        raise PairFailed(f"unclean shutdown: {unclean}")


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    try:
        yield
    except (*_FAILURES, OSError) as error:
        _fail(str(error))


def _model_name(repository: Path, model: str) -> str:
    """The model asked for, or the only one."""
    if not repository.is_dir():
        _fail(f"model repository {repository} is not a directory; choose one with --model-repository")
    names = sorted(child.name for child in repository.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not names:
        _fail(f"model repository {repository} holds no model; expected <model>/<version>/model.onnx")
    if model and model not in names:
        _fail(f"model repository {repository} has no model {model!r} (found: {', '.join(names)})")
    if not model and len(names) != 1:
        _fail(f"model repository {repository} holds {len(names)} models ({', '.join(names)}); choose one with --model")
    return model or names[0]


def _fail(message: str) -> NoReturn:
    complain(message)
    sys.exit(1)


def main() -> None:
    """Entry point of the ``saccade`` script."""
    app()


if __name__ == "__main__":
    main()
