"""What `read.py` reads: our shards through pyarrow, and the same hidden states in the formats that people keep tensors in."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "schemas"))
import read_codecs  # noqa: E402


# ---------------------------------------------------------------------------------------------
# Readers. read(i) gives utterance i as an array in memory; `frames` has its frames.
# ---------------------------------------------------------------------------------------------
class Arrow:
    """Our shards through pyarrow: the payload bytes, no more. Rows cost their row group: it has no smaller unit."""

    def __init__(self, path, limit):
        import pyarrow.parquet as pq

        self.files, self.places, self.frames = [], [], []
        for shard in sorted(Path(path).glob("shard-*.parquet")):
            file = pq.ParquetFile(shard, memory_map=True, pre_buffer=False)
            self.frames += file.read(["frames"], use_threads=False)["frames"].to_pylist()
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                self.places += [(len(self.files), group, row) for row in range(rows)]
            self.files.append(file)
        self.places, self.frames = self.places[:limit], self.frames[:limit]

    def column(self, index):
        file, group, row = self.places[index]
        return self.files[file].read_row_group(group, columns=["hidden"], use_threads=False)["hidden"].chunk(0), row

    def read(self, index):
        column, row = self.column(index)
        return np.frombuffer(column[row].as_buffer(), "u1")


class ArrowGroups(Arrow):
    """The same by whole row groups, in shuffled order: pyarrow at its best."""

    def __init__(self, path, limit):
        super().__init__(path, limit)
        of, self.firsts = {}, []
        for index, (file, group, _) in enumerate(self.places):
            if (file, group) not in of:
                of[file, group] = len(self.firsts)
                self.firsts.append(index)
        ends = self.firsts[1:] + [len(self.places)]
        self.rows = [b - a for a, b in zip(self.firsts, ends)]
        self.frames = [sum(self.frames[a:b]) for a, b in zip(self.firsts, ends)]

    def read(self, index):
        return self.column(self.firsts[index])[0]


class ArrowDecoded(Arrow):
    """Whole row groups through pyarrow, decoded by schemas/read_codecs.py; a row group is read once for its 64 rows."""

    def __init__(self, path, limit):
        super().__init__(path, limit)
        import tomllib

        self.identity = tomllib.loads((Path(path) / "cache.toml").read_text())
        model = Path(path) / "codec.safetensors"
        self.model = read_codecs.safetensors(model) if model.exists() else None

    def read(self, index):
        width, codec = self.identity["hidden_width"], self.identity["codec"]
        payload = super().read(index).tobytes()
        if codec.startswith("pq"):
            return read_codecs.pq_codes(payload, self.frames[index], self.model, "last")
        return (read_codecs.f16 if codec == "f16" else read_codecs.u8)(payload, self.frames[index], width)


class ListColumn:
    """A plain Parquet column of lists of halves, one row an utterance, pyarrow's defaults, row groups of 64 rows."""

    def __init__(self, path, limit):
        import pyarrow.parquet as pq

        self.file = pq.ParquetFile(Path(path) / "list.parquet", memory_map=True, pre_buffer=False)
        self.width = json.loads((Path(path) / "index.json").read_text())["width"]
        every = json.loads((Path(path) / "index.json").read_text())["frames"]
        self.groups = self.file.num_row_groups
        self.frames = [sum(every[64 * group : 64 * group + 64]) for group in range(self.groups)]
        self.rows = [len(every[64 * group : 64 * group + 64]) for group in range(self.groups)]

    def read(self, index):
        column = self.file.read_row_group(index, columns=["hidden"], use_threads=False)["hidden"].chunk(0)
        return column.values.to_numpy(zero_copy_only=True)


class Datasets:
    """HF datasets: an Arrow file in memory, uncompressed, NumPy format."""

    def __init__(self, path, limit):
        import datasets

        datasets.disable_progress_bars()
        self.data = datasets.load_from_disk(str(Path(path) / "datasets")).with_format("numpy")
        self.frames = json.loads((Path(path) / "index.json").read_text())["frames"]

    def read(self, index):
        return np.array(self.data[index]["hidden"])


class Lhotse:
    """lhotse's arrays in its lossy lilcom, the default of its feature writers."""

    def __init__(self, path, limit):
        import lhotse

        with open(Path(path) / "lilcom.jsonl") as lines:
            self.arrays = [lhotse.array.Array.from_dict(json.loads(line)) for line in lines]
        self.frames = json.loads((Path(path) / "index.json").read_text())["frames"]

    def read(self, index):
        return self.arrays[index].load()


class Safetensors:
    """A file an utterance."""

    def __init__(self, path, limit):
        self.path = Path(path) / "safetensors"
        self.frames = json.loads((Path(path) / "index.json").read_text())["frames"]

    def read(self, index):
        from safetensors import safe_open

        with safe_open(self.path / f"{index}.safetensors", "numpy") as file:
            return file.get_tensor("hidden")


class Memmap:
    """Raw halves in one file."""

    def __init__(self, path, limit):
        index = json.loads((Path(path) / "index.json").read_text())
        self.frames, self.ends = index["frames"], np.cumsum(index["frames"])
        self.map = np.memmap(Path(path) / "raw.f16", "<f2", "r").reshape(-1, index["width"])

    def read(self, index):
        return np.array(self.map[self.ends[index] - self.frames[index] : self.ends[index]])


READERS = {of.__name__: of for of in (Arrow, ArrowGroups, ArrowDecoded, ListColumn, Datasets, Lhotse, Safetensors, Memmap)}


# ---------------------------------------------------------------------------------------------
# The other formats, from an exact cache.
# ---------------------------------------------------------------------------------------------
def write_formats(cache, limit, out):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from lhotse.array import Array
    from lhotse.features.io import LilcomFilesWriter
    from safetensors.numpy import save_file

    datasets.disable_progress_bars()
    (out / "safetensors").mkdir()
    frames, width, schema = [], 0, pa.schema([("utterance", pa.string()), ("hidden", pa.list_(pa.float16()))])
    rows = {"utterance": [], "hidden": []}

    def take():
        for index, (name, hidden) in enumerate(read_codecs.open_cache(cache)):
            if index == limit:
                return
            yield index, name, hidden.astype("<f2")

    with open(out / "raw.f16", "wb") as raw, open(out / "lilcom.jsonl", "w") as arrays, \
            LilcomFilesWriter(out / "lilcom") as lilcom, pq.ParquetWriter(out / "list.parquet", schema) as table:
        for index, name, hidden in take():
            width = hidden.shape[1]
            frames.append(len(hidden))
            hidden.tofile(raw)
            save_file({"hidden": hidden}, out / "safetensors" / f"{index}.safetensors")
            key = lilcom.write(f"u{index}", hidden.astype("f4"))
            array = Array(storage_type=lilcom.name, storage_path=str(lilcom.storage_path), storage_key=key,
                          shape=list(hidden.shape))
            arrays.write(json.dumps(array.to_dict()) + "\n")
            rows["utterance"].append(name)
            rows["hidden"].append(hidden.ravel())
            if len(frames) % 64 == 0:
                table.write_table(pa.table(rows, schema))
                rows["utterance"].clear(), rows["hidden"].clear()
        if rows["hidden"]:
            table.write_table(pa.table(rows, schema))
    data = datasets.Dataset.from_parquet(str(out / "list.parquet"), cache_dir=str(out / "made"))
    data.save_to_disk(str(out / "datasets"))
    (out / "index.json").write_text(json.dumps({"frames": frames, "width": width}))
