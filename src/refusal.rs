// SPDX-License-Identifier: GPL-2.0

//! Why a page has not moved.

use kernel::prelude::*;

/// Why a page was not moved; the numbers are those of `privmemfd_refusals` in the trace events.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The file is pinned.
    Pinned = 0,
    /// Another operation on the file is under way.
    Busy,
    /// A VM could not be kept off the page, or the TDX module did not move it.
    Guest,
    /// The page's memory has failed.
    Poison,
    /// The host could not copy the content.
    Backend,
    /// No memory for the new page.
    NoMemory,
}

impl Refusal {
    /// All of them, in the order of [`Refusal::index`].
    pub(crate) const ALL: [Self; 6] = [
        Self::Pinned,
        Self::Busy,
        Self::Guest,
        Self::Poison,
        Self::Backend,
        Self::NoMemory,
    ];
    /// Number of reasons.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// Index into arrays of [`Refusal::COUNT`] entries.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl From<Refusal> for Error {
    /// `EAGAIN` says that trying again soon may help.
    fn from(reason: Refusal) -> Self {
        match reason {
            Refusal::Busy => EAGAIN,
            Refusal::Poison => EHWPOISON,
            Refusal::NoMemory => ENOMEM,
            Refusal::Pinned | Refusal::Guest | Refusal::Backend => EBUSY,
        }
    }
}
