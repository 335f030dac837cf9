// SPDX-License-Identifier: GPL-2.0

//! Folios that come and go together: one look at the zone and its lists for all of them.
//!
//! C headers: [`include/linux/folio_batch.h`](srctree/include/linux/folio_batch.h),
//! [`include/linux/gfp.h`](srctree/include/linux/gfp.h)

use super::{
    folio::{
        Folio,
        NewFolio, //
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
    pub(crate) fn alloc(&mut self, count: usize, mut take: impl FnMut(NewFolio)) -> Result {
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
            new.for_each(|ptr| take(unsafe { NewFolio::own(Folio::own(ptr)) }));
        }
        if left == 1 {
            // SAFETY: It comes from the allocator.
            take(unsafe { NewFolio::own(self.alloc_one()?) });
        }
        Ok(())
    }

    /// As [`Placement::alloc`], one, which is not locked.
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

/// Folios that are let go of later: those that nobody else has are freed together.
pub struct Leaving {
    batches: KVec<FolioBatch>,
    /// The one that has room.
    next: usize,
}

impl Leaving {
    /// For so many; one alone goes at once, for there is nothing to free it with. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(folios: usize) -> Result<Self> {
        let count = match folios {
            ..=1 => 0,
            _ => folios.div_ceil(FolioBatch::MOST),
        };
        let mut batches = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            batches
                .push_within_capacity(FolioBatch::new())
                .map_err(|_| ENOMEM)?;
        }
        Ok(Self { batches, next: 0 })
    }

    /// Keeps `folio` until [`Leaving::go`]. What there is no room for goes at once.
    pub fn add(&mut self, folio: ARef<Folio>) {
        if let Some(batch) = self.batches.get_mut(self.next) {
            if batch.add(folio) {
                self.next += 1;
            }
        }
    }

    /// Lets go of them. There is room for as many others.
    pub fn go(&mut self) {
        for batch in self.batches.iter_mut().take(self.next + 1) {
            batch.put();
        }
        self.next = 0;
    }
}

/// `struct folio_batch`: up to 31 folios, each with a reference.
pub(crate) struct FolioBatch(bindings::folio_batch, PhantomData<*mut ()>);

impl FolioBatch {
    const MOST: usize = bindings::FOLIO_BATCH_SIZE as usize;

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

    /// Has the batch, which is not full, drop a reference to `folio` when it is released. Says whether it
    /// is full now.
    fn add(&mut self, folio: ARef<Folio>) -> bool {
        let nr = usize::from(self.0.nr);
        self.0.folios[nr] = ARef::into_raw(folio).as_ptr().cast();
        self.0.nr += 1;
        nr + 1 == Self::MOST
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
