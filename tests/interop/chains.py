"""Random chains of images, made by QEMU and by cowblk, and what both read in them. Used by the script `verbs`."""
import hashlib
import json
import os
import shutil
import subprocess

COWBLK, COW_IO = os.environ["COWBLK"], os.environ["COW_IO"]
STEADY_CLOCK = os.path.join(os.path.dirname(COW_IO), "steady_clock.so")
KEY = "key"
CLUSTERS = [512, 1024, 4096, 4096, 16384, 65536, 65536, 65536, 262144, 2097152]


class Failure(Exception):
    pass


def run(args, cwd):
    env = dict(os.environ)
    if args[0].startswith("qemu"):
        env["LD_PRELOAD"] = STEADY_CLOCK
    done = subprocess.run(args, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=240, check=False)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha1(file.read()).digest()


def padded(data, unit=512):
    return data + bytes(-len(data) % unit)


class Image:
    def __init__(self, name, fmt="qcow2"):
        self.name, self.fmt = name, fmt
        self.parent = None
        self.size = 0
        self.cluster = 65536
        self.version = 3
        self.encrypted = self.bitmaps = False
        self.data = None  # "plain" or "raw"
        self.options = ""

    def files(self):
        return {self.name, self.name + ".data"} if self.data else {self.name}

    def __str__(self):
        text = f"{self.name}({self.fmt} {self.size} {self.options}{' luks' if self.encrypted else ''})"
        return text + (f" -> {self.parent}" if self.parent else "")


