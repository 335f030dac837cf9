// SPDX-License-Identifier: GPL-2.0
//! The leaves, one file per family.

pub mod cpuid;
mod cpuid_table;
pub mod guest;
mod guest_access;
mod guest_attr;
mod guest_call;
mod guest_fields;
mod guest_measure;
pub mod guest_state;
mod mem_large;
mod mem_page;
mod mem_range;
mod mem_rdwr;
mod mem_sept;
pub mod metadata;
mod mng;
mod mng_init;
mod mr;
pub mod msr;
mod phymem;
mod relocate;
mod sys;
mod sys_config;
mod track;
mod vp;
pub(crate) mod vp_enter;
mod vp_write;
