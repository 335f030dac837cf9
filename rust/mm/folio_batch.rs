// SPDX-License-Identifier: GPL-2.0

//! Folios that come and go together: one look at the zone and its lists for all of them.
//!
//! C headers: [`include/linux/folio_batch.h`](srctree/include/linux/folio_batch.h),
//! [`include/linux/gfp.h`](srctree/include/linux/gfp.h)

use super::{
    folio::{
        Folio,
        LockedFolio, //
    },
    node_online, //
};
use crate::ffi;
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::aref::ARef, //
};

/// Where new folios come from.
pub(crate) struct Placement(ffi::privmemfd_placement);

impl Placement {
    /// By the memory policy of the current task.
    pub(crate) fn policy(gfp: bindings::gfp_t) -> Self {
        Self::new(gfp, bindings::NUMA_NO_NODE)
    }

    /// From this node, or one near it if it has no memory; `None` if there is no such node.
    pub(crate) fn node(gfp: bindings::gfp_t, nid: i32) -> Option<Self> {
        node_online(nid).then(|| Self::new(gfp, nid))
    }

    fn new(gfp: bindings::gfp_t, nid: i32) -> Self {
        Self(ffi::privmemfd_placement {
            gfp,
            nid,
            ..Default::default()
        })
    }

    /// What would take the folios of a block that goes offline, see [`super::hotplug::Block::away`].
    ///
    /// # Safety
    ///
    /// The frame has a `struct page`.
    pub(crate) unsafe fn away(pfn: usize) -> Self {
        let mut away = ffi::privmemfd_placement::default();
        // SAFETY: By the caller's promise.
        unsafe { ffi::privmemfd_helper_away(pfn, &mut away) };
        Self(away)
    }

    /// Hands `count` new folios of order 0, in no mapping and uncharged, to `take`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory there. `take` has got as many as there were.
    pub(crate) fn alloc(&mut self, count: usize, mut take: impl FnMut(ARef<Folio>)) -> Result {
        let mut left = count;
        while left > 1 {
            let mut new = [core::ptr::null_mut(); AT_ONCE];
            let wanted = left.min(AT_ONCE);
            // SAFETY: A node of the system, of which none goes away, or none; and there is room for so
            // many folios, none of which is there already.
            let got = unsafe {
                ffi::privmemfd_helper_alloc_folios(&mut self.0, wanted as u32, new.as_mut_ptr())
            } as usize;
            if got == 0 {
                return Err(ENOMEM);
            }
            left -= got;
            let new = new.iter().take(got).filter_map(|ptr| NonNull::new(*ptr));
            // SAFETY: The allocator returns folios with one reference, which belongs to the caller.
            new.for_each(|ptr| take(unsafe { Folio::own(ptr) }));
        }
        if left == 1 {
            take(self.alloc_one()?);
        }
        Ok(())
    }

    /// As [`Placement::alloc`], one.
    pub(crate) fn alloc_one(&mut self) -> Result<ARef<Folio>> {
        let mut new = core::ptr::null_mut();
        // SAFETY: As in alloc().
        unsafe { ffi::privmemfd_helper_alloc_folios(&mut self.0, 1, &mut new) };
        let new = NonNull::new(new).ok_or(ENOMEM)?;
        // SAFETY: As in alloc().
        Ok(unsafe { Folio::own(new) })
    }
}

/// Folios that are allocated at once: their addresses are on the stack.
const AT_ONCE: usize = 32;

/// Unlocks folios and lets go of them, as dropping each does, but those that nobody else has are
/// freed together.
pub fn release(folios: impl IntoIterator<Item = LockedFolio>) {
    let mut batch = FolioBatch::new();
    for folio in folios {
        batch.add(folio.unlock());
    }
}

/// `struct folio_batch`: up to 31 folios, each with a reference.
pub(crate) struct FolioBatch(bindings::folio_batch, PhantomData<*mut ()>);

impl FolioBatch {
    pub(crate) fn new() -> Self {
        let mut batch = MaybeUninit::<bindings::folio_batch>::zeroed();
        // SAFETY: `batch` is valid for writes.
        unsafe { ffi::privmemfd_helper_folio_batch_init(batch.as_mut_ptr()) };
        // SAFETY: The helper has initialised what matters; the rest is zero, a valid value.
        Self(unsafe { batch.assume_init() }, PhantomData)
    }

    /// For C to fill it.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut bindings::folio_batch {
        &mut self.0
    }

    /// Hands the references on, the first that was added first, until `f` fails: then those that are
    /// left are dropped.
    pub(crate) fn drain(&mut self, mut f: impl FnMut(ARef<Folio>) -> Result) -> Result {
        let folios = core::mem::take(&mut self.0.nr);
        let mut result = Ok(());
        for ptr in &self.0.folios[..usize::from(folios)] {
            // SAFETY: The first `nr` entries are folios that the batch has had a reference to.
            let folio = unsafe { Folio::own(NonNull::new_unchecked(*ptr)) };
            if result.is_ok() {
                result = f(folio);
            }
        }
        result
    }

    /// Has the batch drop a reference to `folio` when it is full, or released.
    fn add(&mut self, folio: ARef<Folio>) {
        let nr = usize::from(self.0.nr);
        self.0.folios[nr] = ARef::into_raw(folio).as_ptr().cast();
        self.0.nr += 1;
        if nr + 1 == self.0.folios.len() {
            self.put();
        }
    }

    /// Drops the references.
    pub(crate) fn put(&mut self) {
        // SAFETY: The batch is valid, and has a reference to each of its folios. It is empty then.
        unsafe { bindings::folios_put_refs(&mut self.0, core::ptr::null_mut()) };
    }
}

impl Drop for FolioBatch {
    fn drop(&mut self) {
        self.put();
    }
}
