// SPDX-License-Identifier: GPL-2.0
//! How the demonstration brings the host's memory into a state; the self-tests do so too.

pub mod free_lists;
pub mod full_node;
pub mod hog;
pub mod settings;
