"""Build the image of a machine: kernel, initramfs, plain directory and tar, from Debian packages.

    make vm-image
    python deploy/vm-image/build.py [--output FOLDER] [--agent FILE] [--add PYTHON_PACKAGE]

Needs Debian or Ubuntu (apt, dpkg-deb), ``lz4``, and an environment in which the mesh is installed:
what the guest imports is taken from there. No root. Two builds of the same inputs are equal bit
for bit. The result is for this host and is not shipped: its kernel is under the GPL.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from elf import is_elf, needed, vmlinux
from entries import Tree
from packages import closure, download, files_of, kernel_package

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
KERNEL = "linux-image-cloud-amd64"
BUSYBOX = "busybox-static"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"
MEMORY_FACTOR = 3
"""Of the unpacked size, so much memory at least; below, files are lost while it is unpacked."""
MEMORY_REST_MIB = 32

MODULES = {
    "base": ("virtio_ring", "virtio", "virtio_mmio"),
    "virtio_console": ("virtio_console",),
    "vsock": ("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
    "rng": ("virtio-rng",),
}
"""Names for ``mods=`` and the kernel modules they load, each with what it depends on."""

PACKAGES = (
    "mcp_proto", "mesh_chassis", "mesh_sdk", "msgspec", "nats", "cryptography", "_cffi_backend",
    "jsonschema_rs", "prometheus_client", "typing_extensions",
)  # fmt: skip
"""What an agent imports; not uvloop, aiohttp and OpenTelemetry: a machine has no network."""

PRELOAD = (
    "mesh_sdk.agent.app", "mesh_sdk.agent.process", "mesh_sdk.agent.reloading",
    "mesh_sdk.connect", "mesh_chassis.runtime",
)  # fmt: skip

LEFT_OUT = {
    "mesh_chassis": ("testing", "ops_http.py", "tracing_otlp.py"),
    "prometheus_client": ("aiohttp", "django", "twisted", "bridge"),
    "cryptography": ("hazmat/bindings/_rust/src",),
    "nats": ("protocol/tests",),
}
STANDARD_LEFT_OUT = frozenset((
    "test", "unittest", "idlelib", "tkinter", "ensurepip", "distutils", "venv", "sqlite3", "curses",
    "lib2to3", "pydoc_data", "turtledemo", "turtle.py", "dbm", "msilib", "xmlrpc",
    "pydoc.py", "doctest.py", "pdb.py", "cgi.py", "cgitb.py", "smtpd.py", "nntplib.py",
    "imaplib.py", "ftplib.py", "telnetlib.py", "poplib.py", "mailbox.py", "webbrowser.py",
    "__phello__", "site-packages", "dist-packages", "sitecustomize.py", "LICENSE.txt",
))  # fmt: skip
DYNLOAD_LEFT_OUT = (
    "_sqlite3", "_curses", "readline", "_dbm", "_gdbm", "_tkinter", "nis", "_test", "_xxtest",
    "ossaudiodev", "audioop", "xxlimited", "_ctypes_test", "_codecs_jp", "_codecs_kr",
    "_codecs_cn", "_codecs_hk", "_codecs_tw", "_codecs_iso2022",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "vm-image")
    parser.add_argument("--agent", type=Path, default=HERE / "agent.py", help="the image's program")
    parser.add_argument("--packages", type=Path, default=ROOT / "build" / "vm-packages")
    parser.add_argument("--add", action="append", default=[], metavar="PACKAGE")
    given = parser.parse_args()
    for program in ("apt-get", "dpkg-deb", "lz4"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed: apt-get install apt dpkg lz4")
    image = build(given.output, given.packages, given.agent, tuple(given.add))
    sizes = ", ".join(f"{name} {one['bytes'] / 1e6:.1f} MB" for name, one in image["files"].items())
    sys.stdout.write(
        f"{given.output}: {image['digest']}\n{sizes}; unpacked "
        f"{image['unpackedBytes'] / 1e6:.1f} MB, memory at least {image['memoryMinMib']} MiB\n"
    )


def build(
    output: Path, packages: Path, agent: Path, added: tuple[str, ...] = ()
) -> dict[str, object]:
    """Everything below ``output``; what was there is replaced only once all of it is made.

    Args:
        output: folder of the image.
        packages: where Debian packages are kept between builds.
        agent: the program that runs unless the host names another one.
        added: Python packages of this environment beside the usual ones.
    """
    kernel_name = kernel_package(KERNEL)
    names = closure((f"{PYTHON}-minimal", f"lib{PYTHON}-stdlib"))
    debs = download([*names, BUSYBOX, kernel_name], packages)
    files = _unpacked({name: path for name, path in debs.items() if name != kernel_name})
    tree = Tree()
    bzimage = _add_kernel_modules(tree, debs[kernel_name])
    _add_python(tree, files)
    for name in (*PACKAGES, *added):
        _add_package(tree, name)
    _add_libraries(tree, files)
    _add_ours(tree, agent, files)
    tree = _compiled(tree)
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write(part, "kernel", _lz4(vmlinux(bzimage), "-d"))
    _write(part, "initrd", _lz4(tree.cpio(), "-l", "-9"))
    _write(part, "root.tar", tree.tar())
    tree.write(part / "root")
    image = _description(part, tree, debs)
    (part / "image.json").write_text(json.dumps(image, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    part.rename(output)
    return image


def _unpacked(debs: dict[str, Path]) -> dict[str, tuple[bytes, bool, str]]:
    """Path below ``usr`` -> bytes, program, target of a link; ``/usr`` is merged, as on Debian."""
    files: dict[str, tuple[bytes, bool, str]] = {}
    for _, deb in sorted(debs.items()):
        for path, info, data in files_of(deb):
            at = path if path.startswith(("usr/", "etc/")) else f"usr/{path}"
            if info.isreg():
                files[at] = (data, bool(info.mode & 0o100), "")
            elif info.issym():
                files[at] = (b"", False, info.linkname)
            elif info.islnk():
                target = info.linkname.removeprefix("./")
                files[at] = files[target if target.startswith("usr/") else f"usr/{target}"]
    return files


def _add_kernel_modules(tree: Tree, deb: Path) -> bytes:
    """The modules into ``mod``, with the order to load them in; returns the bzImage."""
    bzimage = b""
    modules: dict[str, bytes] = {}
    for path, info, data in files_of(deb):
        if info.isreg() and path.startswith("boot/vmlinuz-"):
            bzimage = data
        elif info.isreg() and path.endswith(".ko"):
            modules[Path(path).stem.replace("-", "_")] = data
    if not bzimage:
        raise SystemExit(f"{deb.name} holds no kernel")
    loaded: list[str] = []
    for group, wanted in MODULES.items():
        order: list[str] = []
        for name in wanted:
            _order(name.replace("-", "_"), modules, order)
        mine = [name for name in order if group == "base" or name not in loaded]
        if group == "base":
            loaded = mine
        for name in order:
            tree.file(f"mod/{name}.ko", modules[name])
        tree.file(f"mod/{group}.order", "".join(f"{name}.ko\n" for name in mine).encode())
    return bzimage


def _order(name: str, modules: dict[str, bytes], order: list[str]) -> None:
    """Each module after those its own ``depends=`` names; built-in ones are nowhere."""
    data = modules.get(name)
    if data is None or name in order:
        return
    at = data.find(b"\0depends=")
    depends = data[at + 9 : data.index(b"\0", at + 9)].decode() if at >= 0 else ""
    for one in depends.split(","):
        _order(one.replace("-", "_"), modules, order)
    order.append(name)


def _add_python(tree: Tree, files: dict[str, tuple[bytes, bool, str]]) -> None:
    library = f"usr/lib/{PYTHON}/"
    tree.file(f"usr/bin/{PYTHON}", files[f"usr/bin/{PYTHON}"][0], program=True)
    tree.link("usr/bin/python3", PYTHON)
    for path, (data, _, target) in files.items():
        inside = path.removeprefix(library)
        if inside == path or target:
            continue
        first = inside.split("/", 1)[0]
        name = inside.rpartition("/")[2]
        if first in STANDARD_LEFT_OUT or first.startswith("config-") or "__pycache__" in inside:
            continue
        if first == "lib-dynload" and name.startswith(DYNLOAD_LEFT_OUT):
            continue
        tree.file(path, data)


def _add_package(tree: Tree, name: str) -> None:
    """A package of this environment, as it is imported here."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed in this environment: make install")
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        tree.file(f"mesh/lib/{origin.name}", origin.read_bytes())
        return
    left_out = LEFT_OUT.get(name, ())
    for path in sorted(origin.parent.rglob("*")):
        inside = path.relative_to(origin.parent).as_posix()
        if not path.is_file() or "__pycache__" in inside or path.suffix in (".pyi", ".typed"):
            continue
        if any(inside == one or inside.startswith(f"{one}/") for one in left_out):
            continue
        tree.file(f"mesh/lib/{name}/{inside}", path.read_bytes())
    beside = origin.parent.with_name(f"{name}.libs")
    if beside.is_dir():
        for path in sorted(beside.iterdir()):
            tree.file(f"mesh/lib/{beside.name}/{path.name}", path.read_bytes())


