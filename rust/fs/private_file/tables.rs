// SPDX-License-Identifier: GPL-2.0

//! The C function tables of private files, and what C calls through them.

use super::{
    Attached,
    Fallocate,
    Migration,
    PrivateFile, //
};
use crate::{
    ffi,
    mm::{
        folio::Locked,
        mapping::{
            replace_folio,
            Lru,
            Mapping, //
        }, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    error::from_result,
    module::this_module,
    page::PAGE_SIZE,
    prelude::*,
    seq_file::SeqFile, //
};

/// The C function tables of one kind of private file. To be put into a `static`.
pub struct FileTables<T> {
    pub(crate) file: bindings::file_operations,
    pub(super) inode: bindings::inode_operations,
    pub(super) mapping: bindings::address_space_operations,
    _t: PhantomData<fn(T)>,
}

// SAFETY: The tables are never written.
unsafe impl<T> Sync for FileTables<T> {}

impl<T: PrivateFile> Default for FileTables<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: PrivateFile> FileTables<T> {
    /// The tables for `T`.
    pub const fn new() -> Self {
        Self {
            file: bindings::file_operations {
                owner: this_module::<T::OwnerModule>().as_ptr(),
                release: Some(Self::release),
                unlocked_ioctl: Some(Self::ioctl),
                #[cfg(CONFIG_COMPAT)]
                compat_ioctl: bindings::compat_ptr_ioctl,
                fallocate: Some(Self::fallocate),
                show_fdinfo: Some(Self::show_fdinfo),
                ..pin_init::zeroed()
            },
            inode: bindings::inode_operations {
                getattr: Some(Self::getattr),
                setattr: Some(Self::setattr),
                ..pin_init::zeroed()
            },
            mapping: bindings::address_space_operations {
                dirty_folio: Some(bindings::noop_dirty_folio),
                migrate_folio: Some(ffi::privmemfd_helper_migrate_folio),
                error_remove_folio: Some(Self::error_remove_folio),
                free_folio: Some(Self::free_folio),
                ..pin_init::zeroed()
            },
            _t: PhantomData,
        }
    }

    /// # Safety
    ///
    /// `file` is a file made by [`create`](super::create) for `T`; its last reference has gone.
    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> kernel::ffi::c_int {
        // SAFETY: By the caller's promise; freed only below.
        let attached = unsafe { Attached::<T>::from_file(file) };
        let mapping = attached.mapping();
        for part in mapping.chunks(0..mapping.size() / PAGE_SIZE) {
            // No memslot has a reference, so no guest maps a page.
            mapping.lock_exclusive().truncate(part);
        }

        // SAFETY: The inode and its mapping are still there, by the caller's promise. Somebody who
        // looks at the inode without a reference to the file (O_PATH) finds either set of
        // operations; `Registration` waits for those who found ours.
        let ptr = unsafe {
            let inode = (*file).f_inode;
            core::ptr::write_volatile(&raw mut (*inode).i_op, attached.inode_ops);
            (*attached.mapping).a_ops = attached.mapping_ops;
            (*inode).i_private = core::ptr::null_mut();
            (*file).private_data
        };
        // SAFETY: create() has made the pointer from a KBox. No page is left, so no callback of the
        // mapping uses it any more, and none of the file can follow.
        drop(unsafe { KBox::<Attached<T>>::from_raw(ptr.cast()) });
        0
    }

    /// # Safety
    ///
    /// `file` is a file made by [`create`](super::create) for `T`, with a reference during the call.
    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        cmd: kernel::ffi::c_uint,
        arg: kernel::ffi::c_ulong,
    ) -> kernel::ffi::c_long {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        from_result(|| T::ioctl(file, cmd, arg))
    }

    /// # Safety
    ///
    /// `file` is a file made by [`create`](super::create) for `T`, with a reference during the call.
    unsafe extern "C" fn fallocate(
        file: *mut bindings::file,
        mode: kernel::ffi::c_int,
        offset: bindings::loff_t,
        len: bindings::loff_t,
    ) -> kernel::ffi::c_long {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        from_result(|| {
            const KEEP_SIZE: u32 = ffi::FALLOC_FL_KEEP_SIZE;
            const PUNCH_HOLE: u32 = KEEP_SIZE | ffi::FALLOC_FL_PUNCH_HOLE;

            let what = match u32::try_from(mode) {
                Ok(KEEP_SIZE) => Fallocate::Allocate,
                Ok(PUNCH_HOLE) => Fallocate::PunchHole,
                _ => return Err(EOPNOTSUPP),
            };
            let start = usize::try_from(offset).map_err(|_| EINVAL)?;
            let len = usize::try_from(len).map_err(|_| EINVAL)?;
            let end = start.checked_add(len).ok_or(EINVAL)?;
            if start % PAGE_SIZE != 0 || len % PAGE_SIZE != 0 {
                return Err(EINVAL);
            }
            let size = file.mapping().size();
            let end = match what {
                Fallocate::Allocate if end > size => return Err(EINVAL),
                Fallocate::Allocate => end,
                // What is beyond the end is a hole already.
                Fallocate::PunchHole => end.min(size),
            };
            if start < end {
                T::fallocate(file, what, start / PAGE_SIZE..end / PAGE_SIZE)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `file` is a file made by [`create`](super::create) for `T`, with a reference during the call; `m` is a
    /// valid `struct seq_file`.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        // SAFETY: By the caller's promise.
        T::show_fdinfo(file, unsafe { SeqFile::from_raw(m) });
    }

    /// # Safety
    ///
    /// `path` is the path of a file made by [`create`](super::create); `stat` can be written.
    unsafe extern "C" fn getattr(
        idmap: *mut bindings::mnt_idmap,
        path: *const bindings::path,
        stat: *mut bindings::kstat,
        request_mask: u32,
        _flags: kernel::ffi::c_uint,
    ) -> kernel::ffi::c_int {
        // SAFETY: By the caller's promise; the dentry of an open file has an inode.
        unsafe {
            let inode = (*(*path).dentry).d_inode;
            bindings::generic_fillattr(idmap, request_mask, inode, stat);
            // In units of 512 bytes, whatever the page size.
            let pages = Mapping::from_raw((*inode).i_mapping).nr_pages();
            (*stat).blocks = (pages * (PAGE_SIZE / 512)) as u64;
        }
        0
    }

    /// Nothing of the file can be changed, its size least of all.
    ///
    /// # Safety
    ///
    /// None; the signature is C's.
    unsafe extern "C" fn setattr(
        _idmap: *mut bindings::mnt_idmap,
        _dentry: *mut bindings::dentry,
        _attr: *mut bindings::iattr,
    ) -> kernel::ffi::c_int {
        EINVAL.to_errno()
    }

    /// # Safety
    ///
    /// As for `address_space_operations.migrate_folio`, for a mapping of a file made by [`create`](super::create)
    /// for `T`.
    pub(super) unsafe extern "C" fn migrate(
        mapping: *mut bindings::address_space,
        dst: *mut bindings::folio,
        src: *mut bindings::folio,
    ) -> kernel::ffi::c_int {
        // SAFETY: mm has locked `src`, which is in `mapping` until `T` is asked below.
        let kept = unsafe { Attached::<T>::from_mapping(mapping) }.keep();
        // SAFETY: mm has locked both folios and holds references; they are of order 0, since the
        // mapping does not take large ones.
        let (dst, src) = unsafe { (Locked::from_raw(dst), Locked::from_raw(src)) };
        let Some(file) = kept else {
            // Nobody has the file any more, so nobody maps the page or wants its content. Release may
            // be waiting for just this task to go on, and so would mm: the page makes room. There is
            // one in the file all the time, and its lock is held, so release does wait.
            return if replace_folio(src, dst, Lru::Isolated) {
                0
            } else {
                EAGAIN.to_errno()
            };
        };
        let index = src.index();
        let result = T::migrate(&file, &mut Migration { src, dst });
        // mm believes what it is told, so it is told what is so.
        if file.mapping().has_at(index, dst) {
            0
        } else {
            result.err().unwrap_or(EAGAIN).to_errno()
        }
    }

    /// # Safety
    ///
    /// As for `address_space_operations.error_remove_folio`, for a mapping of a file made by
    /// [`create`](super::create) for `T`.
    pub(super) unsafe extern "C" fn error_remove_folio(
        mapping: *mut bindings::address_space,
        folio: *mut bindings::folio,
    ) -> kernel::ffi::c_int {
        // SAFETY: memory_failure() has locked `folio`, which is in `mapping` until it is expelled.
        let file = unsafe { Attached::<T>::from_mapping(mapping) };
        // SAFETY: memory_failure() has locked the folio and holds a reference; this reference ends
        // before the lock is dropped below.
        let locked = unsafe { Locked::from_raw(folio) };
        let index = locked.index();
        let Some(kept) = file.keep() else {
            // The file is being released: no VM maps a page, and nobody asks what has become of it.
            return match file.mapping().expel(locked) {
                Ok(()) => 0,
                Err(e) => e.to_errno(),
            };
        };
        T::failed(&kept, locked);
        if let Err(e) = kept.mapping().expel(locked) {
            return e.to_errno();
        }

        // Whoever has the invalidate_lock may be waiting for just this folio. It is in no file now,
        // so nothing of it changes while it is unlocked, and memory_failure() has a reference.
        // SAFETY: The lock is held on behalf of this call.
        unsafe { bindings::folio_unlock(folio) };
        T::unmap_failed(&kept, index);
        // SAFETY: The folio is valid, see above.
        unsafe { ffi::privmemfd_helper_folio_lock(folio) };
        // Last, for it keeps the module too.
        drop(kept);
        0
    }

    /// A folio has left the file: erase what a guest has left in it.
    ///
    /// Last step of truncation and of a relocation. No guest maps the folio any more; whoever still
    /// holds a reference is a page fault that has lost its race and will not use the content.
    ///
    /// # Safety
    ///
    /// As for `address_space_operations.free_folio`.
    unsafe extern "C" fn free_folio(folio: *mut bindings::folio) {
        // SAFETY: mm calls this with the folio locked and a reference.
        let folio = unsafe { Locked::from_raw(folio) };
        // What is unusable must not be touched; mm does not use it again either.
        if folio.has_usable_content() {
            folio.clear();
        }
    }
}
