// SPDX-License-Identifier: GPL-2.0
//! The checked-in structures against the header, as the C compiler sees it.

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use privmemfd_ioctls::{sys, uapi::*};

macro_rules! layout {
    ($out:ident, $($s:ident { $($f:ident),* })*) => {$(
        writeln!($out, "_Static_assert(sizeof(struct {0}) == {1}, \"size of {0}\");",
            stringify!($s), size_of::<$s>()).unwrap();
        $(writeln!($out, "_Static_assert(offsetof(struct {0}, {1}) == {2}, \"{0}.{1}\");",
            stringify!($s), stringify!($f), offset_of!($s, $f)).unwrap();)*
    )*};
}

macro_rules! values {
    ($out:ident, $($name:ident = $value:expr;)*) => {$(
        writeln!($out, "_Static_assert({0} == {1}{2}, \"{0}\");", stringify!($name), $value,
            if ($value as i128) < 0 { "" } else { "ULL" }).unwrap();
    )*};
}

macro_rules! same_values {
    ($out:ident, $($name:ident)*) => { values!($out, $($name = $name;)*) };
}

#[test]
fn structures_and_numbers_are_those_of_the_header() {
    let mut c = String::from("#include <stddef.h>\n#include \"privmemfd.h\"\n");
    layout!(c,
        privmemfd_create { size, flags, node, pad, reserved }
        privmemfd_stat { node, pad, flags, size, pages, zone_pages, poisoned, vms, slots,
            relocated, refused, reserved }
        privmemfd_pages { offset, len, pfns, reserved }
        privmemfd_move { offset, len, node, flags, moved, status, reserved }
    );
    values!(c,
        PRIVMEMFD_CREATE = sys::CREATE;
        PRIVMEMFD_STAT = sys::STAT;
        PRIVMEMFD_PAGES = sys::PAGES;
        PRIVMEMFD_MOVE = sys::MOVE;
        PRIVMEMFD_PFN_NONE = sys::PFN_NONE;
    );
    same_values!(c, PRIVMEMFD_NODE_ANY PRIVMEMFD_MOVABLE PRIVMEMFD_PINNED PRIVMEMFD_CLOEXEC
        PRIVMEMFD_ZONE_DMA PRIVMEMFD_ZONE_DMA32 PRIVMEMFD_ZONE_NORMAL PRIVMEMFD_ZONE_MOVABLE
        PRIVMEMFD_ZONE_DEVICE PRIVMEMFD_NR_ZONES PRIVMEMFD_REFUSED_PINNED PRIVMEMFD_REFUSED_BUSY
        PRIVMEMFD_REFUSED_GUEST PRIVMEMFD_REFUSED_POISON PRIVMEMFD_REFUSED_BACKEND
        PRIVMEMFD_REFUSED_NOMEM PRIVMEMFD_NR_REFUSED PRIVMEMFD_MOVE_STATUS);

    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = dir.join("layout.c");
    std::fs::write(&source, c).unwrap();
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include/uapi/linux");
    let out = Command::new("cc")
        .args(["-std=c11", "-fsyntax-only", "-Wall", "-Werror", "-I"])
        .args([&header, &source])
        .output()
        .expect("a C compiler named cc");
    assert!(
        out.status.success(),
        "uapi.rs does not fit the header: generate it again\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
