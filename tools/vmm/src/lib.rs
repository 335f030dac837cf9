// SPDX-License-Identifier: GPL-2.0
//! A small VMM for tests: VMs of a chosen type, memslots on any file, vCPUs
//! in threads that write and verify memory without pause.
//!
//! * [`Vm`] makes VMs, memslots, attributes and guest_memfds.
//! * [`Vcpu`] runs one piece of guest code and says how it ended.
//! * [`Crew`] keeps several vCPUs busy in threads and counts what they verify.
//! * [`guest`] and [`layout`] say what the guest executes and where.

mod crew;
pub mod guest;
pub mod layout;
mod vcpu;
mod vm;

pub use crew::{Crew, Hang, Job, Mismatch, Progress};
pub use vcpu::{Exit, Kick, Registers, Vcpu};
pub use vm::{GuestRange, Vm, VmType};
