"""Language models as sources, found by entry points: what opens a model's folder is no part of the core.

A distribution declares a class under the group ``wncore.sources``; that of `wncore_torch` opens Hugging Face folders.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from wncore.backend import Backend
from wncore.errors import BackendUnavailable, InputError, listed
from wncore.evaluation import Begin, Convention, Evaluation, Plan
from wncore.layers.activations import Activations
from wncore.resources import Memory
from wncore.tick import Tick, idle

GROUP = "wncore.sources"
MARK = "config.json"
"""What every model folder has. No source is imported, nor asked, about a path without it, so that dumps pay nothing."""

Named = Callable[[str], object]
"""Is told what is worked on: the name of a block."""
P = TypeVar("P")
R_co = TypeVar("R_co", covariant=True)


def nameless(name: str) -> None:
    """Tell nobody."""


class Work(Protocol[P, R_co]):
    """Work on a model, planned before a weight is read: what a dry run shows, and a run does.

    Attributes
    ----------
    plans
        What will be done, one for each text.
    steps
        How many times `tick` will be told of one more.
    device
        Where it is done, as torch names devices.
    base
        What was in use when it was planned: interpreter, libraries, the text.
    predicted
        Its peak, `base` included.
    """

    plans: Sequence[P]
    steps: int
    device: str
    base: Memory
    predicted: Memory

    def run(self, tick: Tick = idle, named: Named = nameless) -> Iterator[R_co]:
        """Do it, a result for each plan. Raises MemoryBudgetError, with what to change, if memory does not suffice."""
        ...

    def measured(self) -> Memory:
        """Return the peak since it was planned, as `predicted` counts."""
        ...


class Source(Protocol):
    """What opens the folders of one kind. Importing its module is cheap; a verb imports what it needs.

    A verb whose dependency is missing raises BackendUnavailable, with what to type.
    """

    name: ClassVar[str]

    @staticmethod
    def holds(path: Path) -> bool:
        """Say whether a folder with a config.json is one of these; opens no weights."""
        ...

    @staticmethod
    def evaluate(
        path: Path,
        texts: Sequence[Path],
        *,
        dtype: str = "float32",
        device: str | None = None,
        length: int | None = None,
        windows: int | None = None,
        batch: int = 4,
        bos: Begin = "no",
        convention: Convention = "windows",
        threads: int | None = None,
    ) -> Work[Plan, Evaluation]:
        """Plan to judge the model on texts; no weight is read until the work is run.

        `device` is a GPU if there is one, unless named; `length` and `windows` are the model's and the text's unless
        given; `batch` windows go through a block together.
        """
        ...

    @staticmethod
    def open(
        path: Path,
        text: Path,
        *,
        dtype: str = "float32",
        device: str | None = None,
        length: int | None = None,
        windows: int = 128,
        batch: int = 4,
        threads: int | None = None,
    ) -> "ReadingModel":
        """Open a model that reads the first disjoint windows of a text, `batch` of them at a time."""
        ...


class ReadingModel(Protocol):
    """A model that reads a text: an owner of activations, block by block.

    Attributes
    ----------
    layers
        Its linear layers by name, in the order in which they run; each has a `shape` (m, d).
    groups
        What stands for several of them: "mlp", "attention", "all".
    tokens
        How many the text has, in all windows.
    device, base, predicted
        As those of `Work`.
    """

    layers: Mapping[str, Any]
    groups: Mapping[str, list[str]]
    tokens: int
    device: str
    base: Memory
    predicted: Memory

    def activations(self, chosen: Collection[str], backend: Backend, **options: Any) -> Iterator[Activations]:
        """Yield the chosen layers, opened, in the order in which they run; what was yielded before is let go of."""
        ...

    def capture(self, chosen: Collection[str], output: Path, **options: Any) -> Any:
        """Write a dump of them: a folder that appears whole."""
        ...

    def measured(self) -> Memory:
        """Return the peak since it was opened."""
        ...


def find_source(path: str | Path) -> Any:
    """Find the source, a class as `Source` describes, that holds a path; None if the path is no model.

    Raises
    ------
    BackendUnavailable
        If a source is declared and cannot be imported.
    """
    path = Path(path)
    try:
        if not (path / MARK).is_file():
            return None
    except OSError:  # whoever reads it as something else says what is wrong
        return None
    for point in sorted(set(entry_points(group=GROUP)), key=lambda point: (point.name, point.value)):
        try:
            source = point.load()
        except (ImportError, AttributeError) as error:
            raise BackendUnavailable(
                f"source {point.name!r} cannot be imported from {point.value!r}: {error}; install its distribution "
                f"again, or uninstall it"
            ) from error
        if source.holds(path):
            return source
    return None


def get_source(path: str | Path) -> Any:
    """Find the source that holds a path, which must be a model.

    Raises
    ------
    InputError
        If it is none, with what it is.
    BackendUnavailable
        As `find_source`.
    """
    found = find_source(path)
    if found is None:
        folder = model_around(path) if Path(path).is_file() else None
        remedy = "the folder of a Hugging Face model, downloaded before" if folder is None else "the folder itself"
        raise InputError(f"{path} {_what_it_is(Path(path), folder)}; give {remedy}")
    return found


def model_around(path: str | Path) -> Path | None:
    """Return the folder of the model that a path is, or that it is a file of; None if there is none."""
    path = Path(path)
    return next((folder for folder in (path, path.parent) if find_source(folder) is not None), None)


def _what_it_is(path: Path, folder: Path | None) -> str:
    if not path.exists():
        return "does not exist"
    if not path.is_dir():
        return "is a file, and no model folder" if folder is None else f"is a file of the model {folder}"
    if (path / MARK).is_file():
        known = listed(sorted(point.name for point in entry_points(group=GROUP))) or "none"
        return f"is no model that an installed source opens (there are: {known})"
    there = sorted(entry.name for entry in path.iterdir())
    if any(".safetensors" in name for name in there):
        return f"is a dump of activations and no model folder, as it has no {MARK} (there is {listed(there, 3)})"
    return f"is no model folder, as it has no {MARK} (there is {listed(there, 3) or 'nothing'})"
