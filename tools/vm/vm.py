#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Boot a kernel under QEMU, run one script in it, bring back what it wrote.

The kernel's console (ttyS0) goes to OUT/console.log. The script's output
(ttyS1) is copied to standard output and OUT/job.log while it runs; when the script ends the
guest sends its exit status and the content of its /out over the same line,
behind a marker that holds a random word, and the folder is unpacked into OUT.
OUT/dmesg.log is always among it. QEMU writes resets of processors and triple faults
to OUT/cpu.log, with --vm-exits also every VMRUN and every VM exit (code, info 1, info 2, RIP).

Exit status: the script's own; 124 if it ran out of time; 125 if the machine
itself failed (panic, hang, no boot), after the end of the console.
"""

import argparse
import contextlib
import fcntl
import os
import secrets
import select
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import termios
import time
import tty
from pathlib import Path

from qemu import ADVICE as QEMU_ADVICE
from qemu import complaint as qemu_complaint

GUEST = Path(__file__).resolve().parent / "guest"
TIMED_OUT = 124
MACHINE_FAILED = 125
# The guest ends an overdue script itself, which still brings back its log;
# the host ends the machine this much later.
GRACE_SECONDS = 60
# One of them is there from the first moment of a run on.
OURS = ("initramfs.cpio", "qemu.log")
CONSOLE_TAIL = 30
BOOT_SECONDS = 120
# Ctrl-], as telnet has it: ends a machine that does not answer any more.
ESCAPE = b"\x1d"


class Archive:
    """A cpio archive in the "newc" form the kernel unpacks."""

    def __init__(self, stream):
        self.stream = stream
        self.inode = 0
        self.folders = set()

    def entry(self, name, mode, data=b"", device=(0, 0)):
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + raw, data):
            self.stream.write(part + b"\0" * (-len(part) % 4))

    def folder(self, name):
        name = name.strip("/")
        if name and name not in self.folders:
            self.folder(os.path.dirname(name))
            self.folders.add(name)
            self.entry(name, 0o040755)

    def file(self, name, data, mode=0o755):
        name = name.strip("/")
        self.folder(os.path.dirname(name))
        self.entry(name, 0o100000 | mode, data)

    def link(self, name, target):
        name = name.strip("/")
        self.folder(os.path.dirname(name))
        self.entry(name, 0o120777, target.encode())

    def add(self, source, name):
        """Adds a file, or all files below a folder."""
        if source.is_dir():
            self.folder(name)
            for child in sorted(source.iterdir()):
                self.add(child, f"{name}/{child.name}")
        else:
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
            self.file(name, source.read_bytes(), mode)

    def close(self):
        self.entry("TRAILER!!!", 0)


def fail(message, advice=""):
    print(f"error: {message}", file=sys.stderr)
    if advice:
        print(f"       {advice}", file=sys.stderr)
    sys.exit(MACHINE_FAILED)


def has_interpreter(elf):
    """Whether a 64-bit ELF program names a dynamic linker (PT_INTERP)."""
    table, size, count = (
        *struct.unpack_from("<Q", elf, 32),
        *struct.unpack_from("<HH", elf, 54),
    )
    kinds = (struct.unpack_from("<I", elf, table + i * size)[0] for i in range(count))
    return 3 in kinds


def static_busybox():
    path = shutil.which("busybox")
    if not path:
        fail("no busybox", "as root: apt-get install busybox-static")
    if has_interpreter(Path(path).read_bytes()):
        fail(f"{path} is not static", "as root: apt-get install busybox-static")
    return Path(path)


def pack(target, options, token):
    with open(target, "wb") as stream:
        archive = Archive(stream)
        for name in ("dev", "proc", "sys", "tmp", "out", "etc", "mnt"):
            archive.folder(name)
        archive.entry("dev/console", 0o020600, device=(5, 1))
        archive.add(static_busybox(), "bin/busybox")
        archive.link("bin/sh", "busybox")
        archive.file("init", (GUEST / "init").read_bytes())
        archive.file("lib/guest.sh", (GUEST / "guest.sh").read_bytes(), 0o644)
        archive.file("job", Path(options.script).read_bytes())
        if options.input:
            archive.file("etc/input", options.input.read(), 0o644)
        # The line to the script is always a terminal; is its other end one?
        terminal = os.environ.get("TERM", "dumb") if sys.stdout.isatty() else "dumb"
        columns, lines = shutil.get_terminal_size()
        settings = {
            "TOKEN": token, "SECONDS_ALLOWED": options.timeout,
            "CPUS": hex((1 << options.cpus) - 1 << spare_cpus(options)),
            "TERM": terminal, "COLUMNS": columns, "LINES": lines,
        }  # fmt: skip
        words = [f"{key}={shlex.quote(str(value))}" for key, value in settings.items()]
        words.append("set -- " + shlex.join(options.arguments))
        archive.file("etc/job", "\n".join(words).encode() + b"\n", 0o644)
        for pair in options.add:
            source, _, name = pair.partition(":")
            if not name:
                fail(f"--add {pair}: no destination", "write --add SOURCE:DESTINATION")
            if not os.path.exists(source):
                fail(f"--add {source}: no such file")
            if name.endswith("/") and os.path.isfile(source):
                name += os.path.basename(source)
            archive.add(Path(source), name)
        archive.close()


def spare_cpus(options):
    """CPUs before those of the script, which only the kernel uses: CPU 0, whose flags other
    CPUs of QEMU write (testing.rst, "Unlocked flags"). Where one runs after the other, none do."""
    return 0 if options.instructions else 1


def qemu(options, initramfs):
    wrong = None if options.any_qemu else qemu_complaint(options.qemu)
    if wrong:
        fail(wrong, QEMU_ADVICE)
    image = Path(options.kernel)
    if image.is_dir():
        image = image / "arch/x86/boot/bzImage"
    if not image.exists():
        fail(f"no kernel image {image}", "give a built kernel tree by --kernel")
    # A long log must not wrap; a panic ends the machine (-no-reboot). The kernel is not to lie
    # anywhere: in movable memory it would keep a block from going offline.
    command_line = f"console=ttyS0 panic=-1 quiet printk.time=1 log_buf_len=16M nokaslr {options.append}"
    emulation = ["-accel", "tcg,thread=multi"]
    if not options.instructions:
        # No CPU runs code that another one patches while the kernel boots, when most is patched
        # (testing.rst, "Stale code"). The guest's init starts the others.
        command_line += " maxcpus=1"
    else:
        emulation = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
    # Tells a triple fault, which leaves no other trace, from other ends of the machine.
    items, log = ["cpu_reset"], f"{options.out}/cpu.log"
    if options.vm_exits:
        # The filter keeps the instructions out that in_asm is there for.
        items.append("in_asm")
        emulation += ["-dfilter", "0x1+0x1"]
    emulation += ["-d", ",".join(items), "-D", log]
    line = f"file,id=job,path={options.out}/job.raw"
    if options.interactive:
        line += f",input-path={options.out}/job.in"
    return [
        options.qemu, *emulation, "-cpu", "EPYC,+svm,+npt",
        "-machine", f"pc,max-ram-below-4g={options.low_memory}",
        "-smp", str(spare_cpus(options) + options.cpus), "-m", options.memory,
        "-nodefaults", "-display", "none", "-no-reboot",
        "-serial", f"file:{options.out}/console.log",
        "-chardev", line, "-serial", "chardev:job",
        "-kernel", str(image), "-initrd", str(initramfs), "-append", command_line,
    ]  # fmt: skip


class Keyboard:
    """What is typed at a terminal is the script's input, once the script has said something:
    before, nobody listens, and the serial port drops what comes. The terminal is raw then."""

    def __init__(self, fifo):
        if not os.isatty(sys.stdin.fileno()):
            fail("--interactive: standard input is no terminal", "give it by --input -")
        os.mkfifo(fifo)
        # Also open for reading: neither we nor QEMU wait for each other, and it sees no end.
        self.line = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        # What there is no room for yet: a machine that hangs takes nothing.
        self.waiting = b""
        self.source = sys.stdin.fileno()
        self.settings = None

    def listen(self):
        if not self.settings:
            self.settings = termios.tcgetattr(self.source)
            # What has been typed ahead stays.
            tty.setraw(self.source, termios.TCSADRAIN)

    def poll(self, seconds):
        """Brings over what is there, waits at most so long for it; whether to go on."""
        if not self.settings:
            time.sleep(seconds)
            return True
        typed, _, _ = select.select([self.source], [self.line] if self.waiting else [], [], seconds)
        if typed:
            data = os.read(self.source, 256)
            if not data or ESCAPE in data:
                return False
            self.waiting += data
        if self.waiting:
            with contextlib.suppress(BlockingIOError):
                self.waiting = self.waiting[os.write(self.line, self.waiting) :]
        return True

    def close(self):
        os.close(self.line)
        if self.settings:
            termios.tcsetattr(self.source, termios.TCSADRAIN, self.settings)


class Output:
    """Follows the script's line; tells its text from the files behind the marker."""

    def __init__(self, path, token, sink, begins):
        self.stream = open(path, "rb")
        self.log = open(path.with_name("job.log"), "wb")
        self.marker = b"\n" + token.encode() + b" "
        self.sink = sink
        self.held = b""
        self.marked = False
        self.line_ended = True
        # Called before anything is shown.
        self.begins = begins

    def poll(self):
        data = self.held + self.stream.read()
        if not data or self.marked:
            self.held = data
            return
        at = data.find(self.marker)
        if at >= 0:
            self.show(data[:at])
            self.held = data[at + len(self.marker) :]
            self.marked = True
            return
        # The marker may be half here: hold that back, but no prompt of a shell.
        keep = data.rfind(b"\n", max(0, len(data) - len(self.marker)))
        keep = keep if keep >= 0 and self.marker.startswith(data[keep:]) else len(data)
        self.show(data[:keep])
        self.held = data[keep:]

    def show(self, data):
        if data:
            self.begins()
            self.line_ended = data.endswith(b"\n")
            for stream in (self.sink, self.log):
                stream.write(data)
                stream.flush()

    def finish(self):
        self.poll()
        if not self.marked:
            self.show(self.held)
        elif not self.line_ended:
            self.sink.write(b"\n")
            self.sink.flush()
        self.stream.close()
        self.log.close()

    def status(self):
        return int(self.held.split(b"\n", 1)[0])

    def files(self):
        return self.held.split(b"\n", 1)[1]


