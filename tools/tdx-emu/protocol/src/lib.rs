// SPDX-License-Identifier: GPL-2.0
//! The part of privmemfd.ko's TDX backend that knows neither the kernel nor the
//! SEAMCALL instruction, compiled for tests on the host. The files are the
//! module's own; the tests let the model of the TDX module answer.
#![cfg(test)]
#![forbid(unsafe_code)]

#[path = "../../../../src/backend/tdx/protocol.rs"]
mod protocol;
#[path = "../../../../src/backend/tdx/status.rs"]
mod status;

mod faults;
mod host;
mod moves;
