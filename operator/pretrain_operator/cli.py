"""The program `pretrain`: turns what goes wrong into one sentence and an exit code. The commands are in commands.py."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from pretrain_stage.errors import UserError

EXTRAS = {
    "typer": "local",
    "rich": "local",
    "torchx": "local",
    "obstore": "local",
    "kubernetes": "cluster",
    "numpy": "trace",
    "pyarrow": "trace",
    "torch": "local",
    "transformers": "local",
}
"""What the commands import that the bare package does not bring, and the extra that has it."""


def main() -> NoReturn:
    """Runs the command line. Ends the process."""
    try:
        from pretrain_operator.commands import app

        app(prog_name="kubectl pretrain" if Path(sys.argv[0]).name == "kubectl-pretrain" else "pretrain")
    except UserError as error:
        _end(f"error: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _end(f"error: {package} is not installed; run: pip install 'pretrain-operator[{EXTRAS[package]}]'", 1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        sys.exit(1)
    raise AssertionError("a command ends the process")


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
