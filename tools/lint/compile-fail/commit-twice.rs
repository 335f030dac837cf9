// SPDX-License-Identifier: GPL-2.0
//! A page that is put in place twice.
//! Expected: E0382

use kernel::prelude::*;
use privmemfd_kernel::kvm::{InPlace, Quiesced};

/// The second time is too much.
pub fn commit(page: Quiesced<'_, InPlace>) -> Result {
    page.commit()?;
    page.commit()
}
