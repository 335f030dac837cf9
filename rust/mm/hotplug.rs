// SPDX-License-Identifier: GPL-2.0

//! Memory blocks that go offline and come back.
//!
//! C header: [`include/linux/memory.h`](srctree/include/linux/memory.h)

use super::{
    folio::NewFolio,
    folio_batch::Placement, //
};
use crate::ffi;
use core::{
    marker::PhantomData,
    ops::Range, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// What somebody does when a memory block goes offline, or comes back.
///
/// # Context
///
/// Process context, of whoever takes the block offline or online: a task that a signal may be pending for, or
/// a work item. `device_hotplug_lock`, `mem_hotplug_lock` exclusive and the lock of the chain, shared,
/// are held, so this is about one block at a time. May sleep and allocate. Per-CPU lists of free pages
/// of the zone and those of the LRU are off when it begins, and on again when it ends.
pub trait Offline {
    /// The higher the sooner.
    const PRIORITY: i32;

    /// The block is about to go offline: its free pages go to nobody any more, and mm moves the
    /// others out of it next. Nothing comes of it if others refuse, or a signal ends it.
    fn begins(_block: &Block<'_>) {}

    /// The block has gone offline: no page of it is in use, but for those whose memory has failed.
    /// This is the last time that its frames have a `struct page`.
    fn ends(_block: &Block<'_>) {}

    /// The block is about to come online, with a new `struct page` for each of these frames.
    ///
    /// # Errors
    ///
    /// It stays offline, and who wants it online is told why.
    fn comes_back(_pfns: Range<usize>) -> Result {
        Ok(())
    }
}

/// The frames of a block that goes offline or comes back. While this exists each has a `struct page`.
pub struct Block<'a>(&'a ffi::memory_notify, NotThreadSafe);

impl Block<'_> {
    /// Frame numbers.
    pub fn pfns(&self) -> Range<usize> {
        self.0.start_pfn..self.0.start_pfn + self.0.nr_pages
    }

    /// Where mm would put what is in the block.
    pub fn away(&self) -> Away<'_> {
        // SAFETY: The frame has a `struct page`.
        Away(unsafe { Placement::away(self.0.start_pfn) }, PhantomData)
    }
}

/// Where the folios of a block go.
pub struct Away<'a>(Placement, PhantomData<&'a Block<'a>>);

impl Away<'_> {
    /// Hands `count` new folios of order 0, in no mapping and uncharged, to `take`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory there. `take` has got as many as there were.
    pub fn alloc(&mut self, count: usize, take: impl FnMut(NewFolio)) -> Result {
        self.0.alloc(count, take)
    }
}

/// Has the functions of `T` called for each block, until it is dropped.
#[pin_data(PinnedDrop)]
pub struct Notifier<T: Offline> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    _t: PhantomData<fn(T)>,
}

// SAFETY: Only the notifier chain, which has a lock of its own, looks at the block.
unsafe impl<T: Offline> Send for Notifier<T> {}
// SAFETY: As above.
unsafe impl<T: Offline> Sync for Notifier<T> {}

impl<T: Offline> Notifier<T> {
    /// Starts it. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            block <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                // SAFETY: The place can be written, and is pinned until drop() takes it out of the
                // chain again.
                to_result(unsafe {
                    slot.write(bindings::notifier_block {
                        notifier_call: Some(Self::notify),
                        priority: T::PRIORITY,
                        ..pin_init::zeroed()
                    });
                    ffi::privmemfd_helper_register_memory_notifier(slot)
                })
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
        use kernel::ffi::c_ulong;

        const BEGINS: c_ulong = ffi::memory_block_state_MEM_GOING_OFFLINE as c_ulong;
        const ENDS: c_ulong = ffi::memory_block_state_MEM_OFFLINE as c_ulong;
        const COMES_BACK: c_ulong = ffi::memory_block_state_MEM_GOING_ONLINE as c_ulong;

        const OK: kernel::ffi::c_int = bindings::NOTIFY_OK as kernel::ffi::c_int;

        if !matches!(action, BEGINS | ENDS | COMES_BACK) {
            return OK;
        }
        // SAFETY: What the chain passes on for these three, for as long as the call lasts.
        let block = Block(unsafe { &*data.cast() }, NotThreadSafe);
        match action {
            BEGINS => T::begins(&block),
            ENDS => T::ends(&block),
            _ => {
                if let Err(e) = T::comes_back(block.pfns()) {
                    // As notifier_from_errno().
                    return bindings::NOTIFY_STOP_MASK as kernel::ffi::c_int | (OK - e.to_errno());
                }
            }
        }
        OK
    }
}

#[pinned_drop]
impl<T: Offline> PinnedDrop for Notifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It was put into the chain by new(). Waits for a call that is under way, so none
        // is in the module's code when that goes.
        unsafe { ffi::privmemfd_helper_unregister_memory_notifier(self.block.get()) };
    }
}
