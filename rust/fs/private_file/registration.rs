// SPDX-License-Identifier: GPL-2.0

//! What private files need while they exist: somebody who looks at memory blocks that go offline.
//!
//! When one begins to, the files can move what they have there, many pages at a time; mm, which
//! comes next, asks for one after the other.
//!
//! memory_failure() gives up a page that it meets off the LRU lists, while somebody moves it for
//! instance: it is marked and stays in its file. Offlining passes marked pages by, and then their
//! `struct page` is no more. So the end is the last chance for them to leave the file, and to wait for
//! those who have one: a memory_failure() of ours, and who takes one out of its file.

use super::{
    residents::Residents,
    FileTables,
    PrivateFile, //
};
use crate::{
    ffi,
    kvm::Bindings,
    mm::{
        hotplug::{
            Block,
            Notifier,
            Offline, //
        },
        uncounted::UNCOUNTED, //
    }, //
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    ops::Range, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// The one registration, or null.
static REGISTERED: Atomic<*mut c_void> = Atomic::new(core::ptr::null_mut());

/// Private files of `T` can be made as long as this exists, and only then.
///
/// Has the pages of a block that goes offline leave the files, or the block. Dropping it waits until
/// the last file has gone, and for callbacks that no file keeps the module loaded for.
#[pin_data]
pub struct Registration<T: PrivateFile> {
    // First: no new file when it is dropped.
    _only: Only<T>,
    #[pin]
    _before: Notifier<Mover<T>>,
    #[pin]
    _after: Notifier<Sweeper<T>>,
    _calls: Calls,
}

impl<T: PrivateFile> Registration<T> {
    /// Whether files of `T` can be made.
    pub(super) fn is_there() -> bool {
        core::ptr::eq(REGISTERED.load(Acquire), Only::<T>::key())
    }

    /// Registers. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is a registration. `ENOMEM`.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _calls: Calls,
            _after <- Notifier::new(),
            _before <- Notifier::new(),
            _only: Only::new()?,
        })
    }
}

/// That there is one registration only. Dropped, it waits until there is no file.
struct Only<T>(PhantomData<fn(T)>);

impl<T: PrivateFile> Only<T> {
    fn key() -> *mut c_void {
        (&raw const *T::tables()).cast_mut().cast()
    }

    fn new() -> Result<Self> {
        let _ = REGISTERED
            .cmpxchg(core::ptr::null_mut(), Self::key(), Full)
            .map_err(|_| EBUSY)?;
        Ok(Self(PhantomData))
    }
}

impl<T> Drop for Only<T> {
    fn drop(&mut self) {
        let _ = REGISTERED.xchg(core::ptr::null_mut(), Full);
        while Bindings::any() {
            fsleep(Delta::from_millis(1));
        }
    }
}

/// Waits, when it is dropped, for callbacks that no file keeps the module loaded for.
struct Calls;

impl Drop for Calls {
    fn drop(&mut self) {
        // SAFETY: Process context, no locks held.
        unsafe { ffi::privmemfd_helper_synchronize_rcu_tasks() };
    }
}

/// When a block begins to go offline.
struct Mover<T>(PhantomData<fn(T)>);

impl<T: PrivateFile> Offline for Mover<T> {
    /// After all who may refuse.
    const PRIORITY: i32 = i32::MIN;

    fn begins(block: &Block<'_>) {
        if Bindings::any() {
            T::going_offline(&mut Residents::new(block));
        }
    }
}

/// When a block has gone offline.
struct Sweeper<T>(PhantomData<fn(T)>);

impl<T: PrivateFile> Offline for Sweeper<T> {
    /// Before all who free what belongs to the block.
    const PRIORITY: i32 = i32::MAX;

    fn ends(block: &Block<'_>) {
        // SAFETY: Process context. Whoever is waited for needs nothing of who goes offline.
        unsafe { ffi::privmemfd_helper_failing_sync() };
        // SAFETY: Frames of a block that goes offline have a `struct page` until after the chain.
        let failed = |pfn| unsafe { ffi::privmemfd_helper_has_failed(pfn) };
        block
            .pfns()
            .filter(|pfn| failed(*pfn))
            .for_each(Self::sweep);
        // Now nobody finds one, but a folio loses its mapping, by which it is found here, before
        // whoever takes it out of its file is through.
        // SAFETY: As above.
        unsafe { ffi::privmemfd_helper_failing_sync() };
    }

    fn comes_back(pfns: Range<usize>) -> Result {
        if UNCOUNTED.any_in(&pfns) {
            return Err(EHWPOISON);
        }
        Ok(())
    }
}

impl<T: PrivateFile> Sweeper<T> {
    fn sweep(pfn: usize) {
        let ops = &T::tables().mapping;
        // SAFETY: Frames of a block that goes offline have a `struct page` until after the chain.
        let folio = unsafe { ffi::privmemfd_helper_lock_folio_of(pfn, ops) };
        if folio.is_null() {
            return;
        }
        // SAFETY: The folio is locked, with a reference of ours, and in a mapping with the
        // operations of `T`: the state in which memory_failure() calls this.
        unsafe {
            FileTables::<T>::error_remove_folio(
                (*folio).__bindgen_anon_1.__bindgen_anon_1.mapping,
                folio,
            );
            bindings::folio_unlock(folio);
            ffi::privmemfd_helper_folio_put(folio);
        }
    }
}
