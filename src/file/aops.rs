// SPDX-License-Identifier: GPL-2.0

//! What mm asks of a file's pages: move one, or take note that one has failed.
//!
//! Both come with a folio lock held, so the `invalidate_lock` is tried, never waited for.

use super::{
    guests::BoundGuests,
    lost,
    Attachment, //
};
use crate::{
    backend::software::Software,
    refusal::Refusal,
    relocate::{
        Cause,
        Plan, //
    }, //
};
use kernel::prelude::*;
use privmemfd_kernel::{
    fs::private_file::Migration,
    kvm::Move,
    mm::{
        folio::Locked,
        mapping::Mobility, //
    }, //
};

/// `migrate_folio`.
///
/// # Errors
///
/// `EAGAIN`: another operation on the file is under way. `EHWPOISON`: the page's memory has
/// failed, or the TDX module keeps it. `EBUSY`: the page cannot move now.
pub(super) fn migrate(file: &Attachment, migration: &mut Migration<'_>) -> Result {
    let outcome = try_migrate(file, migration);
    file.object().count(outcome, 1);
    Ok(outcome?)
}

fn try_migrate(file: &Attachment, migration: &mut Migration<'_>) -> Result<(), Refusal> {
    let src = migration.src();
    let object = file.object();
    if object.mobility == Mobility::Pinned {
        return Err(Refusal::Pinned);
    }
    let held = file.mapping().try_lock_shared().ok_or(Refusal::Busy)?;
    if src.is_unusable() || object.lost.get(src.index()).is_some() {
        lost::give_up(file, src, &held);
        return Err(Refusal::Poison);
    }
    let mut outcome = Err(Refusal::Busy);
    Plan::new(&mut [Move::of(migration)], Cause::Mm).run(
        &held,
        &BoundGuests(file),
        &Software,
        |_, how| outcome = how,
    );
    lost::settle(file, src, outcome);
    outcome
}

/// `error_remove_folio`: the page is to leave the file.
pub(super) fn failed(file: &Attachment, folio: &Locked) {
    lost::fail(file, folio);
}
