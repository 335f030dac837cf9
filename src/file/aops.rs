// SPDX-License-Identifier: GPL-2.0

//! What mm asks of a file's pages: move one, or take note that one has failed.
//!
//! Both come with a folio lock held, so the `invalidate_lock` is tried, never waited for.

use super::{
    keep_guests_off,
    Attachment,
    PrivMem, //
};
use crate::{
    backend::software::Software,
    kvm_binding::BoundGuests,
    relocate::{
        Cause,
        Plan,
        Refusal, //
    },
    stats::TOTALS, //
};
use kernel::prelude::*;
use privmemfd_kernel::{
    kvm::Move,
    mm::{
        folio::Locked,
        mapping::Mobility, //
    },
    workqueue::{
        ModuleQueue,
        Started, //
    }, //
};

/// For what cannot be done where mm asks for it.
static QUEUE: ModuleQueue = ModuleQueue::new();

/// Makes the queue ready, for as long as the result lives.
pub(crate) fn start_queue() -> Result<Started> {
    QUEUE.start(c"privmemfd")
}

/// `migrate_folio`.
///
/// # Errors
///
/// `EAGAIN`: another operation on the file is under way. `EHWPOISON`: the page's memory has
/// failed, or the TDX module keeps it. `EBUSY`: the page cannot move now.
pub(super) fn migrate(file: &Attachment, dst: &Locked, src: &Locked) -> Result {
    let object: &PrivMem = file.object();
    let outcome = try_migrate(file, dst, src);
    object.count(outcome);
    Ok(outcome?)
}

fn try_migrate(file: &Attachment, dst: &Locked, src: &Locked) -> Result<(), Refusal> {
    let object = file.object();
    if object.mobility == Mobility::Pinned {
        return Err(Refusal::Pinned);
    }
    // What the TDX module keeps looks like any other page when its VM is gone.
    if src.is_unusable() {
        return Err(Refusal::Poison);
    }
    let held = file.mapping().try_lock_shared().ok_or(Refusal::Busy)?;
    let mut outcome = Err(Refusal::Busy);
    Plan::new(&mut [Move::new(src, dst)], Cause::Mm).run(
        &held,
        &BoundGuests(file),
        &Software,
        |_, how| outcome = how,
    );
    outcome
}

/// `error_remove_folio`: unmap the page in every VM.
///
/// The page keeps its place in the file. The next access of a guest finds it poisoned, which
/// reaches the VMM as `KVM_EXIT_MEMORY_FAULT` with `EHWPOISON`; punching a hole gives new memory.
pub(super) fn poisoned(file: &Attachment, folio: &Locked) {
    let index = folio.index();
    TOTALS.pages_poisoned.add(1);

    if let Some(held) = file.mapping().try_lock_shared() {
        drop(keep_guests_off(file, index..index + 1, &held));
        return;
    }
    // Somebody has the lock exclusive and may be waiting for the lock of this very folio.
    let Some(kept) = file.keep() else {
        return; // The file is being released: no VM maps it.
    };
    let later = move || {
        let held = kept.mapping().lock_shared();
        drop(keep_guests_off(&kept, index..index + 1, &held));
    };
    if QUEUE.spawn(GFP_KERNEL, later).is_err() {
        pr_err!("no memory to unmap page {index} of a file, whose memory has failed, in its VMs\n");
    }
}
