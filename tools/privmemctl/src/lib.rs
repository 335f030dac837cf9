// SPDX-License-Identifier: GPL-2.0
//! Where the pages of a privmemfd are, and who has one: what `privmemctl` and
//! the demonstration share.

pub mod draw;
pub mod evacuate;
pub mod host;
pub mod memory;
pub mod owners;
pub mod size;
