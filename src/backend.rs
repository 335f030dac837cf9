// SPDX-License-Identifier: GPL-2.0

//! What brings the content of a page to another place.
//!
//! The engine (`relocate`) knows only the trait. The TDX backend is no such backend: the content of
//! its pages is not the host's to bring anywhere, so whoever keeps the guests off a page has it
//! moved at the same time.

pub(crate) mod software;
pub(crate) mod tdx;

use crate::refusal::Refusal;
use privmemfd_kernel::kvm::{
    Origin,
    Quiesced, //
};

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

    /// Brings the content of a page to its new folio.
    ///
    /// May sleep, must not allocate or wait for a lock. On error the page is dropped, which erases
    /// what may be in the new folio of its content.
    fn transfer<O: Origin>(&self, page: &mut Quiesced<'_, O>) -> Result<(), Refusal>;
}