def _add_libraries(tree: Tree, files: dict[str, tuple[bytes, bool, str]]) -> None:
    """What the ELF files in the tree need, and what that needs."""
    waiting = [one.data for one in tree.entries.values() if is_elf(one.data)]
    have = {path.rpartition("/")[2] for path in tree.entries}
    while waiting:
        for name in needed(waiting.pop()):
            if name in have:
                continue
            have.add(name)
            data = _library(name, files)
            place = f"usr/lib64/{name}" if name == LOADER else f"{LIBRARIES}/{name}"
            tree.file(place, data, program=name == LOADER)
            waiting.append(data)
    if LOADER not in have:
        tree.file(f"usr/lib64/{LOADER}", _library(LOADER, files), program=True)


def _library(name: str, files: dict[str, tuple[bytes, bool, str]]) -> bytes:
    path = f"{LIBRARIES}/{name}"
    for _ in range(4):
        if path not in files:
            break
        data, _, target = files[path]
        if not target:
            return data
        path = f"{LIBRARIES}/{target}"
    raise SystemExit(f"no package gives {name}, which the image needs")


def _add_ours(tree: Tree, agent: Path, files: dict[str, tuple[bytes, bool, str]]) -> None:
    tree.file("usr/bin/busybox", files["usr/bin/busybox"][0], program=True)
    tree.link("usr/bin/sh", "busybox")
    tree.file("init", (HERE / "init").read_bytes(), program=True)
    tree.file("mesh/start.py", (HERE / "start.py").read_bytes())
    tree.file("mesh/agent.py", agent.read_bytes())
    tree.file("mesh/preload", ",".join(PRELOAD).encode())
    tree.file("etc/passwd", b"root:x:0:0::/:/bin/sh\nmesh:x:1000:1000::/tmp:/bin/sh\n")
    tree.file("etc/group", b"root:x:0:\nmesh:x:1000:\n")
    tree.file("etc/hosts", b"127.0.0.1 localhost\n")
    if "etc/ssl/openssl.cnf" in files:
        tree.file("etc/ssl/openssl.cnf", files["etc/ssl/openssl.cnf"][0])
    for path, target in (
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
    ):
        tree.link(path, target)
    for folder in ("proc", "sys", "dev", "run", "run/mesh", "tmp", "root"):
        tree.folder(folder)


