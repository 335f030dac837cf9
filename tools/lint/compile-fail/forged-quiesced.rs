// SPDX-License-Identifier: GPL-2.0
//! A page that nobody was kept off.
//! Expected: E0451

use privmemfd_kernel::{
    kvm::{InPlace, Quiesced},
    mm::folio::Locked,
};

/// KVM knows nothing of it.
pub fn commit(src: &Locked, dst: &Locked) {
    let _ = Quiesced::<'_, InPlace> {
        src,
        dst,
        ..todo!()
    }
    .commit();
}
