"""Hugging Face folders as a source of the core; torch and transformers are imported when a verb is called."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from wncore.errors import BackendUnavailable
from wncore.evaluation import Begin, Convention
from wncore.resources import give_back_at_once
from wncore.sources import MARK

if TYPE_CHECKING:
    from wncore_torch.model.evaluate import Judging
    from wncore_torch.model.source import ModelSource

NEEDED = "torch", "transformers", "tokenizers", "safetensors"


class HuggingFace:
    """Folders of causal language models in safetensors; `wncore.sources.Source`."""

    name: ClassVar[str] = "huggingface"

    @staticmethod
    def holds(path: Path) -> bool:
        """Say whether a path is a model folder, one with a config.json."""
        return (path / MARK).is_file()

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
    ) -> "Judging":
        """Plan to judge the model on texts, as `Source` describes.

        Raises
        ------
        InputError
            As `open_folder`, `read_text` and `Judging`.
        BackendUnavailable
            If torch, transformers or what these need is not installed.
        """
        give_back_at_once()  # before the first large array
        with _demanding():
            import torch

            from wncore_torch.devices import find_device
            from wncore_torch.model.evaluate import Judging
            from wncore_torch.model.opening import open_folder
            from wncore_torch.model.text import read_text
        if threads is not None:
            torch.set_num_threads(threads)
        folder = open_folder(path, dtype, find_device(device))
        read = [read_text(path, text) for text in texts]
        return Judging(folder, read, length, windows, bos, convention, batch)

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
        seed: int | None = None,
        threads: int | None = None,
    ) -> "ModelSource":
        """Open a model that reads a text, as `Source` describes; of each kind of block one is read.

        Raises
        ------
        InputError
            As `open_folder`, `read_text`, `disjoint_windows` and `find_linears`.
        BackendUnavailable
            If torch, transformers or what these need is not installed.
        """
        give_back_at_once()  # before the first large array
        with _demanding():
            import torch

            from wncore_torch.devices import find_device
            from wncore_torch.model.linears import find_linears
            from wncore_torch.model.opening import open_folder
            from wncore_torch.model.source import ModelSource
            from wncore_torch.model.text import disjoint_windows, random_windows, read_text, window_length
        if threads is not None:
            torch.set_num_threads(threads)
        folder = open_folder(path, dtype, find_device(device))
        size = window_length(length, folder.limit)
        tokens = read_text(path, text).tokens
        ids = disjoint_windows(tokens, size, windows)
        if seed is not None:
            ids = random_windows(tokens, size, windows, seed)
        return ModelSource(folder, find_linears(folder), ids, text, batch)


@contextmanager
def _demanding() -> Iterator[None]:
    """Say what to install if an import within the block lacks it."""
    for name in NEEDED:  # asked first: without tokenizers transformers fails in other words
        if find_spec(name) is None:
            raise _unavailable(name)
    try:
        yield
    except ModuleNotFoundError as error:
        lacking = next((name for name in _names(error) if name.partition(".")[0] in NEEDED), None)
        if lacking is None:
            raise
        raise _unavailable(lacking) from error


def _unavailable(lacking: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"model folders are opened by {', '.join(NEEDED[:-1])} and {NEEDED[-1]}, and {lacking} is not installed; "
        f"type: pip install 'wncore[torch]'"
    )


def _names(error: BaseException | None) -> Iterator[str]:
    """Yield what could not be imported: transformers says of itself what its own dependency is the reason of."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            yield error.name
        error = error.__cause__ or error.__context__
