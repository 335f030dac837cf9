# SPDX-License-Identifier: GPL-2.0
"""vm.py: the script's text and the files behind it are told apart."""

import contextlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vm  # noqa: E402


class Stream(unittest.TestCase):
    def follow(self, chunks):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "job.raw"
            path.touch()
            sink = io.BytesIO()
            output = vm.Output(path, "token", sink, lambda: None)
            with open(path, "ab") as stream:
                for chunk in chunks:
                    stream.write(chunk)
                    stream.flush()
                    output.poll()
            output.finish()
            return output, sink.getvalue()

    def test_marker_in_one_piece(self):
        output, text = self.follow([b"hello\nworld\n\ntoken 3\n\x00\x01tar"])
        self.assertEqual((text, output.status(), output.files()), (b"hello\nworld\n", 3, b"\x00\x01tar"))

    def test_marker_byte_by_byte(self):
        data = b"a\n\ntoken 12\nfiles\ntoken 9\n"
        output, text = self.follow([data[i : i + 1] for i in range(len(data))])
        self.assertEqual((text, output.status(), output.files()), (b"a\n", 12, b"files\ntoken 9\n"))

    def test_no_marker(self):
        output, text = self.follow([b"panic\n", b"half"])
        self.assertEqual((text, output.marked), (b"panic\nhalf", False))


class Cpus(unittest.TestCase):
    def options(self, out, *arguments):
        with mock.patch.object(sys, "argv", ["vm.py", "--out", str(out), *arguments]):
            return vm.parse()

    def machine(self, *options):
        with tempfile.TemporaryDirectory() as folder:
            kernel, script = Path(folder, "bzImage"), Path(folder, "job")
            kernel.touch()
            script.touch()
            parsed = self.options(folder, "--kernel", str(kernel), "--any-qemu", *options, str(script))
            command = vm.qemu(parsed, Path(folder, "initramfs"))
            archive = Path(folder, "archive")
            vm.pack(archive, parsed, "token")
            mask = re.search(rb"^CPUS=(\S+)$", archive.read_bytes(), re.MULTILINE)
            words = command[command.index("-append") + 1].split()
            return int(command[command.index("-smp") + 1]), int(mask[1], 16), "maxcpus=1" in words

    def test_the_first_is_not_the_scripts_and_boots_alone(self):
        self.assertEqual(self.machine(), (3, 0b110, True))
        self.assertEqual(self.machine("--cpus", "1"), (2, 0b10, True))

    def test_all_are_where_one_runs_after_the_other(self):
        self.assertEqual(self.machine("--instructions"), (2, 0b11, False))

    def test_the_kernel_lies_where_it_always_does(self):
        with tempfile.TemporaryDirectory() as folder:
            kernel = Path(folder, "bzImage")
            kernel.touch()
            parsed = self.options(folder, "--kernel", str(kernel), "--any-qemu", "job")
            command = vm.qemu(parsed, Path(folder, "initramfs"))
        self.assertIn("nokaslr", command[command.index("-append") + 1].split())

    def test_no_machine_runs_on_an_emulator_that_loses_interrupts(self):
        with tempfile.TemporaryDirectory() as folder:
            kernel, emulator = Path(folder, "bzImage"), Path(folder, "qemu")
            kernel.touch()
            emulator.write_text("#!/bin/sh\necho QEMU emulator version 10.1.5\n")
            emulator.chmod(0o755)
            parsed = self.options(folder, "--kernel", str(kernel), "--qemu", str(emulator), "job")
            with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as end:
                vm.qemu(parsed, Path(folder, "initramfs"))
        self.assertEqual(end.exception.code, vm.MACHINE_FAILED)
        self.assertIn("is QEMU 10.1.5, but 10.2 or newer is needed", said.getvalue())


class Files(unittest.TestCase):
    def test_archive_is_a_cpio(self):
        stream = io.BytesIO()
        archive = vm.Archive(stream)
        archive.file("a/b/c", b"hello")
        archive.link("a/l", "b/c")
        archive.close()
        done = subprocess.run(["cpio", "-t"], input=stream.getvalue(), capture_output=True)
        self.assertEqual(done.stdout.split(), [b"a", b"a/b", b"a/b/c", b"a/l"])

    def test_folder_of_somebody_else_is_not_replaced(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            self.assertTrue(vm.replaceable(out / "new"))
            self.assertTrue(vm.replaceable(out))
            (out / "thesis.tex").touch()
            self.assertFalse(vm.replaceable(out))
            (out / "qemu.log").touch()
            self.assertTrue(vm.replaceable(out))

    def test_two_machines_do_not_run_in_one_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            claimed = vm.claim(out)
            (out / "qemu.log").write_text("of the first")
            with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as end:
                vm.claim(out)
            self.assertEqual(end.exception.code, vm.MACHINE_FAILED)
            self.assertIn(f"another machine is running in {out}", said.getvalue())
            self.assertEqual((out / "qemu.log").read_text(), "of the first")
            os.close(claimed)
            os.close(vm.claim(out))
            self.assertEqual(list(out.iterdir()), [])

    def test_names_that_leave_the_folder_are_not_unpacked(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            out.mkdir()
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as archive:
                for name in ("../evil", "sub/good"):
                    archive.addfile(tarfile.TarInfo(name))
            self.assertTrue(vm.unpack(stream.getvalue(), out))
            self.assertTrue((out / "sub/good").exists())
            self.assertFalse((Path(folder) / "evil").exists())
            self.assertFalse(vm.unpack(stream.getvalue()[:100], out))
