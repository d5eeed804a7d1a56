"""Drawing pictures after the work: they need nothing of the user's Matplotlib, and decide over no result.

MPLBACKEND of a notebook, usetex of a matplotlibrc, or a home that cannot be written to are settings for other programs.
"""

import logging
import os
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from wncore_cli import describe, echo
from wncore_cli.failures import show

OWN = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
"""Read when Matplotlib is imported."""


def draw(function: Callable[..., None], *arguments: Any, failed: list[str], silent: bool) -> None:
    """Call what draws; an error goes to `failed`. `silent`: without warnings of Matplotlib."""
    try:
        with ExitStack() as stack:
            if silent:
                stack.enter_context(_silence())
            stack.enter_context(_settings())
            function(*arguments)
    except Exception as error:
        show(error)
        failed.append(describe(error))


def report(failed: list[str]) -> int:
    """Say in one line which pictures are missing, and return the exit code."""
    if not failed:
        return 0
    more = f" (and of {len(failed) - 1} more layers)" if len(failed) > 1 else ""
    echo(f"wncore: error: pictures could not be drawn: {failed[0]}{more}; results were kept", err=True)
    return 1


@contextmanager
def _settings() -> Generator[None, None, None]:
    """Import Matplotlib untouched by the environment, and use its own settings; those before come back."""
    before = {name: os.environ.get(name) for name in OWN}
    os.environ.update(OWN)
    try:
        import matplotlib as mpl
        import matplotlib.figure
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    defaults: Any = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context(defaults):
        yield


@contextmanager
def _silence() -> Generator[None, None, None]:
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
