// SPDX-License-Identifier: GPL-2.0
//! What is right compiles: so a failure of the others is not one of the set-up.
//! Expected: nothing

use kernel::prelude::*;
use privmemfd_kernel::{
    fs::private_file::{
        Attached,
        PrivateFile, //
    },
    kvm::{InPlace, Move, Provider, KVM},
    mm::folio::{
        LockedFolio,
        NewFolio, //
    },
};

/// Makes a hole.
pub fn punch<T: Provider>(file: &Attached<T>) -> Result {
    let held = file.mapping().lock_exclusive();
    KVM.invalidate(file, 0..1, &held)?.truncate();
    Ok(())
}

/// Moves a page.
pub fn relocate<T: Provider>(
    file: &Attached<T>,
    src: &mut LockedFolio,
    dst: &mut NewFolio,
) -> Result {
    let held = file.mapping().lock_shared();
    let mut moves = [Move::<'_, InPlace>::new(src, dst)];
    KVM.relocate(file, &mut moves, &held)?;
    let mut page = moves[0].take()?;
    page.copy()?;
    page.commit()
}

/// What `Attached` says of itself rests on this: its object is used by any thread.
pub fn object_is_shared<T: PrivateFile>() {
    fn shared<T: Send + Sync>() {}
    shared::<T>();
}
