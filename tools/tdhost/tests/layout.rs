// SPDX-License-Identifier: GPL-2.0
//! The structures against the headers, as the C compiler sees them.

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use tdhost::uapi::*;

macro_rules! layout {
    ($out:ident, $($s:ident { $($f:ident),* })*) => {$(
        writeln!($out, "_Static_assert(sizeof(struct {0}) == {1}, \"size of {0}\");",
            stringify!($s), size_of::<$s>()).unwrap();
        $(writeln!($out, "_Static_assert(offsetof(struct {0}, {1}) == {2}, \"{0}.{1}\");",
            stringify!($s), stringify!($f), offset_of!($s, $f)).unwrap();)*
    )*};
}

macro_rules! values {
    ($out:ident, $($name:ident)*) => {$(
        writeln!($out, "_Static_assert({0} == {1}ULL, \"{0}\");", stringify!($name), $name).unwrap();
    )*};
}

#[test]
fn structures_and_numbers_are_those_of_the_headers() {
    let mut c = String::from(
        "#include <stddef.h>\n#include \"tdhost/uapi_tdhost.h\"\n#include \"kernel/tdxemu_guest.h\"\n",
    );
    layout!(c,
        tdhost_create { flags, pages, memory, vcpus, reserved }
        tdhost_pages { gpa, pages, seed, done, reserved }
        tdhost_run { vcpu, command, gpa, pages, arg, report, done, mismatches, mismatch_gpa,
            entries, faults, reserved }
        tdhost_read { gpa, value, reserved }
        tdhost_sept { gpa, state, level, pfn, mirror, reserved }
        tdhost_stat { mapped, batches, moved, refused, kicks, holds, waits, faults, entries,
            retries, removed, leaked, dead, reserved }
    );
    values!(c, TDHOST_TD_DEBUG TDHOST_SEPT_FREE TDHOST_SEPT_BLOCKED TDHOST_SEPT_PENDING
        TDHOST_SEPT_PENDING_BLOCKED TDHOST_SEPT_MAPPED TDHOST_IOC TDHOST_CREATE_TD TDHOST_ADD
        TDHOST_AUG TDHOST_FINALIZE TDHOST_RUN TDHOST_READ TDHOST_SEPT TDHOST_STAT TDXEMU_ACCEPT
        TDXEMU_FILL TDXEMU_VERIFY TDXEMU_TOUCH TDXEMU_SPIN TDXEMU_STAMP TDXEMU_OK TDXEMU_EINVAL
        TDXEMU_EVE);
    // Compared at run time: C has no such constant expression.
    let word = tdhost::word(0x1234_5678_9abc_def0, 0x7ff8);
    writeln!(
        c,
        "int main(void) {{ return tdxemu_word(0x123456789abcdef0, 0x7ff8) != {word}ULL; }}"
    )
    .unwrap();

    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = dir.join("layout.c");
    let program = dir.join("layout");
    std::fs::write(&source, c).unwrap();
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tdx-emu");
    let out = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg("-I")
        .args([&headers, &source])
        .output()
        .expect("a C compiler named cc");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "uapi.rs does not fit the headers\n{errors}"
    );
    assert!(Command::new(program).status().unwrap().success(), "word()");
}
