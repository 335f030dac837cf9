// SPDX-License-Identifier: GPL-2.0

//! What private files need while they exist: somebody who looks at memory blocks that go offline.
//!
//! memory_failure() gives up a page that it meets off the LRU lists, while somebody moves it for
//! instance: it is marked and stays in its file. Offlining passes marked pages by, and then their
//! `struct page` is no more. Here is the last place where they can leave the file, and where a
//! memory_failure() of ours can be waited for that is still at work on one.
//!
//! C header: [`include/linux/memory.h`](srctree/include/linux/memory.h)

use super::{
    FileTables,
    PrivateFile, //
};
use crate::{
    ffi,
    kvm::Bindings, //
};
use core::{
    ffi::c_void,
    marker::PhantomData, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Release, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};

/// Before all who free what belongs to the block.
const PRIORITY: i32 = i32::MAX;

/// The one registration, or null.
static REGISTERED: Atomic<*mut c_void> = Atomic::new(core::ptr::null_mut());

/// Private files of `T` can be made as long as this exists, and only then.
///
/// Takes the failed pages of a block that goes offline out of the files. Dropping it waits until the
/// last file has gone, and for callbacks that no file keeps the module loaded for.
#[pin_data(PinnedDrop)]
pub struct Registration<T: PrivateFile> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    _t: PhantomData<fn(T)>,
}

// SAFETY: Only the notifier chain, which has a lock of its own, looks at the block.
unsafe impl<T: PrivateFile> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: PrivateFile> Sync for Registration<T> {}

impl<T: PrivateFile> Registration<T> {
    /// Whether files of `T` can be made.
    pub(super) fn is_there() -> bool {
        core::ptr::eq(REGISTERED.load(Acquire), Self::key())
    }

    fn key() -> *mut c_void {
        (&raw const *T::tables()).cast_mut().cast()
    }

    /// Registers. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is a registration. `ENOMEM`.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            block <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                let _ = REGISTERED
                    .cmpxchg(core::ptr::null_mut(), Self::key(), Full)
                    .map_err(|_| EBUSY)?;
                // SAFETY: The place can be written, and is pinned until drop() takes it out of the
                // chain again.
                to_result(unsafe {
                    slot.write(bindings::notifier_block {
                        notifier_call: Some(Self::notify),
                        priority: PRIORITY,
                        ..pin_init::zeroed()
                    });
                    ffi::privmemfd_helper_register_memory_notifier(slot)
                })
                .inspect_err(|_| REGISTERED.store(core::ptr::null_mut(), Release))
            }),
            _t: PhantomData,
        })
    }

    /// # Safety
    ///
    /// As for a `notifier_call` of the memory chain.
    unsafe extern "C" fn notify(
        _block: *mut bindings::notifier_block,
        action: kernel::ffi::c_ulong,
        data: *mut kernel::ffi::c_void,
    ) -> kernel::ffi::c_int {
        if action == ffi::memory_block_state_MEM_OFFLINE as kernel::ffi::c_ulong {
            // SAFETY: Process context. Whoever is waited for needs nothing of who goes offline.
            unsafe { ffi::privmemfd_helper_memory_failure_sync() };
            // SAFETY: What the chain passes on.
            let arg = unsafe { &*data.cast::<ffi::memory_notify>() };
            for pfn in arg.start_pfn..arg.start_pfn + arg.nr_pages {
                Self::sweep(pfn);
            }
        }
        bindings::NOTIFY_OK as kernel::ffi::c_int
    }

    fn sweep(pfn: usize) {
        let ops = &T::tables().mapping;
        // SAFETY: Frames of a block that goes offline have a `struct page` until after the chain.
        let folio = unsafe { ffi::privmemfd_helper_lock_failed_folio(pfn, ops) };
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

#[pinned_drop]
impl<T: PrivateFile> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        let _ = REGISTERED.xchg(core::ptr::null_mut(), Full);
        while Bindings::any() {
            fsleep(Delta::from_millis(1));
        }
        // SAFETY: It was put into the chain by new(). Waits for a call that is under way.
        unsafe { ffi::privmemfd_helper_unregister_memory_notifier(self.block.get()) };
        // SAFETY: Process context, no locks held.
        unsafe { ffi::privmemfd_helper_synchronize_rcu_tasks() };
    }
}