def unpack(data, out):
    path = out / "files.tar"
    path.write_bytes(data)
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = os.path.normpath(member.name)
                if member.isfile() and not name.startswith(("/", "..")):
                    target = out / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.extractfile(member).read())
    except (tarfile.TarError, EOFError) as error:
        print(f"error: the files of the guest came back damaged: {error}", file=sys.stderr)
        return False
    path.unlink()
    return True


def replaceable(out):
    """Whether nothing is lost if the folder is: it is new, empty, or of an earlier run."""
    return not out.exists() or not any(out.iterdir()) or any((out / name).exists() for name in OURS)


def claim(out):
    """Empties the folder for a run that then has it to itself, until all who have the descriptor
    that is returned are gone: a machine that outlives this program still writes there."""
    if not replaceable(out):
        fail(f"{out} has files that are not of a run", "give an empty folder by --out")
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"another machine is running in {out}", "wait for its end, or give another folder by --out")
    for child in out.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
    return folder


def console_tail(out):
    console = out / "console.log"
    if not console.exists():
        print("no console: the emulator did not start, see what it says above", file=sys.stderr)
        return
    lines = console.read_text(errors="replace").splitlines()
    print(f"--- the last {CONSOLE_TAIL} lines of {console}", file=sys.stderr)
    print("\n".join(lines[-CONSOLE_TAIL:]), file=sys.stderr)
    print("---", file=sys.stderr)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kernel", required=True, metavar="DIR", help="kernel build tree or image")
    parser.add_argument(
        "--qemu", default=os.environ.get("QEMU") or "qemu-system-x86_64", metavar="PROGRAM",
        help="the emulator; default: what QEMU= says, or the one in PATH",
    )  # fmt: skip
    parser.add_argument("--any-qemu", action="store_true", help="also one that is known to go wrong")
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--low-memory", default="3G", help="as much of it at most lies below 4 GiB")
    parser.add_argument("--cpus", default=2, type=int, help="of the script; the machine has one more")
    parser.add_argument(
        "--instructions", action="store_true",
        help="the clock counts instructions, one a nanosecond, on one CPU after the other",
    )  # fmt: skip
    parser.add_argument("--vm-exits", action="store_true", help="log what nested guests enter and leave")
    parser.add_argument("--append", default="", help="more of the kernel command line")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--interactive", action="store_true", help="a terminal is the script's line")
    source.add_argument(
        "--input", type=argparse.FileType("rb"), metavar="FILE",
        help="the script's standard input; -: this program's, read to its end first",
    )  # fmt: skip
    parser.add_argument("--timeout", default=300, type=int, help="seconds the script may take")
    parser.add_argument("--out", required=True, type=Path, help="folder for logs and files")
    parser.add_argument(
        "--add", action="append", default=[], metavar="SOURCE:DESTINATION", help="file or folder for the guest"
    )
    parser.add_argument("script", help="shell script to run as the guest's job")
    parser.add_argument("arguments", nargs="*")
    return parser.parse_args()


