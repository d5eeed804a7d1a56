"""Files of other formats are named by what they are, whatever they are called."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from dump_samples import Y, refused
from rawfile import layout, pack, write

from wncore.dumps import open_dump

HTML = b"\n <!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>nothing here</body></html>\n"


def archive(*members: str) -> bytes:
    """Make a zip archive."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as target:
        for name in members:
            target.writestr(name, b"\x80\x02}q\x00.")
    return held.getvalue()


def tar() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as target:
        target.addfile(tarfile.TarInfo("acts.safetensors"))
    return held.getvalue()


def saved(save, *arrays) -> bytes:
    held = io.BytesIO()
    save(held, *arrays)
    return held.getvalue()


FOREIGN = {
    "torch": (archive("acts/data.pkl", "acts/data/0"), "a file of torch.save .*; load it where you trust its source"),
    "torch by version": (archive("acts/.format_version", "acts/data/0"), "a file of torch.save"),
    "torch of old": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", r"torch.save \(a pickle\)"),
    **{f"pickle {i}": (pickle.dumps({"a": list(range(9))}, i), "a pickle; load it where") for i in (2, 3, 4, 5)},
    "npz": (saved(np.savez, Y), "a zip archive of NumPy arrays"),
    "zip": (archive("readme.txt"), "a zip archive; decompress it"),
    "npy": (saved(np.save, Y), r"a NumPy array \(\.npy\); load its arrays"),
    "gzip": (gzip.compress(bytes(99)), "compressed by gzip; decompress it"),
    "gzip -n": (gzip.compress(bytes(10**6), mtime=0), "compressed by gzip"),
    "bzip2": (bz2.compress(bytes(99)), "compressed by bzip2"),
    "xz": (lzma.compress(bytes(99)), "compressed by xz"),
    "zstd": (bytes.fromhex("28b52ffd") + bytes(60), "compressed by zstd"),
    "tar": (tar(), "a tar archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "arrow": (b"ARROW1\0\0" + bytes(99), "an Arrow or Feather file"),
    "arrow stream": (b"\xff\xff\xff\xff\x10\0\0\0" + bytes(99), "a stream of Arrow"),
    "feather": (b"FEA1" + bytes(99), "a Feather file"),
    "parquet": (b"PAR1\x15\x04\x15\x10" + bytes(99), "a Parquet file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 58\n", "git lfs pull"),
    "html": (HTML, r"a web page \(HTML or XML\); look at it: a download that failed"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    "json": (b'{"error": "Repository not found"}', "JSON text; look at it"),
    "index": (b'{"metadata": {"total_size": 3}, "weight_map": {}}', r"an index is called \*\.safetensors\.index\.json"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(99), "a GGUF file of llama.cpp; take the .safetensors files"),
    "sqlite": (b"SQLite format 3\0" + bytes(99), "an SQLite database"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["acts.pt", "acts.safetensors"])
def test_it_is_said_what_a_file_is(tmp_path, kind, name):
    content, says = FOREIGN[kind]
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, says=rf"{name} is no safetensors file, it is .*{says}")


@pytest.mark.parametrize("kind", ["html", "lfs", "gzip"])
def test_so_it_is_in_a_folder_and_as_an_index(tmp_path, kind):
    write(tmp_path / "a.safetensors", {"fc.output": Y})
    (tmp_path / "b.safetensors").write_bytes(FOREIGN[kind][0])
    refused(tmp_path, says=r"b\.safetensors is no safetensors file, it is ")
    (tmp_path / "c.safetensors.index.json").write_bytes(FOREIGN[kind][0])
    refused(tmp_path, says=r"c\.safetensors\.index\.json is no index, it is ")


def test_an_index_of_unsound_json_is_no_other_file(tmp_path):
    path = tmp_path / "c.safetensors.index.json"
    path.write_text('{"weight_map": {"a": "b"')
    refused(path, says="is not sound JSON: ")


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x04", b"\x1f\x8b", b"BZ", b"PA"])
def test_a_safetensors_file_may_begin_like_any_other(tmp_path, start):
    """Its first bytes are a length: 0x0280 is 640, 0x8b1f is 35,615."""
    header, data = layout({"fc.output": Y})
    length = int.from_bytes(start, "little")
    text = str(header).replace("'", '"').encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack(text + b" " * (length - len(text)), data))
    assert path.read_bytes().startswith(start)
    np.testing.assert_array_equal(open_dump(path).layers["fc"].output.read(), Y)
    path.write_bytes(pack(text[:-1] + b" " * (length - len(text) + 1), data))  # and if it is damaged, it is damaged
    refused(path, says="has a header that is not sound JSON")


def test_the_command_says_it_in_one_line(run, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(FOREIGN["npy"][0])
    for command in ("score", "inspect", "prune"):
        code, _, err = run(command, tmp_path / "a.safetensors")
        assert code == 1
        assert err.startswith("wncore: error: ")
        assert err.count("\n") == 1
        assert "NumPy" in err