def _compiled(tree: Tree) -> Tree:
    """Sources replaced by bytecode, made by the image's own Python, always in the same order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "root"
        tree.write(folder)
        _run_inside(folder, str(HERE / "compile.py"), str(folder), f"usr/lib/{PYTHON}", "mesh/lib")
        # What was left out must not be missed: better found here than in a machine that boots.
        names = f"import sys; sys.path.append({str(folder / 'mesh' / 'lib')!r}); "
        _run_inside(folder, "-c", names + "import " + ", ".join((*PRELOAD, "mesh_sdk.guest.stage")))
        return Tree.read(folder)


def _run_inside(folder: Path, *arguments: str) -> None:
    """The image's own Python, with the image's own libraries."""
    loader = [folder / "usr" / "lib64" / LOADER, "--library-path", folder / LIBRARIES]
    subprocess.run(
        [*loader, folder / "usr" / "bin" / PYTHON, "-S", "-s", "-B", *arguments],
        check=True,
        env={"PYTHONHOME": str(folder / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )


def _lz4(data: bytes, *options: str) -> bytes:
    return subprocess.run(
        ["lz4", *options, "-q", "-c", "-"], input=data, check=True, stdout=subprocess.PIPE
    ).stdout


def _write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


def _description(folder: Path, tree: Tree, debs: dict[str, Path]) -> dict[str, object]:
    files = {}
    for name in ("kernel", "initrd", "root.tar"):
        data = (folder / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    listed = "".join(f"{name} {one['sha256']}\n" for name, one in sorted(files.items()))
    memory = MEMORY_FACTOR * tree.size // 2**20 + MEMORY_REST_MIB
    return {
        "format": 1,
        "digest": f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}",
        "architecture": "x86_64",
        "files": files,
        "root": "root",
        "unpackedBytes": tree.size,
        "entries": len(tree.entries),
        "memoryMinMib": (memory + 15) // 16 * 16,
        "python": PYTHON,
        "stage": ["/usr/bin/python3", "-I", "-S", "/mesh/start.py"],
        "program": "/mesh/agent.py",
        "packages": {name: path.name.split("_")[1] for name, path in sorted(debs.items())},
        "platform": sysconfig.get_platform(),
    }


if __name__ == "__main__":
    os.umask(0o022)
    main()
