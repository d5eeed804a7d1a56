"""Files of other formats, known by their first bytes, so that a refusal says what they are and what to do."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from wncore.errors import DumpError

FIRST = 4096
"""Bytes that are looked at."""

SAVE = "load it where you trust its source, and save its tensors by safetensors.torch.save_file"
CONVERT = "load its arrays, and save them by wncore.dumps.write_dump"
UNPACK = "decompress it"
DOWNLOAD = "look at it: a download that failed, most likely; fetch it again"
CAPTURE = "give its folder to `wncore capture`, which writes a dump"
OTHER = "name a .safetensors file"

STARTS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file that it stands for",
        "fetch that: git lfs pull",
    ),
    (b"version https://hawser", "a pointer of Git LFS and not the file that it stands for", "fetch that: git lfs pull"),
    (b"\x93NUMPY", "a NumPy array (.npy)", CONVERT),
    (b"\x1f\x8b", "compressed by gzip", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    (b"BZh", "compressed by bzip2", UNPACK),
    (b"\xfd7zXZ\0", "compressed by xz", UNPACK),
    (b"\x04\x22\x4d\x18", "compressed by lz4", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", CONVERT),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file", CONVERT),
    (b"ARROW1", "an Arrow or Feather file", CONVERT),
    (b"FEA1", "a Feather file", CONVERT),
    (b"\xff\xff\xff\xff", "a stream of Arrow", CONVERT),
    (b"PAR1", "a Parquet file", CONVERT),
    (b"PARE", "a Parquet file", CONVERT),
    (b"Obj\x01", "an Avro file", CONVERT),
    (b"CDF\x01", "a NetCDF file", CONVERT),
    (b"CDF\x02", "a NetCDF file", CONVERT),
    (b"GGUF", "a GGUF file of llama.cpp", "take the .safetensors files of the model"),
    (b"tjgg", "a GGML file of llama.cpp", "take the .safetensors files of the model"),
    (b"lmgg", "a GGML file of llama.cpp", "take the .safetensors files of the model"),
    (b"SQLite format 3\0", "an SQLite database", OTHER),
    (b"%PDF", "a PDF document", OTHER),
    (b"\x89PNG", "a picture (PNG)", OTHER),
    (b"\xff\xd8\xff", "a picture (JPEG)", OTHER),
    (b"\x7fELF", "a program (ELF)", OTHER),
)
"""First bytes, what they mean, and what to do."""

MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|error|[a-z]+[ >/])", re.IGNORECASE)
TEXT = re.compile(rb"(\xef\xbb\xbf)?\s*[{\[]\s*[\"{\[\]}0-9]")
JSON = "JSON text"
HEADER = re.compile(rb".{8}\s*\{", re.DOTALL)
"""How safetensors begins: some length, and a JSON object."""
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The magic number that torch.save pickled until version 1.6."""


@contextmanager
def refuse_foreign(path: Path, file: FileIO, expected: str = "safetensors file") -> Generator[None, None, None]:
    """Say of a file that was found unsound within the block what it is, if its first bytes tell.

    They are no proof that it is not safetensors, which begins with any length, so they are asked last.
    """
    try:
        yield
    except DumpError as error:
        file.seek(0)
        known = recognise(file.read(FIRST))
        if known is None or (expected == "index" and known[0] == JSON):
            raise
        what, remedy = known
        raise DumpError(f"{path} is no {expected}, it is {what}; {remedy}") from error


def recognise(first: bytes) -> tuple[str, str] | None:
    """Say what the first bytes of a file are those of, and what to do; None if they are not known.

    >>> recognise(bytes.fromhex("934e554d50590100"))[0]
    'a NumPy array (.npy)'
    """
    if HEADER.match(first):
        return None
    for start, what, remedy in STARTS:
        if first.startswith(start):
            return what, remedy
    if first.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive(first)
    if re.match(rb"\x80[\x02-\x05]", first):
        torch = LEGACY_TORCH in first[:64] or b"torch" in first
        return ("a file of torch.save (a pickle)" if torch else "a pickle"), SAVE
    if first[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if MARKUP.match(first):
        return "a web page (HTML or XML)", DOWNLOAD
    if TEXT.match(first):
        if b'"model_type"' in first or b'"architectures"' in first:
            return "the description of a model", CAPTURE
        index = b'"weight_map"' in first or b'"total_size"' in first
        return JSON, "an index is called *.safetensors.index.json" if index else DOWNLOAD
    return None


def _archive(first: bytes) -> tuple[str, str]:
    """Tell zip archives apart by the name of the first member, and of others that are near."""
    size = int.from_bytes(first[26:28], "little")
    member = first[30 : 30 + size]
    if member.endswith(b"data.pkl") or re.search(rb"/(data\.pkl|\.format_version|byteorder|constants\.pkl)", first):
        return "a file of torch.save (a zip archive with a pickle)", SAVE
    if member.endswith(b".npy"):
        return "a zip archive of NumPy arrays (.npz)", CONVERT
    return "a zip archive", UNPACK
