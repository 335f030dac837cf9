// SPDX-License-Identifier: GPL-2.0
//! Where the pages of a privmemfd are, who has one, and what keeps memory from going:
//! what `privmemctl`, the demonstration and the self-tests share.

pub mod clear;
pub mod doctor;
pub mod draw;
pub mod evacuate;
pub mod frames;
pub mod host;
pub mod kernel_log;
pub mod mappings;
pub mod memory;
pub mod node_mask;
pub mod offline;
pub mod owners;
pub mod place;
pub mod shares;
pub mod size;
pub mod svg;
pub mod tracing;
pub mod why;
