// SPDX-License-Identifier: GPL-2.0
//! The structures of `tools/tdx-emu/tdhost/uapi_tdhost.h` and the commands of
//! `tools/tdx-emu/kernel/tdxemu_guest.h`. `tests/layout.rs` fails when they no
//! longer fit the headers, which say what everything means.
#![allow(missing_docs, non_camel_case_types)]

use rustix::ioctl::{opcode, Opcode};

pub const TDHOST_IOC: u8 = 0xbd;
pub const TDHOST_TD_DEBUG: u64 = 1;
pub const TDHOST_SEPT_FREE: u32 = 0;
pub const TDHOST_SEPT_BLOCKED: u32 = 1;
pub const TDHOST_SEPT_PENDING: u32 = 2;
pub const TDHOST_SEPT_PENDING_BLOCKED: u32 = 3;
pub const TDHOST_SEPT_MAPPED: u32 = 4;

pub const TDXEMU_ACCEPT: u32 = 1;
pub const TDXEMU_FILL: u32 = 2;
pub const TDXEMU_VERIFY: u32 = 3;
pub const TDXEMU_TOUCH: u32 = 4;
pub const TDXEMU_SPIN: u32 = 5;
pub const TDXEMU_STAMP: u32 = 6;
pub const TDXEMU_OK: u64 = 0;
pub const TDXEMU_EINVAL: u64 = 1;
pub const TDXEMU_EVE: u64 = 2;

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct tdhost_create {
    pub flags: u64,
    pub pages: u64,
    pub memory: i32,
    pub vcpus: u32,
    pub reserved: [u64; 4],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct tdhost_pages {
    pub gpa: u64,
    pub pages: u64,
    pub seed: u64,
    pub done: u64,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct tdhost_run {
    pub vcpu: u32,
    pub command: u32,
    pub gpa: u64,
    pub pages: u64,
    pub arg: u64,
    pub report: u64,
    pub done: u64,
    pub mismatches: u64,
    pub mismatch_gpa: u64,
    pub entries: u64,
    pub faults: u64,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct tdhost_read {
    pub gpa: u64,
    pub value: u64,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct tdhost_sept {
    pub gpa: u64,
    pub state: u32,
    pub level: u32,
    pub pfn: u64,
    pub mirror: u64,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct tdhost_stat {
    pub mapped: u64,
    pub batches: u64,
    pub moved: u64,
    pub refused: u64,
    pub kicks: u64,
    pub holds: u64,
    pub waits: u64,
    pub faults: u64,
    pub entries: u64,
    pub retries: u64,
    pub removed: u64,
    pub leaked: u64,
    pub dead: u64,
    pub reserved: [u64; 3],
}

pub const TDHOST_CREATE_TD: Opcode = opcode::write::<tdhost_create>(TDHOST_IOC, 0);
pub const TDHOST_ADD: Opcode = opcode::read_write::<tdhost_pages>(TDHOST_IOC, 1);
pub const TDHOST_AUG: Opcode = opcode::read_write::<tdhost_pages>(TDHOST_IOC, 2);
pub const TDHOST_FINALIZE: Opcode = opcode::none(TDHOST_IOC, 3);
pub const TDHOST_RUN: Opcode = opcode::read_write::<tdhost_run>(TDHOST_IOC, 4);
pub const TDHOST_READ: Opcode = opcode::read_write::<tdhost_read>(TDHOST_IOC, 5);
pub const TDHOST_SEPT: Opcode = opcode::read_write::<tdhost_sept>(TDHOST_IOC, 6);
pub const TDHOST_STAT: Opcode = opcode::read_write::<tdhost_stat>(TDHOST_IOC, 7);
