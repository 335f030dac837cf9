// SPDX-License-Identifier: GPL-2.0

//! `fallocate(2)`: memory comes and goes.

use super::{
    get_folio,
    guests::keep_guests_off,
    lost,
    Attachment, //
};
use core::ops::Range;
use kernel::{
    current,
    prelude::*, //
};
use privmemfd_kernel::mm::cond_resched;

/// Gives memory to every page of the range that has none. May sleep; a signal ends it.
///
/// Pages that were allocated before an error stay.
///
/// # Errors
///
/// `EINTR`, `ENOMEM`. `EHWPOISON`: a page's memory has failed; punch a hole there first.
pub(super) fn allocate(file: &Attachment, pages: Range<usize>) -> Result {
    let _held = file.mapping().lock_shared();
    for index in pages {
        if current!().signal_pending() {
            return Err(EINTR);
        }
        drop(get_folio(file, index)?);
        cond_resched();
    }
    Ok(())
}

/// Lets go of what the TDX module has kept of the range, erasing nothing: there is a hole. May sleep.
///
/// The memslot that they back is about to be unbound; the `invalidate_lock` is held exclusive.
pub(crate) fn drop_kept(file: &Attachment, pages: Range<usize>) {
    let mapping = file.mapping();
    let _ = mapping.for_each_folio(pages.clone(), |index, folio| {
        if folio.is_kept() {
            if let Some(folio) = mapping.lock_folio(index).filter(|folio| folio.is_kept()) {
                mapping.expel(&folio)?;
            }
        }
        Ok(())
    });
    file.object().lost.unbound(pages);
}

/// Takes the memory of every page of the range: no VM maps it any more, it is erased and free.
/// May sleep; others have their turn at the file from time to time, and may find a part of the
/// range empty already. Does not fail.
pub(super) fn punch_hole(file: &Attachment, pages: Range<usize>) -> Result {
    let mapping = file.mapping();
    // Else what has failed would be erased and free, and mm might never hear of it.
    lost::tell(file, pages.clone());
    for part in mapping.chunks(pages) {
        let held = mapping.lock_exclusive();
        let off = keep_guests_off(file, part.clone(), &held)?;
        lost::give_up_suspects(file, part.clone());
        off.truncate();
        // Last: what is lost meanwhile is in the hole as well.
        file.object().lost.clear(part, |_| true);
    }
    Ok(())
}