class World:
    """A folder of images that refer to each other. content: what each shows, by name."""

    def __init__(self, folder, rng):
        self.dir, self.rng = folder, rng
        self.images, self.content, self.snapshots, self.dirty = {}, {}, {}, {}
        self.log = []
        os.makedirs(folder)
        with open(os.path.join(folder, KEY), "w", encoding="ascii") as file:
            file.write("one for all")

    # ---- who is who ----

    def chain(self, name):
        """The image, what it stands on, and so on."""
        found = []
        while name:
            found.append(self.images[name])
            name = self.images[name].parent
        return found

    def above(self, name):
        return [one for one in self.images if one != name and name in [i.name for i in self.chain(one)]]

    def leaf(self, name):
        return not any(one.parent == name for one in self.images.values())

    def some(self, qcow2=True):
        return self.rng.choice([i for i in self.images.values() if i.fmt == "qcow2" or not qcow2])

    def locked(self, name):
        return any(i.encrypted for i in self.chain(name))

    def path(self, name):
        return os.path.join(self.dir, name)

    # ---- as the tools are told of them ----

    def theirs(self, name, spelled=False, alone=False):
        """Arguments by which qemu-img opens the image, its name last. alone: without its backing file."""
        chain = self.chain(name)[: 1 if alone else None]
        if not spelled and not any(i.encrypted for i in chain):
            return ["-f", chain[0].fmt, name]
        text, prefix = f"driver={chain[0].fmt},file.driver=file,file.filename={name}", ""
        for image in chain:
            if image.encrypted:
                text += f",{prefix}encrypt.format=luks,{prefix}encrypt.key-secret=s"
            prefix += "backing."
        return ["--object", f"secret,id=s,file={KEY}", "--image-opts", text]

    def key(self, name):
        return ["--key-file", KEY] if self.locked(name) else []

    def ours(self, name):
        return ["-f", self.images[name].fmt, *self.key(name), name]

    def cowblk(self, *args):
        return run([COWBLK, *args], self.dir)

    def must(self, args):
        status, out, err = run(args, self.dir)
        if status:
            raise Failure(f"{' '.join(args)}: status {status}: {err or out}")
        return out

    # ---- making them ----

    def options(self, image, data=True):
        """Draws how it is made. Returns the text for -o."""
        rng = self.rng
        image.cluster = rng.choice(CLUSTERS)
        image.version = rng.choice([3, 3, 3, 2])
        words = [f"cluster_size={image.cluster}", f"compat={'1.1' if image.version == 3 else '0.10'}"]
        if image.version == 3:
            if image.cluster >= 16384 and rng.random() < 0.35:
                words.append("extended_l2=on")
            if rng.random() < 0.3:
                words.append("compression_type=zstd")
            if rng.random() < 0.25:
                words.append(f"refcount_bits={rng.choice([1, 2, 8, 32, 64])}")
            if rng.random() < 0.25:
                words.append("lazy_refcounts=on")
            if data and rng.random() < 0.25:
                image.data = "plain"
                words.append(f"data_file={image.name}.data")
                if not image.parent and rng.random() < 0.4:
                    image.data = "raw"
                    words.append("data_file_raw=on")
        if not image.parent and image.data != "raw" and rng.random() < 0.25:
            words.append("preallocation=" + rng.choice(["metadata", "falloc", "full"]))
        image.options = ",".join(words)
        return image.options

    def draw_size(self, cluster=65536):
        rng = self.rng
        most = 1 << 20 if cluster < 4096 else 3 << 20
        return rng.choice([rng.randrange(1, most // 512) * 512, rng.randrange(1, most // 65536) * 65536, most, 1 << 20])

    def make(self, name, parent):
        rng = self.rng
        image = Image(name)
        image.parent = parent
        self.images[name] = image
        if not parent and name != "x0" and rng.random() < 0.35:
            image.fmt, image.size = "raw", self.draw_size() + rng.choice([0, 0, 0, 1, 511])
            self.make_raw(image)
            return
        options = self.options(image)
        image.size = self.draw_size(image.cluster)
        image.encrypted = image.version == 3 and rng.random() < 0.12
        if image.encrypted:
            options += f",encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
        base = ["-u", "-b", parent, "-F", self.images[parent].fmt] if parent else []
        self.must(["qemu-img", "create", "-q", "-f", "qcow2", "--object", f"secret,id=s,file={KEY}", *base, "-o", options, name,
                   str(image.size)])
        if rng.random() < 0.85:
            self.pack(image)
            self.scribble(image)
        if not image.data and rng.random() < 0.15:
            self.qemu("snapshot", name, "-c", "s0")
            self.scribble(image)
        if image.version == 3 and rng.random() < 0.15:
            run(["qemu-img", "bitmap", "--add", *self.theirs(name, alone=True), "b0"], self.dir)
            image.bitmaps = True
            self.scribble(image)
        self.qemu("check", name, "-r", "leaks")  # QEMU leaves some behind when it overwrites compressed clusters

    def make_raw(self, image):
        rng, parts = self.rng, []
        with open(self.path(image.name), "wb") as file:
            for _ in range(rng.randrange(5)):
                at = rng.randrange(image.size)
                n = min(rng.randrange(1, 300000), image.size - at)
                parts.append((at, n))
                file.seek(at)
                file.write(bytes([rng.randrange(4)]) * n)
            file.truncate(image.size)

    def qemu(self, verb, name, *flags, tail=(), cwd=None):
        args = self.theirs(name, verb == "snapshot")
        return run(["qemu-img", verb, *args[:-1], *flags, args[-1], *tail], cwd or self.dir)

    def qemu_io(self, name, commands):
        args = self.theirs(name)
        return run(["qemu-io", *args[:-1], *[x for c in commands for x in ("-c", c)], args[-1]], self.dir)

    def somewhere(self, size, unit=512):
        rng = self.rng
        at = rng.randrange(max(size // unit, 1)) * unit
        n = rng.choice([unit, rng.randrange(1, 400) * unit, 65536])
        return at, max(min(n, size - at), 0)

    def pack(self, image):
        """Compressed clusters: QEMU writes none over another."""
        if image.encrypted or image.data or self.rng.random() < 0.5:
            return
        last = image.size // image.cluster
        self.qemu_io(image.name, [f"write -c -P {1 + i % 4} {self.rng.randrange(last + 1) * image.cluster} {image.cluster}"
                                  for i in range(self.rng.randrange(1, 6))])

    def scribble(self, image, crash=False):
        """A few of QEMU's writes; patterns are few, so that images agree here and there."""
        commands = []
        for _ in range(self.rng.randrange(1, 8)):
            at, n = self.somewhere(image.size, self.rng.choice([512, 512, image.cluster]))
            word = self.rng.choice(["write -P", "write -P", "write -P", "write -z", "write -z -u", "discard"])
            commands.append(f"write -P {self.rng.randrange(5)} {at} {n}" if word == "write -P" else f"{word} {at} {n}")
        self.qemu_io(image.name, commands + (["flush", "abort"] if crash else []))

    def scribble_ours(self, image):
        words = []
        for _ in range(self.rng.randrange(1, 8)):
            at, n = self.somewhere(image.size)
            verb = self.rng.choice(["write", "write", "zero", "discard"])
            words += ["--"] * bool(words) + [verb, str(at), str(n)] + [str(self.rng.randrange(5))] * (verb == "write")
        self.must([COW_IO, *self.key(image.name), image.name, *words])

    # ---- what they show ----

    def read(self, name, folder=None, snapshot=None):
        """What QEMU reads."""
        folder = folder or self.dir
        args = self.theirs(name)
        flags = ["-l", "snapshot.id=" + snapshot] if snapshot else []
        status, out, err = run(["qemu-img", "convert", *args[:-1], "-O", "raw", *flags, args[-1], "read-back"], folder)
        if status:
            raise Failure(f"QEMU cannot read {name} {snapshot or ''}: {err or out}")
        return self.take(folder)

    def read_snapshot(self, name, snapshot):
        """What the engine reads, and QEMU, which takes the disk's size for the snapshot's."""
        self.must([COW_IO, "--read-only", "--key-file", KEY, "--snapshot", snapshot, name, "convert", "read-back"])
        ours, theirs = self.take(self.dir), self.read(name, snapshot=snapshot)
        n = min(len(ours), len(theirs))
        if ours[:n] != theirs[:n]:
            raise Failure(f"{name}: snapshot {snapshot}: the engine reads something else than QEMU")
        return ours

    def take(self, folder):
        path = os.path.join(folder, "read-back")
        with open(path, "rb") as file:
            data = file.read()
        os.unlink(path)
        return data

    def read_ours(self, name):
        """What the engine reads; a raw image: what `cowblk convert` does."""
        if self.images[name].fmt == "raw":
            self.must([COWBLK, "convert", "-f", "raw", "-O", "raw", name, "read-back"])
        else:
            self.must([COW_IO, "--read-only", "--key-file", KEY, name, "convert", "read-back"])
        return self.take(self.dir)

    def list_snapshots(self, name, folder=None):
        if self.images[name].fmt == "raw":
            return {}
        status, out, err = self.qemu("snapshot", name, "-l", cwd=folder)
        if status:
            raise Failure(f"qemu-img snapshot -l {name}: {err}")
        return dict(line.split()[:2] for line in out.splitlines() if line[:1].isdigit())

    def look(self, name):
        """What it shows now, and its snapshots."""
        self.content[name] = self.read(name)
        self.snapshots[name] = {one: hashlib.sha1(self.read_snapshot(name, one)).digest() for one in self.list_snapshots(name)}
        self.images[name].size = len(self.content[name])
        self.dirty[name] = self.dirty_parts(name)

    def dirty_parts(self, name):
        """Of each bitmap that records: the parts of the disk that it has seen change."""
        found = {}
        if not self.images[name].bitmaps:
            return found
        for one in json.loads(self.must([COWBLK, "bitmap", "list", "--json", name])):
            if one["state"] == "enabled":
                dump = self.must([COWBLK, "bitmap", "dump", name, one["name"]])
                found[one["name"]] = [tuple(map(int, line.split())) for line in dump.splitlines()]
        return found

    def info(self, name, folder=None):
        out = run(["qemu-img", "info", "-U", "-f", self.images[name].fmt, "--output=json", name], folder or self.dir)[1]
        told = json.loads(out)
        for word in ("actual-size", "filename", "dirty-flag", "children"):
            told.pop(word, None)
        for one in told.get("snapshots", []):
            for word in ("date-sec", "date-nsec", "icount"):
                one.pop(word, None)
        return told

    def fingerprints(self):
        return {name: digest(self.path(name)) for name in os.listdir(self.dir)}

    def copy_to(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["cp", "-a", "--sparse=always", self.dir, folder], check=True)
