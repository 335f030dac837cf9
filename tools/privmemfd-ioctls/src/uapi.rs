// SPDX-License-Identifier: GPL-2.0
//! The UAPI structures, generated from `include/uapi/linux/privmemfd.h` by
//! `bindgen --rust-edition 2021 --no-doc-comments --no-layout-tests
//! --with-derive-default --disable-header-comment --allowlist-file .*privmemfd.h`.
//! `tests/layout.rs` fails when they no longer fit the header.
#![allow(missing_docs, non_camel_case_types)]
pub const PRIVMEMFD_IOC: u32 = 188;
pub const PRIVMEMFD_NODE_ANY: i32 = -1;
pub const PRIVMEMFD_MOVABLE: u32 = 1;
pub const PRIVMEMFD_PINNED: u32 = 2;
pub const PRIVMEMFD_CLOEXEC: u32 = 4;
pub const PRIVMEMFD_ZONE_DMA: u32 = 0;
pub const PRIVMEMFD_ZONE_DMA32: u32 = 1;
pub const PRIVMEMFD_ZONE_NORMAL: u32 = 2;
pub const PRIVMEMFD_ZONE_MOVABLE: u32 = 3;
pub const PRIVMEMFD_ZONE_DEVICE: u32 = 4;
pub const PRIVMEMFD_NR_ZONES: u32 = 8;
pub const PRIVMEMFD_REFUSED_PINNED: u32 = 0;
pub const PRIVMEMFD_REFUSED_BUSY: u32 = 1;
pub const PRIVMEMFD_REFUSED_GUEST: u32 = 2;
pub const PRIVMEMFD_REFUSED_POISON: u32 = 3;
pub const PRIVMEMFD_REFUSED_BACKEND: u32 = 4;
pub const PRIVMEMFD_REFUSED_NOMEM: u32 = 5;
pub const PRIVMEMFD_NR_REFUSED: u32 = 8;
pub const PRIVMEMFD_PFN_NONE: i32 = -1;
pub const PRIVMEMFD_MOVE_STATUS: u32 = 1;
pub type __s32 = ::std::os::raw::c_int;
pub type __u32 = ::std::os::raw::c_uint;
pub type __u64 = ::std::os::raw::c_ulonglong;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct privmemfd_create {
    pub size: __u64,
    pub flags: __u64,
    pub node: __s32,
    pub pad: __u32,
    pub reserved: [__u64; 4usize],
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct privmemfd_stat {
    pub node: __s32,
    pub pad: __u32,
    pub flags: __u64,
    pub size: __u64,
    pub pages: __u64,
    pub zone_pages: [__u64; 8usize],
    pub poisoned: __u64,
    pub vms: __u64,
    pub slots: __u64,
    pub relocated: __u64,
    pub refused: [__u64; 8usize],
    pub reserved: [__u64; 4usize],
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct privmemfd_pages {
    pub offset: __u64,
    pub len: __u64,
    pub pfns: __u64,
    pub reserved: [__u64; 4usize],
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct privmemfd_move {
    pub offset: __u64,
    pub len: __u64,
    pub node: __s32,
    pub flags: __u32,
    pub moved: __u64,
    pub status: __u64,
    pub reserved: [__u64; 3usize],
}
