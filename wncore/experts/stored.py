"""The layers of a file of experts, on the disk: read when asked for, layer by layer or expert by expert."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.header import DTYPES, FLOATS, Header
from wncore.dumps.layer import as_column
from wncore.dumps.tensor import CHUNK, Tensor, finite
from wncore.errors import DumpError, NonFiniteError
from wncore.experts.document import StoredLayer
from wncore.experts.experts import Experts
from wncore.experts.packing import count_kept, padding_is_clear, unpack
from wncore.experts.router import Labels, Router

Shape = tuple[int | None, ...]
"""None: any size."""
ROUTERS = {"F32", "F64"}


def expected(layer: StoredLayer, packed: bool) -> dict[str, tuple[set[str], Shape]]:
    """Return the tensors that a layer must have, ``experts`` say, with the dtypes and the shape each may have."""
    k, (m, d) = layer.experts, layer.shape
    floats = set(FLOATS)
    parts: dict[str, tuple[set[str], Shape]] = {"experts": (floats, (k, m, d))}
    if packed:
        parts = {"experts.mask": ({"U8"}, (k, m, -(-d // 8))), "experts.values": (floats, (None,))}
    if layer.router == layer.name:
        parts |= {"router.mean": (ROUTERS, (d,)), "router.components": (ROUTERS, (None, d))}
        parts |= {"router.centroids": (ROUTERS, (k, None)), "router.counts": ({"I64"}, (k,))}
    return parts


def check_tensors(
    path: Any, layers: Mapping[str, StoredLayer], packed: bool, held: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    """Check that tensors, dtype and shape by name, are those of these layers and no others.

    Raises
    ------
    DumpError
        If one is missing, is no layer's, or has the wrong dtype or shape.
    """
    rest = set(held)
    for layer in layers.values():
        parts = expected(layer, packed)
        if f"{layer.name}.bias" in held:
            parts["bias"] = set(FLOATS), (layer.shape[0],)
        for part, (dtypes, shape) in parts.items():
            name = f"{layer.name}.{part}"
            if name not in held:
                raise DumpError(f"{path} lacks {name[:80]}, which its document promises; copy or write it again")
            _check_tensor(path, name, held[name], dtypes, shape)
        rest -= {f"{layer.name}.{part}" for part in parts}
        if layer.router == layer.name:
            _check_router(path, layer.name, held)
    for name in sorted(rest)[:1]:
        raise DumpError(f"{path} holds {name[:80]}, which its document does not mention; expand the layers again")


def _check_tensor(path: Any, name: str, held: tuple[str, tuple[int, ...]], dtypes: set[str], shape: Shape) -> None:
    fits = len(held[1]) == len(shape) and all(want in (None, got) for got, want in zip(held[1], shape, strict=True))
    if held[0] not in dtypes or not fits:
        wanted = " or ".join(sorted(dtypes)) if len(dtypes) < 3 else "a float type"
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise DumpError(
            f"{name[:80]} in {path} is {held[0]} {held[1]}; its document promises {wanted} ({sizes}), expand the "
            f"layer again"
        )


def _check_router(path: Any, name: str, held: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    mean, components, centroids = (held[f"{name}.router.{part}"] for part in ("mean", "components", "centroids"))
    rank = components[1][0]
    if rank < 1 or centroids[1][1] != rank or len({mean[0], components[0], centroids[0]}) > 1:
        raise DumpError(
            f"the router of {name[:80]} in {path} does not fit together: components {components[0]} {components[1]}, "
            f"centroids {centroids[0]} {centroids[1]}, mean {mean[0]}; expand the layer again"
        )


@dataclass(frozen=True, eq=False)
class StoredLayers(Mapping[str, Experts]):
    """Layers by name, each read, and checked, whenever it is asked for, so that no more than one need be held."""

    header: Header
    described: Mapping[str, StoredLayer]
    packed: bool

    def __iter__(self) -> Iterator[str]:
        return iter(self.described)

    def __len__(self) -> int:
        return len(self.described)

    def __getitem__(self, name: str) -> Experts:
        """Read a layer.

        Raises
        ------
        KeyError
            If there is none of that name.
        DumpError
            If mask and values disagree, or a count is negative.
        NonFiniteError
            If a number is NaN or infinite.
        """
        layer = self.described[name]
        router, counts = self.router(layer)
        weights = np.empty((layer.experts, *layer.shape), DTYPES[self.dtype(layer)])
        for c, weight in enumerate(self.experts(layer)):
            weights[c] = weight
        return Experts(layer.name, weights, self.bias(layer), router, counts)

    def names(self, layer: StoredLayer) -> list[str]:
        """Name the tensors that are stored with a layer."""
        bias = ["bias"] if f"{layer.name}.bias" in self.header.tensors else []
        return [f"{layer.name}.{part}" for part in [*expected(layer, self.packed), *bias]]

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the file by its full name; a vector as (length, 1)."""
        entry = self.header.tensors[name]
        piece = (self.header, entry) if len(entry.shape) > 1 else as_column(self.header, entry)
        return Tensor(name.rpartition(".")[2], (piece,))

    def dtype(self, layer: StoredLayer) -> str:
        """Name the dtype of a layer's weights: "BF16"."""
        return self.tensor(f"{layer.name}.experts{'.values' if self.packed else ''}").dtype

    def bias(self, layer: StoredLayer) -> NDArray | None:
        """Read a layer's bias, (m,), if it has one."""
        name = f"{layer.name}.bias"
        return self._vector(name) if name in self.header.tensors else None

    def router(self, layer: StoredLayer) -> tuple[Router, Labels]:
        """Read the router that a layer uses, and its counts."""
        mean, counts = (self._vector(f"{layer.router}.router.{part}") for part in ("mean", "counts"))
        components, centroids = (
            self._finite(f"{layer.router}.router.{part}", self.tensor(f"{layer.router}.router.{part}").read())
            for part in ("components", "centroids")
        )
        if counts.min() < 0:
            raise DumpError(
                f"{layer.router}.router.counts in {self.header.path} holds {counts.min()}; a count is 0 or more, "
                f"expand the layer again"
            )
        return Router(mean, components, centroids), counts

    def experts(self, layer: StoredLayer) -> Iterator[NDArray]:
        """Read a layer's experts one after the other: k times (m, d)."""
        m, d = layer.shape
        name = f"{layer.name}.experts"
        if not self.packed:
            dense = self.tensor(name)
            for c in range(layer.experts):
                yield self._finite(f"{name}[{c}]", dense.read(slice(c * m, (c + 1) * m)))
            return
        mask, values = self.tensor(f"{name}.mask"), self.tensor(f"{name}.values")
        self._check_mask(mask, values.rows, d)
        done = 0
        for c in range(layer.experts):
            bits = mask.read(slice(c * m, (c + 1) * m))
            kept = values.read(slice(done, done + count_kept(bits)))[:, 0]
            done += len(kept)
            yield unpack(bits, self._finite(f"{name}.values", kept), d)

    def _check_mask(self, mask: Tensor, values: int, d: int) -> None:
        kept = 0
        for rows in mask.chunks(mask.columns, CHUNK):
            bits = mask.read(rows)
            kept += count_kept(bits)
            if not padding_is_clear(bits, d):
                raise DumpError(
                    f"{mask.name} in {self.header.path} has a bit set behind the last of {d} inputs; copy or write "
                    f"the file again"
                )
        if kept != values:
            raise DumpError(
                f"{mask.name} in {self.header.path} keeps {kept} weights, and {values} values are stored; copy or "
                f"write the file again"
            )

    def _vector(self, name: str) -> NDArray:
        return self._finite(name, self.tensor(name).read()[:, 0])

    def _finite(self, name: str, values: NDArray) -> NDArray:
        """Return values if all are finite."""
        sound = finite(values)
        if not sound.all():
            first = ", ".join(map(str, np.argwhere(~sound)[0]))
            raise NonFiniteError(
                f"{name} in {self.header.path} holds NaN or infinity, {np.count_nonzero(~sound)} values of "
                f"{values.size}, the first at [{first}]; expand the layer again"
            )
        return values
