#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Boot a kernel on the emulated TDX host and run one script in it.

Takes what tools/vm/vm.py takes and brings back the same files; the machine is
a Bochs with a TDX module (tools/bochs-tdx/build.sh) instead of QEMU. OUT also
gets seamcalls.jsonl, what the host asked of the module and what it answered,
and bochs.log. TD memory is encrypted unless --plain is given.

The guest finds the kernel's KVM modules in /modules/stock-kvm, td-test and tdx-smoke
in /tests and the shell functions of tdx-guest.sh in /lib/tdx.sh.
"""

import argparse
import atexit
import os
import select
import shutil
import subprocess
import sys
import termios
import threading
import tty
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vm"))
import vm  # noqa: E402

# First private KeyID 32, as cpu/tdx.cc has it; six KeyID bits, all in use.
MSRS = """\
0x017 0 00000000 00000000 00000000 00000000 00000000 00000000
0x02c 0 00000000 00000000 00000000 00000000 00000000 00000000
0x087 0 00000020 0000001f 00000000 00000000 00000000 00000000
0x982 0 00000006 00000003 00000000 00000000 00000000 00000000
0x1b1 0 00000000 00000000 00000000 00000000 00000000 00000000
"""

# waitpkg lets an idle host crawl, la57 does not survive SMM, amx is half there.
BOCHSRC = """\
config_interface: textconfig
display_library: nogui
memory: guest={memory}, host={memory}
romimage: file={roms}/BIOS-bochs-latest
vgaromimage: file={roms}/vgabios.bin
cpu: model=sapphire_rapids, count={cpus}, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1, \
msrs="{out}/msrs.def", exclude_features="la57,waitpkg,amx,amx_int8,amx_bf16"
clock: sync=none, time0=local
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={out}/boot.iso, status=inserted
boot: cdrom
optramimage1: file={initramfs}, address=0x{address:x}
com1: enabled=1, mode=file, dev={out}/console.log
com2: enabled=1, {job_line}
log: {out}/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
mouse: enabled=0
"""

MIB = 1 << 20
# The boot loader works at both ends of memory.
ARCHIVE_AT = 128

ISOLINUX = """\
DEFAULT linux
PROMPT 0
LABEL linux
 KERNEL /bzImage
 APPEND {command_line}
"""

SYSLINUX = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
LOADER = Path("/usr/lib/ISOLINUX/isolinux.bin")


def iso(options, image, archive):
    """A CD to boot from: Bochs cannot load a kernel itself.

    The archive is in memory already, where the command line says (address and size)."""
    root = options.out / "iso"
    root.mkdir()
    for source, name in (
        (LOADER, "isolinux.bin"),
        (SYSLINUX, "ldlinux.c32"),
        (image, "bzImage"),
    ):
        if not source.exists():
            vm.fail(f"no {source}", "as root: apt-get install isolinux syslinux-common")
        shutil.copyfile(source, root / name)
    at, size = archive
    # x86 does not reserve what initrdmem= says. What is not memory is copied first.
    reserved = (size + 4095) & ~4095
    # A triple fault ends Bochs, which has no other use for a reset.
    command_line = (
        "console=ttyS0,115200 panic=-1 quiet printk.time=1 log_buf_len=4M nokaslr reboot=t "
        f"tsc=reliable kvm_intel.tdx=1 initrdmem=0x{at:x},0x{size:x} memmap=0x{reserved:x}$0x{at:x} {options.append}"
    )
    (root / "isolinux.cfg").write_text(ISOLINUX.format(command_line=command_line))
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-o", str(options.out / "boot.iso"),
         "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4",
         "-boot-info-table", "-J", "-R", str(root)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(root)


def mebibytes(size):
    for unit, factor in (("M", 1), ("G", 1024)):
        number = size.removesuffix(unit)
        if number != size and number.isdigit():
            return int(number) * factor
    vm.fail(f"{size} is no size of memory", "give --memory like 1024M or 2G")


def terminal(out):
    """Joins the job's line with this terminal; returns the device that is its other end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    if os.isatty(0):
        atexit.register(termios.tcsetattr, 0, termios.TCSADRAIN, termios.tcgetattr(0))
        tty.setraw(0)

    def copy():
        sources = [master, 0]
        with open(out / "job.raw", "ab", buffering=0) as log:
            while True:
                for source in select.select(sources, [], [])[0]:
                    data = os.read(source, 4096)
                    if source == master:
                        log.write(data)
                    elif data:
                        os.write(master, data)
                    else:
                        sources.remove(0)

    threading.Thread(target=copy, daemon=True).start()
    return os.ttyname(slave)


def bochs(options, initramfs):
    image = Path(options.kernel)
    if image.is_dir():
        image = image / "arch/x86/boot/bzImage"
    if not image.exists():
        vm.fail(f"no kernel image {image}", "give a built kernel tree by --kernel")
    memory = mebibytes(options.memory)
    size = initramfs.stat().st_size
    address = ARCHIVE_AT * MIB
    # It is copied once.
    if 2 * size + 2 * address > memory * MIB:
        vm.fail(f"{memory} MiB of memory cannot hold an archive of {size // MIB} MiB", "give more by --memory")
    iso(options, image, (address, size))
    out = options.out.resolve()
    (out / "msrs.def").write_text(MSRS)
    rc = BOCHSRC.format(
        memory=memory, cpus=options.cpus, roms=options.bochs / "roms", out=out,
        initramfs=initramfs.resolve(), address=address,
        job_line=f"mode=term, dev={terminal(out)}" if options.terminal else f"mode=file, dev={out}/job.raw",
    )  # fmt: skip
    (out / "bochsrc").write_text(rc)
    os.environ["BOCHS_TDX_LOG"] = str(out / "seamcalls.jsonl")
    os.environ["BOCHS_TDX_PLAIN"] = "1" if options.plain else "0"
    return [str(options.bochs / "bochs"), "-q", "-f", str(out / "bochsrc")]


def defaults(options):
    """What every script gets, as far as it is there."""
    kernel = Path(options.kernel)
    stock = options.stock_kvm or kernel / "arch/x86/kvm"
    for source, place in (
        (kernel / "virt/lib/irqbypass.ko", "/modules/"),
        (stock / "kvm.ko", "/modules/stock-kvm/"),
        (stock / "kvm-intel.ko", "/modules/stock-kvm/"),
        (options.bochs / "td-test", "/tests/"),
        (HERE.parent / "tdx-smoke", "/tests/"),
        (HERE / "tdx-guest.sh", "/lib/tdx.sh"),
    ):
        if source.exists():
            options.add.append(f"{source}:{place}")


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--plain", action="store_true", help="do not encrypt TD memory")
    parser.add_argument("--bochs", required=True, type=Path, help="what build.sh printed")
    parser.add_argument("--stock-kvm", type=Path, help="take the kernel's KVM modules from there")
    parser.add_argument("--terminal", action="store_true", help="the job's line is this terminal, both ways")
    mine, rest = parser.parse_known_args()
    parse = vm.parse

    def parse_all():
        options = parse()
        options.bochs, options.plain = mine.bochs.resolve(), mine.plain
        options.stock_kvm, options.terminal = mine.stock_kvm, mine.terminal
        defaults(options)
        return options

    sys.argv[1:] = rest
    vm.parse = parse_all
    vm.qemu = bochs
    vm.spare_cpus = lambda _: 0
    return vm.main()


if __name__ == "__main__":
    sys.exit(main())
