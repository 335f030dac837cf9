// SPDX-License-Identifier: GPL-2.0
//! A lock that another thread lets go.
//! Expected: E0277

use privmemfd_kernel::mm::mapping::Exclusive;

fn send(_: impl Send) {}

/// Hands it over.
pub fn give(held: Exclusive<'static>) {
    send(held);
}