def main():
    options = parse()
    claimed = claim(options.out)
    token = "vm-" + secrets.token_hex(8)
    initramfs = options.out / "initramfs.cpio"
    pack(initramfs, options, token)
    (options.out / "job.raw").touch()

    deadline = time.monotonic() + options.timeout + GRACE_SECONDS + BOOT_SECONDS
    keyboard = Keyboard(options.out / "job.in") if options.interactive else None
    # Who sees a prompt may type: nothing of that is echoed by the terminal.
    begins = keyboard.listen if keyboard else (lambda: None)
    output = Output(options.out / "job.raw", token, sys.stdout.buffer, begins)
    with open(options.out / "qemu.log", "wb") as log:
        machine = subprocess.Popen(
            qemu(options, initramfs), stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[claimed]
        )
        hung = False
        try:
            while machine.poll() is None:
                if not keyboard:
                    time.sleep(0.05)
                elif not keyboard.poll(0.02):
                    machine.kill()
                output.poll()
                if time.monotonic() > deadline:
                    hung = True
                    machine.kill()
        finally:
            machine.kill()
            machine.wait()
            if keyboard:
                keyboard.close()
                (options.out / "job.in").unlink()
    output.finish()
    initramfs.unlink()

    if not output.marked:
        what = "hangs" if hung else "ended before the script did (a panic?)"
        print(f"error: the machine {what}", file=sys.stderr)
        resets = options.out / "cpu.log"
        if resets.exists() and "Triple fault" in resets.read_text(errors="replace"):
            print(f"       by a triple fault ({resets})", file=sys.stderr)
        for line in (options.out / "qemu.log").read_text(errors="replace").splitlines():
            if "TCG doesn't support requested feature" not in line:
                print(line, file=sys.stderr)
        console_tail(options.out)
        return MACHINE_FAILED
    if not unpack(output.files(), options.out):
        console_tail(options.out)
        return MACHINE_FAILED
    (options.out / "job.raw").unlink()
    if output.status() == TIMED_OUT:
        print(f"error: the script took more than {options.timeout} s", file=sys.stderr)
        console_tail(options.out)
    return output.status()


if __name__ == "__main__":
    sys.exit(main())
