// SPDX-License-Identifier: GPL-2.0
#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod cipher;
pub mod config;
pub mod dispatch;
pub mod epoch;
pub mod fault;
pub mod fault_text;
mod leaf;
pub mod leaf_statuses;
pub mod locks;
pub mod log;
pub mod measure;
pub mod mem;
mod module;
pub mod opstate;
pub mod pamt;
pub mod program;
pub mod pseudo;
pub mod regs;
pub mod sept;
pub mod sept_l2;
pub mod status;
pub mod td;
mod walk;

pub use config::Config;
pub use dispatch::Outcome;
pub use leaf::cpuid::CpuidState;
pub use leaf::guest::{GuestEvent, GuestOutcome};
pub use leaf::guest_state::{VcpuControls, VeInfo};
pub use leaf::msr::MsrAccess;
pub use mem::{Machine, PhysMem, Platform};
pub use module::{Module, Violation};
pub use regs::Regs;
