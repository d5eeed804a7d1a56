"""The part of the suite that pytest has to know: options, fixtures, and the certificate at the end.

It is no ``pytest11`` entry point, which would import the core into every pytest run: ``-p wncore.testing.plugin``. With
pytest-xdist (``-n 8``) the tests run in several processes, whose notes the one that started them collects.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from wncore.backend import get_backend
from wncore.files import replacing
from wncore.testing.certificate import Ledger, certificate, facts

LEDGER = pytest.StashKey[Ledger]()
FACTS = pytest.StashKey[dict[str, Any]]()
"""What the backend is, once it has been built."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``wncore certify``."""
    group = parser.getgroup("wncore", "conformance of a wncore backend")
    group.addoption("--wncore-backend", default="numpy", metavar="NAME", help="the backend, or module:Class")
    group.addoption("--wncore-options", default="{}", type=json.loads, metavar="JSON", help="for its constructor")
    group.addoption("--wncore-examples", default=50, type=int, metavar="N", help="draws for each random test")
    group.addoption("--wncore-certificate", type=Path, metavar="FILE", help="write the certificate (JSON) here")
    group.addoption("--wncore-force", action="store_true", help="replace a certificate that exists")


def option(config: pytest.Config, name: str) -> Any:
    """Return the value of one of our options."""
    return config.getoption(f"--wncore-{name}")


def pytest_configure(config: pytest.Config) -> None:
    """Set up Hypothesis: the same draws on every run, so that a certificate can be repeated."""
    config.stash[LEDGER] = Ledger()
    settings.register_profile(
        "wncore",
        max_examples=option(config, "examples"),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    settings.load_profile("wncore")


@pytest.fixture(scope="session")
def wncore_trial(pytestconfig: pytest.Config) -> Iterator[Any]:
    """Build the backend under test; BLAS has one thread, unless it asks for more, since small matrices gain by none."""
    from wncore.testing.trial import Trial  # not before pytest can rewrite its assertions

    name = option(pytestconfig, "backend")
    backend = get_backend(name, **option(pytestconfig, "options"))
    with threadpool_limits(1, user_api="blas"):
        yield Trial(name, backend, pytestconfig.stash[LEDGER])
    pytestconfig.stash[FACTS] = facts(name, backend)  # by now it has imported all that it uses


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note what failed."""
    report = yield
    if report.failed:
        item.config.stash[LEDGER].failed.append(item.name)
    return report


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Note that tests were left out: such a run certifies nothing."""
    for item in items:
        item.config.stash[LEDGER].deselected += 1


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a backend that declares all operations unsupported; hand over what was noted, if there is someone to."""
    ledger = session.config.stash[LEDGER]
    if hasattr(session.config, "workeroutput"):
        notes = {"ledger": asdict(ledger), "facts": session.config.stash.get(FACTS, None)}
        session.config.workeroutput["wncore"] = json.dumps(notes)  # pyright: ignore[reportAttributeAccessIssue]
        return
    if exitstatus == pytest.ExitCode.OK and ledger.unsupported and not ledger.used:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Collect what another process noted."""
    notes = json.loads(getattr(node, "workeroutput", {}).get("wncore", "null"))
    if notes:
        node.config.stash[LEDGER].add(Ledger(**notes["ledger"]))
        if notes["facts"]:
            node.config.stash[FACTS] = notes["facts"]


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print the largest share of the budget used per operation and dtype; write the certificate if asked for."""
    if hasattr(config, "workeroutput"):
        return
    ledger = config.stash[LEDGER]
    if ledger.used or ledger.unsupported:
        terminalreporter.section("largest share of the error budget used")
    for operation, shares in ledger.used.items():
        for dtype, used in sorted(shares.items()):
            terminalreporter.line(f"{operation:20s} {dtype:10s} {used:8.1%}")
    for operation, reason in ledger.unsupported.items():
        terminalreporter.line(f"{operation:20s} unsupported: {reason}")
    if ledger.deselected:
        terminalreporter.line(f"{ledger.deselected} tests were left out: this run certifies nothing")
    path = option(config, "certificate")
    if path and FACTS in config.stash and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        name, options, examples = (option(config, key) for key in ("backend", "options", "examples"))
        document = certificate(name, config.stash[FACTS], options, examples, ledger, exitstatus == pytest.ExitCode.OK)
        with replacing(path, option(config, "force")) as temporary:
            temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
        terminalreporter.line(f"certificate written to {path}")
