#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""parts.py ROOT OUT QEMU FIRMWARE IMAGE KERNEL: pick from unpacked packages what parts.sh promises."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

MODULES = ("tdx-guest", "virtio_blk", "virtio_pci")
DATA = ("kvmvapic.bin", "linuxboot_dma.bin")


def needed(path):
    """The libraries an ELF file asks for, and its interpreter."""
    text = subprocess.run(["readelf", "-Wld", path], check=True, capture_output=True, text=True).stdout
    for line in text.splitlines():
        if "(NEEDED)" in line or "interpreter:" in line:
            yield line.rsplit("[", 1)[1].split("]")[0].rsplit(" ", 1)[-1]


def find(root, name):
    """A file of that name, links resolved inside the root."""
    for path in sorted(root.rglob(Path(name).name)):
        while path.is_symlink():
            target = path.readlink()
            path = root / target.relative_to("/") if target.is_absolute() else path.parent / target
        if path.is_file():
            return path
    sys.exit(f"error: no {name} in the packages")


def program(root, binary, out):
    """A program and the libraries it is linked with, for `ld.so --library-path`."""
    out.mkdir(parents=True)
    todo, done = [binary.name], {}
    done[binary.name] = binary
    while todo:
        for name in needed(done[todo.pop()]):
            short = Path(name).name
            if short not in done:
                done[short] = find(root, short)
                todo.append(short)
    for name, path in done.items():
        shutil.copyfile(path, out / name)
        (out / name).chmod(0o755)
        subprocess.run(["strip", "--strip-unneeded", out / name], stderr=subprocess.DEVNULL, check=False)


def module_files(tree, names):
    """Modules with what they depend on, in the order in which to load them."""
    dependencies = {}
    for file in sorted(tree.rglob("*.ko*")):
        dependencies[file.name.split(".")[0].replace("-", "_")] = file
    order = []

    def visit(name):
        file = dependencies.get(name.replace("-", "_"))
        if not file or file in order:
            return
        content = uncompressed(file)
        for line in content.split(b"\0"):
            if line.startswith(b"depends="):
                for other in filter(None, line[8:].decode().split(",")):
                    visit(other)
        order.append(file)

    for name in names:
        visit(name)
    return order


def uncompressed(file):
    if file.suffix == ".xz":
        return subprocess.run(["xz", "-dc", file], check=True, capture_output=True).stdout
    if file.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", file], check=True, capture_output=True).stdout
    return file.read_bytes()


def main():
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    qemu, firmware, image, kernel = sys.argv[3:]
    program(root, find(root, "qemu-system-x86_64"), out / "qemu")
    for name in DATA:
        shutil.copyfile(find(root / "usr/share", name), out / "qemu" / name)
    shutil.copyfile(root / "usr/share/ovmf/OVMF.fd", out / "OVMF.fd")
    shutil.copyfile(find(root, "vmlinuz"), out / "vmlinuz")
    (out / "modules").mkdir()
    order = module_files(root, MODULES)
    for number, file in enumerate(order):
        (out / "modules" / f"{number:02}-{file.name.split('.')[0]}.ko").write_bytes(uncompressed(file))
    head = (out / "vmlinuz").read_bytes()[:0x10000]
    at = struct.unpack_from("<H", head, 0x20E)[0] + 0x200
    release = head[at : head.index(b"\0", at)].decode()
    versions = {"qemu": qemu, "firmware": f"ovmf {firmware}", "guest_kernel": f"{image} {kernel}", "release": release}
    (out / "parts.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
