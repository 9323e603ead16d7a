"""The llama-cu program: options in, exit code out."""

from __future__ import annotations

import io
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from llama_cu import __version__
from llama_cu.cli import answer_commands, measure_commands, store_commands
from llama_cu.errors import LlamaCuError

app = typer.Typer(
    name="llama-cu",
    help="Llama-family inference on CUDA and NumPy.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# The base class of all of typer's own usage errors, which typer itself exports under no name.
_UsageError: Any = typer.BadParameter.__base__

_OK, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    0 success, 1 a model, device or file that cannot be used, 2 wrong arguments, 130 Ctrl-C.
    Errors are one line on stderr; `--debug`, anywhere, shows the traceback too.
    """
    if argv is None:
        argv = sys.argv[1:]
        if hasattr(signal, "SIGPIPE"):
            # `llama-cu story | head` ends like any other program in a pipe.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is no reason to lose the others.
            sys.stdout.reconfigure(errors="replace")
        if isinstance(sys.stdin, io.TextIOWrapper):
            # Bytes that are no text spoil the line that has them, and not all that was read.
            sys.stdin.reconfigure(errors="surrogateescape")
    debug = "--debug" in argv
    arguments = ["--debug"] * debug + [a for a in argv if a != "--debug"]
    try:
        return int(app(args=arguments, prog_name="llama-cu", standalone_mode=False) or _OK)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", _INTERRUPTED, debug=debug)
    except _UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return _fail(error.format_message().rstrip(".") + where, _USAGE, debug=debug)
    except ValueError as error:
        return _fail(str(error), _USAGE, debug=debug)
    except MemoryError as error:
        return _fail(f"out of memory: {error}", _FAILED, debug=debug)
    except (LlamaCuError, OSError) as error:
        return _fail(str(error), _FAILED, debug=debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error} (a bug; --debug shows where)"
        return _fail(what, _FAILED, debug=debug)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if sys.stderr is not None:
        print("llama-cu: error:", " ".join(message.split()), file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if version:
        print(f"llama-cu {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


for _command in (
    answer_commands.story,
    answer_commands.chat,
    answer_commands.generate,
    answer_commands.serve,
    measure_commands.bench,
    store_commands.pull,
    store_commands.models,
    store_commands.rm,
    store_commands.quantize,
    measure_commands.perplexity,
    measure_commands.kernels,
    measure_commands.info,
):
    app.command()(_command)
