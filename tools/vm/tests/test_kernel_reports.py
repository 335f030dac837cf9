# SPDX-License-Identifier: GPL-2.0
"""kernel-reports: every kind of complaint is found once, noise is not."""

import subprocess
import tempfile
import unittest
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / "kernel-reports"


def run(log, *arguments):
    with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
        file.write(log)
        file.flush()
        done = subprocess.run([PROGRAM, *arguments, file.name], capture_output=True, text=True)
    return done.returncode, done.stdout


def stamped(text):
    return "".join(f"<4>[   12.{i:06}] {line}\n" for i, line in enumerate(text.splitlines()))


FILLER = "\n".join(f"Node {i} is fine" for i in range(70))

COMPLAINTS = {
    "WARN": "------------[ cut here ]------------\nWARNING: CPU: 0 PID: 71 at mm/filemap.c:9 f+0x1/0x2\n"
    "Modules linked in: kvm\n---[ end trace 0000000000000000 ]---",
    "WARN without CPU": "------------[ cut here ]------------\nWARNING: arch/x86/kvm/mmu.c:7 at f+0x1, CPU#1: a/70",
    "BUG": "------------[ cut here ]------------\nkernel BUG at mm/migrate.c:12!\nOops: invalid opcode: 0000 [#1] SMP",
    "Oops": "BUG: unable to handle page fault for address: ffff\n#PF: supervisor read access\nOops: Oops: 0000 [#1]",
    "circular": "======================================================\n"
    "WARNING: possible circular locking dependency detected\n7.3.4 #1 Not tainted\n-----\nfile_test/99 is trying",
    "inconsistent": "================================\nWARNING: inconsistent lock state",
    "rcu": "=============================\nWARNING: suspicious RCU usage",
    "sleep": "BUG: sleeping function called from invalid context at mm/page_alloc.c:5\nin_atomic(): 1",
    "scheduling": "BUG: scheduling while atomic: sh/70/0x00000002",
    "wait context": "=============================\n[ BUG: Invalid wait context ]",
    "KASAN": "==================================================================\n"
    "BUG: KASAN: slab-use-after-free in privmemfd_x+0x1/0x2\nRead of size 8\n"
    "==================================================================",
    "UBSAN": "------------[ cut here ]------------\nUBSAN: array-index-out-of-bounds in a.c:4:2",
    "kmemleak": "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    "bad page": "BUG: Bad page state in process sh  pfn:1f00",
    "bad page map": "BUG: Bad page map in process sh  pte:80 pmd:90",
    "hung": "INFO: task migrate_test:70 blocked for more than 120 seconds.",
    "stall": "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "self stall": "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "soft lockup": "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [a:7]",
    "slab": "BUG kmalloc-64 (Tainted: G        O      ): Right Redzone overwritten",
    "slab leak": "BUG privmemfd_inode (Not tainted): Objects remaining on __kmem_cache_shutdown()",
    "odebug": "ODEBUG: free active (active state 0) object: 00000000 object type: timer_list",
    "refcount": "refcount_t: underflow; use-after-free.",
    "rust": "rust_kernel: panicked at src/relocate.rs:12:5:",
    "panic": "Kernel panic - not syncing: Fatal exception",
}

NOISE = """\
ACPI Error: AE_BAD_PARAMETER, During Region initialization (20260408/tbxfload-52)
ACPI: Unable to load the System Description Tables
ACPI BIOS Error (bug): Could not resolve symbol
page: refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x18000
page dumped because: unmovable page
page dumped because: migration failure
page dumped because: bad page is not this
    # Subtest: BUG: a name
    ok 1 reports_BUG: on purpose
kmemleak: Kernel memory leak detector initialized (mem pool available: 15600)
Memory failure: 0x12345: recovery action for unevictable LRU page: Recovered
privmemfd: KVM binding is off: this kernel has no provider interface
... MAX_LOCKDEP_SUBCLASSES:  8
Bad address
debug: unmapping init memory
"""


class Complaints(unittest.TestCase):
    def test_each_is_found_once(self):
        for name, text in COMPLAINTS.items():
            for form in (f"{FILLER}\n{text}\n{FILLER}\n", stamped(f"{FILLER}\n{text}\n{FILLER}")):
                with self.subTest(name):
                    status, out = run(form)
                    self.assertEqual(status, 1, out)
                    self.assertIn("kernel reports: 1\n", out)
                    self.assertIn(text.splitlines()[0], out)

    def test_several(self):
        body = f"\n{FILLER}\n".join(COMPLAINTS.values())
        self.assertIn(f"kernel reports: {len(COMPLAINTS)}\n", run(body)[1])

    def test_noise(self):
        body = NOISE.replace("bad page is not this", "unmovable page")
        for form in (body, stamped(body)):
            status, out = run(form)
            self.assertEqual((status, out), (0, "kernel reports: 0\n"))

    def test_expected_report(self):
        self.assertEqual(run(COMPLAINTS["hung"], "--ignore", "task migrate_test")[0], 0)

    def test_missing_or_empty_log_is_no_clean_log(self):
        self.assertEqual(run("")[0], 2)
        done = subprocess.run([PROGRAM, "/nonexistent"], capture_output=True)
        self.assertEqual(done.returncode, 2)

    def test_fills_json(self):
        with tempfile.NamedTemporaryFile("w+", suffix=".json") as file:
            file.write('{"mismatches": 0, "kernel_reports": null}')
            file.flush()
            run(COMPLAINTS["UBSAN"], "--json", file.name)
            self.assertIn('"kernel_reports": 1', Path(file.name).read_text())
