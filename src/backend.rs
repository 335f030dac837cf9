// SPDX-License-Identifier: GPL-2.0

//! What brings the content of a page to another place.
//!
//! The engine (`relocate`) knows only the trait. The TDX backend is no such backend: the content of
//! its pages is not the host's to bring anywhere, so whoever keeps the guests off a page has it
//! moved at the same time.

pub(crate) mod software;
pub(crate) mod tdx;

use crate::refusal::Refusal;
use privmemfd_kernel::mm::folio::Locked;

/// Names a backend in trace events; the numbers are those of `privmemfd_backends` there.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum BackendId {
    /// The host copies.
    Software = 0,
    /// The TDX module moves the page.
    Tdx = 1,
}

/// Moves content.
pub(crate) trait Backend {
    /// The backend's name.
    const ID: BackendId;

    /// Brings the content of `src` to `dst`.
    ///
    /// Guests are kept off both. May sleep, must not allocate or wait for a lock. On error `src`
    /// is as it was; `dst` may hold part of the content, which the caller erases.
    fn transfer(&self, dst: &Locked, src: &Locked) -> Result<(), Refusal>;
}
