# SPDX-License-Identifier: GPL-2.0
"""make install and its relatives: what they say of themselves, and what they refuse."""

import os
import re
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
INSTALL = TOP / "tools/install/install.sh"
TESTS = TOP / "tools/install/tests.sh"
RUN = TOP / "tools/install/run"


def run(*command, **environment):
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


class Package(unittest.TestCase):
    def test_one_version(self):
        workspace = tomllib.loads((TOP / "tools/Cargo.toml").read_text())["workspace"]
        dkms = re.search(r'^PACKAGE_VERSION="(.*)"$', (TOP / "dkms.conf").read_text(), re.MULTILINE)
        self.assertEqual(dkms[1], workspace["package"]["version"])

    def test_dkms_has_what_the_module_is_built_from(self):
        with tempfile.TemporaryDirectory() as folder:
            status, said = run(INSTALL, "dkms", DESTDIR=folder)
            self.assertEqual(status, 0, said)
            source = next(Path(folder, "usr/src").iterdir())
            kbuild = (source / "Kbuild").read_text()
            for name in re.findall(r"((?:rust|src)/[\w/]+)\.o\b", kbuild):
                files = [source / f"{name}.rs", source / f"{name}.c"]
                self.assertTrue(any(file.exists() for file in files), name)
            self.assertFalse(list(source.rglob("*.o")))
            status, said = run(INSTALL, "dkms", DESTDIR=folder)
            self.assertIn("is there already", said)

    def test_nothing_to_uninstall(self):
        with tempfile.TemporaryDirectory() as folder:
            status, said = run(INSTALL, "uninstall", DESTDIR=folder)
            self.assertEqual(status, 1)
            self.assertIn("nothing is installed below", said)

    def test_only_what_was_installed_goes(self):
        with tempfile.TemporaryDirectory() as folder:
            share = Path(folder, "usr/local/share/privmemfd")
            share.mkdir(parents=True)
            programs = Path(folder, "usr/local/bin")
            programs.mkdir()
            (programs / "privmemctl").touch()
            (programs / "other").touch()
            (share / "installed").write_text(
                "/usr/local/bin/privmemctl\n/usr/local/share/privmemfd/installed\n"
            )
            status, said = run(INSTALL, "uninstall", DESTDIR=folder)
            self.assertEqual(status, 0, said)
            left = [str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()]
            self.assertEqual(left, ["usr/local/bin/other"])
            self.assertFalse(share.exists())


class Collection(unittest.TestCase):
    def test_programs_exist(self):
        names = re.search(r"^TESTS=\((.*)\)$", TESTS.read_text(), re.MULTILINE)[1].split()
        self.assertGreater(len(names), 5)
        for name in names:
            self.assertTrue((TOP / f"tools/selftests/src/bin/{name}.rs").exists(), name)

    def test_no_destination(self):
        status, said = run(TESTS, DESTDIR="")
        self.assertEqual(status, 1)
        self.assertIn("DESTDIR is not set", said)

    def test_run_says_what_it_does(self):
        status, said = run(RUN, "--help")
        self.assertEqual(status, 0)
        for word in ("--offline", "--poison", "--limits", "put back"):
            self.assertIn(word, said)

    def test_run_refuses(self):
        self.assertEqual(run(RUN, "--harmless")[0], 1)
        status, said = run(RUN, "no_such_test")
        self.assertEqual(status, 1)
        self.assertIn("no test no_such_test", said)


if __name__ == "__main__":
    unittest.main()
