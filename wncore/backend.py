"""What a backend is, and how one is found.

A backend is any object with the methods of `Backend`. It is declared under the entry-point group ``wncore.backends``
and imported only when somebody asks for it by name. How to write one: backends/README.md.
"""

from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from wncore.errors import BackendAmbiguous, BackendError, BackendNotFound, BackendUnavailable

if TYPE_CHECKING:
    from wncore.pruning.methods import PruneSpec

GROUP = "wncore.backends"
Array = Any  # the backend's own array type


@runtime_checkable
class Backend(Protocol):
    """The few coarse operations that are worth a fast implementation; each has its definition in the core.

    Letters: n tokens, d inputs, m neurons, k experts, p pairs, patterns or runs, b
    bins, s starts. Arrays are the backend's own.
    Arguments arrive checked and finite, floats in one of `dtypes`; nothing may be written into. Answers with one number
    a neuron, and all that is added up (histogram, gram) or feeds a certificate, are float64; others keep their input's
    dtype. Half precision is storage: sums are float32 or wider. Arrays need not be contiguous. What a backend cannot do
    raises NotImplementedError with the reason: there is no silent fallback.

    A backend may also have `device_name`, `operations` (a text for each operation: what runs it) and `versions` (of
    drivers and compilers), all for its certificate; and `working_memory(m, d, spec)`, the bytes that it takes to prune
    a matrix beside `wncore.layer_pruning.memory_of`, for forecasts.
    """

    name: ClassVar[str]
    dtypes: ClassVar[tuple[str, ...]]

    def asarray(self, x: Any, dtype: str) -> Array:
        """Take over a NumPy array, or one of its own: floats become `dtype`, integers int64; may share its memory."""
        ...

    def to_numpy(self, x: Array) -> Any:
        """Give an array back as NumPy, with its dtype."""
        ...

    def gaussian_distance(self, y: Array) -> Array:
        """`wncore.wasserstein.gaussian_distance`: (n, m) -> (m,) float64."""
        ...

    def choose_edges(self, y: Array, bins: int) -> Array:
        """`wncore.histograms.choose_edges`: (n, m) -> (m, bins + 1) float64."""
        ...

    def histogram(self, y: Array, edges: Array) -> tuple[Array, Array, Array]:
        """`wncore.histograms.histogram`: (n, m), (m, b + 1) float64 -> (m, b + 2) int64, (m, b + 2), (m, 4) float64."""
        ...

    def histogram_runs(
        self, y: Array, edges: Array, starts: Array, factor: int
    ) -> tuple[Array, Array, Array, Array, Array, Array]:
        """`wncore.histograms.histogram_runs`: (n, m), (m, b + 1), (p + 1,) int64 -> as `histogram`, of all and by run.

        Of runs (p, m, b / factor + 2) twice, (p, m, 4): `factor` divides b.
        """
        ...

    def distance_bounds(self, edges: Array, counts: Array, sums: Array, powers: Array) -> tuple[Array, Array]:
        """`wncore.streaming.distance_bounds`: (m, b + 1), (m, b + 2), (m, b + 2), (m, 4) -> (m,), (m,), all float64."""
        ...

    def mapping_difficulty(self, x: Array, y: Array, left: Array, right: Array) -> Array:
        """`wncore.difficulty.mapping_difficulty`: (n, d), (n, m), (p,), (p,) -> (m,) float64."""
        ...

    def routed_linear(self, x: Array, weights: Array, bias: Array | None, labels: Array) -> Array:
        """`wncore.routing.routed_linear`: (n, d), (k, m, d), (m,) or None, (n,) -> (n, m), dtype kept."""
        ...

    def linear_histogram(
        self, x: Array, weights: Array, bias: Array | None, labels: Array, edges: Array
    ) -> tuple[Array, Array, Array]:
        """`wncore.histograms.linear_histogram`: as `routed_linear`, (m, b + 1) float64 -> as `histogram`.

        Outputs are float32 or wider, also those of half precision, and need not be stored; additive over tokens.
        """
        ...

    def gram(self, x: Array, labels: Array, k: int) -> tuple[Array, Array, Array]:
        """`wncore.grams.gram`: (n, d), (n,) -> (k, d, d) float64, (k, d) float64, (k,) int64; additive over tokens."""
        ...

    def lloyd(self, x: Array, centroids: Array) -> tuple[Array, Array, Array, Array]:
        """`wncore.clustering.lloyd`: (n, r), (s, k, r) -> (s, n) int64, (s, k, r), (s, k) int64, (s, k), else float64.

        From s starts at once; all but the labels are additive over points.
        """
        ...

    def prune(self, w: Array, h: Array, spec: "PruneSpec") -> tuple[Array, Array, Array]:
        """`wncore.pruning.methods.prune`: (k, m, d), (k, d, d) float64 -> (p, k, m, d), (k,), (k,) int64."""
        ...

    def resolve(self, w: Array, h: Array, mask: Array) -> Array:
        """`wncore.pruning.least_squares.resolve`: (k, m, d), (k, d, d) float64, (k, m, d) 0 or 1 -> (k, m, d)."""
        ...

    def neuron_losses(self, w: Array, h: Array) -> Array:
        """`wncore.pruning.loss.neuron_losses` of each expert: (k, m, d), (k, d, d) -> (k, m), all float64."""
        ...


def available() -> dict[str, str]:
    """Map the name of each registered backend to ``module:attribute (distribution version)``; imports none."""
    return {point.name: f"{point.value} ({owner(point)})" for point in entry_points(group=GROUP)}


def owner(point: EntryPoint) -> str:
    """Name the distribution that declares an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "no distribution"


def arrays_of(backend: Backend) -> str:
    """Name the library of a backend's arrays, with its version if it has one."""
    library = type(backend.asarray([0.0], backend.dtypes[0])).__module__.partition(".")[0]
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


def load(name: str) -> Any:
    """Import the class behind a registered name, or behind a plain ``module:attribute``.

    Raises
    ------
    BackendNotFound, BackendAmbiguous, BackendUnavailable
        If no distribution, or more than one, declares the name, or its module cannot be imported.
    """
    if ":" in name:
        point = EntryPoint(name, name, GROUP)
    else:
        found = {point.value: point for point in entry_points(group=GROUP, name=name)}
        if not found:
            known = ", ".join(sorted(available())) or "none"
            raise BackendNotFound(f"there is no backend {name!r}; installed: {known}; `wncore backends` lists them")
        if len(found) > 1:
            owners = ", ".join(sorted(f"{owner(point)} ({value})" for value, point in found.items()))
            raise BackendAmbiguous(f"backend {name!r} is declared by {owners}; uninstall all but one")
        point = next(iter(found.values()))
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise BackendUnavailable(f"backend {name!r} cannot be imported from {point.value!r}: {error}") from error


def get_backend(name: str = "numpy", **options: Any) -> Backend:
    """Build a backend by name; options go to its constructor: ``get_backend("torch", device="cuda")``.

    Raises
    ------
    BackendError
        As `load`; and `BackendUnavailable` when a dependency is missing or an option is not the backend's.
    """
    cls = load(name)
    known = signature(cls).parameters
    unknown = [key for key in options if key not in known]
    if unknown and not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise BackendUnavailable(f"backend {name!r} has no option {', '.join(unknown)}; {takes}")
    try:
        return cls(**options)
    except BackendError:
        raise
    except ImportError as error:
        hint = getattr(cls, "install_hint", f"pip install 'wncore[{name}]'")
        raise BackendUnavailable(f"backend {name!r} needs {error.name!r}, which is not installed: {hint}") from error
