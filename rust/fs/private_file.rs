// SPDX-License-Identifier: GPL-2.0

//! Files with pages of their own that user space cannot read, write or map.
//!
//! A module implements [`PrivateFile`] for the object behind a file and defines one static
//! [`FileTables`] for it. [`create`] makes the file; it is an anonymous file with one inode.
//!
//! # Lifetime
//!
//! An [`Attached`] joins object, `struct file` and mapping. It is made by [`create`] and freed by
//! the file's release, after the last page has gone. Until then callbacks of the mapping may run:
//! each of them holds the lock of a folio in the mapping, which release waits for. The file pins
//! the module through `file_operations.owner`. The inode may outlive both, when somebody has opened
//! the file by `/proc` with `O_PATH`: release gives it back the operations it was made with, and a
//! [`CallbackBarrier`] waits, when the module goes, for who was just calling ours.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

mod offline;
#[cfg(CONFIG_KUNIT = "y")]
mod test_file;

pub use offline::OfflineWatch;
#[cfg(CONFIG_KUNIT = "y")]
pub use test_file::TestFile;

use crate::{
    ffi,
    mm::{
        folio::Locked,
        mapping::{
            Mapping,
            Mobility, //
        }, //
    },
    workqueue::ModuleQueue, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        from_result, //
    },
    fs::File,
    module::this_module,
    page::PAGE_SIZE,
    prelude::*,
    seq_file::SeqFile,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::Opaque,
    workqueue::{
        new_work,
        RawWorkItem,
        Work,
        WorkItem,
        WorkItemPointer, //
    }, //
};

/// What `fallocate(2)` asks for. Offsets are page offsets, the range is not empty.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fallocate {
    /// Give memory to every page of the range.
    Allocate,
    /// Take the memory of every page of the range.
    PunchHole,
}

/// The object behind a private file.
#[vtable]
pub trait PrivateFile: Send + Sync + Sized + 'static {
    /// The one table of this type.
    fn tables() -> &'static FileTables<Self>;

    /// An ioctl on the file. Process context, no locks held.
    fn ioctl(file: &Attached<Self>, cmd: u32, arg: usize) -> Result<isize>;

    /// `fallocate(2)`; the range is within the file. Process context, no locks held.
    fn fallocate(file: &Attached<Self>, what: Fallocate, pages: core::ops::Range<usize>) -> Result;

    /// mm asks to move `src`, which it has isolated, to `dst`.
    ///
    /// On success `dst` is in the place of `src`. May sleep, but only for short; must not wait for
    /// a lock that a task in direct compaction may hold, and must not allocate.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: mm may try again at once. All others: not now.
    fn migrate(file: &Attached<Self>, dst: &Locked, src: &Locked) -> Result;

    /// The memory of `folio` has failed, and it is about to leave the file. Must not wait for the
    /// `invalidate_lock` or fail.
    fn failed(file: &Attached<Self>, folio: &Locked);

    /// The folio that was at page offset `index` has failed and left the file, but VMs may map it
    /// still. May sleep.
    fn unmap_failed(file: &Attached<Self>, index: usize);

    /// What [`Attached::defer`] was called for. Process context, no locks held.
    fn deferred(file: &Attached<Self>);

    /// Adds lines to `/proc/<pid>/fdinfo/<fd>`. May sleep.
    fn show_fdinfo(file: &Attached<Self>, m: &SeqFile);
}

/// A file, its mapping and the object behind it.
///
/// # Invariants
///
/// `file` and `mapping` belong to each other and were made by [`create`]; `mapping` is valid as
/// long as this object exists.
#[pin_data]
#[repr(C)]
pub struct Attached<T: PrivateFile> {
    // First: what `privmemfd_helper_migrate_folio()` calls.
    hook: ffi::privmemfd_migrate_hook,
    #[pin]
    work: Work<Attached<T>>,
    file: *mut bindings::file,
    mapping: *mut bindings::address_space,
    // What the inode had before and gets back: it may outlive the module.
    inode_ops: *const bindings::inode_operations,
    mapping_ops: *const bindings::address_space_operations,
    object: Arc<T>,
}

impl<T: PrivateFile> Attached<T> {
    /// The object behind the file.
    pub fn object(&self) -> &T {
        &self.object
    }

    /// The file's pages.
    pub fn mapping(&self) -> &Mapping {
        // SAFETY: By the type invariant.
        unsafe { Mapping::from_raw(self.mapping) }
    }

    /// Keeps the file from going away, unless its release has begun.
    pub fn keep(&self) -> Option<Kept<T>> {
        let mut file = self.file;
        // SAFETY: `file` points to a file pointer; memory of files is type-stable, which is what
        // get_file_active() relies on.
        let ptr = unsafe { ffi::privmemfd_helper_get_file_active(&mut file) };
        let ptr = NonNull::new(ptr)?;
        // SAFETY: get_file_active() has taken a reference for the caller. No fdget_pos() region is
        // involved, since the file descriptor table is not.
        Some(Kept(unsafe { ARef::from_raw(ptr.cast()) }, PhantomData))
    }

    /// Has [`PrivateFile::deferred`] called soon, once for all calls until then; unless the release
    /// of the file has begun. Any context that may not sleep either; needs no memory.
    pub fn defer(&self, queue: &ModuleQueue) {
        if let Some(kept) = self.keep() {
            queue.enqueue(kept);
        }
    }

    /// Borrows from `struct file`.
    ///
    /// # Safety
    ///
    /// `file` was made by [`create`] for this `T` and is not released during `'a`.
    pub(crate) unsafe fn from_file<'a>(file: *mut bindings::file) -> &'a Self {
        // SAFETY: create() has stored the pointer, release() frees it, by the caller's promise not
        // during 'a.
        unsafe { &*(*file).private_data.cast() }
    }

    /// Borrows from `struct address_space`.
    ///
    /// # Safety
    ///
    /// `mapping` is the mapping of a file made by [`create`] for this `T`, and a folio in it is
    /// locked for all of `'a`, so that the release of the file waits.
    unsafe fn from_mapping<'a>(mapping: *mut bindings::address_space) -> &'a Self {
        // SAFETY: create() has stored the pointer; by the caller's promise it is not freed in 'a.
        unsafe { &*(*(*mapping).host).i_private.cast() }
    }
}

/// A reference to a private file.
pub struct Kept<T: PrivateFile>(ARef<File>, PhantomData<Arc<T>>);

impl<T: PrivateFile> WorkItem for Attached<T> {
    type Pointer = Kept<T>;

    fn run(this: Kept<T>) {
        T::deferred(&this);
    }
}

// SAFETY: `__enqueue` gives the `work_struct` of the file that the reference keeps, made by
// create() with the function of `WorkItemPointer`, and gives the reference away if it is queued.
unsafe impl<T: PrivateFile> RawWorkItem<0> for Kept<T> {
    type EnqueueOutput = ();

    unsafe fn __enqueue<F>(self, queue_work_on: F)
    where
        F: FnOnce(*mut bindings::work_struct) -> bool,
    {
        let attached: *const Attached<T> = &*self;
        // SAFETY: The file is kept, so this points into a valid object.
        let work = unsafe { Work::raw_get(&raw const (*attached).work) };
        if queue_work_on(work) {
            // run() has it.
            core::mem::forget(self);
        }
    }
}

// SAFETY: run() calls `WorkItem::run` with the reference that `__enqueue` has given away.
unsafe impl<T: PrivateFile> WorkItemPointer<0> for Kept<T> {
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        let work = Opaque::cast_from(work).cast::<Work<Attached<T>>>();
        // SAFETY: By the caller's promise, this is the `work` of an `Attached` that is kept.
        let attached = unsafe { &*kernel::container_of!(work, Attached<T>, work) };
        let file = attached.file;
        // SAFETY: __enqueue() has given this reference away, and file pointers are not null.
        let file = unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast())) };
        <Attached<T> as WorkItem>::run(Kept(file, PhantomData));
    }
}

impl<T: PrivateFile> core::ops::Deref for Kept<T> {
    type Target = Attached<T>;

    fn deref(&self) -> &Attached<T> {
        // SAFETY: The file is one of `T` since it comes from Attached::keep(), and is not released
        // while there is a reference.
        unsafe { Attached::from_file(self.0.as_ptr()) }
    }
}

/// Makes a private file of `size` bytes.
///
/// May sleep. The file is not in a file descriptor table yet.
///
/// # Errors
///
/// `EINVAL`: `size` is 0, not a multiple of the page size or too large for a file. `ENFILE`,
/// `ENOMEM`.
pub fn create<T: PrivateFile>(
    name: &'static CStr,
    object: Arc<T>,
    size: u64,
    mobility: Mobility,
) -> Result<ARef<File>> {
    let bytes = bindings::loff_t::try_from(size).map_err(|_| EINVAL)?;
    if bytes == 0 || size % PAGE_SIZE as u64 != 0 {
        return Err(EINVAL);
    }
    let tables = T::tables();
    let attached = KBox::pin_init(
        pin_init!(Attached {
            hook: ffi::privmemfd_migrate_hook {
                migrate: Some(FileTables::<T>::migrate),
            },
            work <- new_work!("privmemfd::Attached::work"),
            file: core::ptr::null_mut(),
            mapping: core::ptr::null_mut(),
            inode_ops: core::ptr::null(),
            mapping_ops: core::ptr::null(),
            object,
        }),
        GFP_KERNEL,
    )?;

    // SAFETY: The name and the table are static; no context inode is given.
    let file = from_err_ptr(unsafe {
        ffi::anon_inode_create_getfile(
            name.as_char_ptr(),
            &tables.file,
            core::ptr::null_mut(),
            (bindings::O_RDWR | bindings::O_LARGEFILE) as kernel::ffi::c_int,
            core::ptr::null(),
        )
    })?;

    // From here the file's release frees `attached`.
    // SAFETY: The object stays where it is until release() frees it.
    let attached = KBox::into_raw(unsafe { core::pin::Pin::into_inner_unchecked(attached) });
    // SAFETY: The file is new, so it and its inode are this function's alone.
    unsafe {
        let inode = (*file).f_inode;
        let mapping = (*inode).i_mapping;

        (*attached).file = file;
        (*attached).mapping = mapping;
        (*attached).inode_ops = (*inode).i_op;
        (*attached).mapping_ops = (*mapping).a_ops;
        (*mapping).a_ops = &tables.mapping;
        (*inode).i_private = attached.cast();
        (*inode).i_op = &tables.inode;
        (*inode).i_mode |= bindings::S_IFREG as bindings::umode_t;
        ffi::privmemfd_helper_i_size_write(inode, bytes);
        Mapping::from_raw(mapping).init(mobility);
        (*file).private_data = attached.cast();
    }
    // SAFETY: The reference that anon_inode_create_getfile() has returned is given to the ARef. No
    // fdget_pos() region can exist for a file that is in no file descriptor table.
    Ok(unsafe { ARef::from_raw(NonNull::new(file.cast()).ok_or(ENOMEM)?) })
}

/// Waits, when it is dropped, for callbacks that no file keeps the module loaded for. A module with
/// private files drops it last.
pub struct CallbackBarrier;

impl Drop for CallbackBarrier {
    fn drop(&mut self) {
        // SAFETY: Process context, no locks held.
        unsafe { ffi::privmemfd_helper_synchronize_rcu_tasks() };
    }
}

/// Inode number of a file.
pub fn ino(file: &File) -> u64 {
    // SAFETY: An open file has an inode, whose number does not change.
    unsafe { (*(*file.as_ptr()).f_inode).i_ino }
}

/// The C function tables of one kind of private file. To be put into a `static`.
pub struct FileTables<T> {
    pub(crate) file: bindings::file_operations,
    inode: bindings::inode_operations,
    mapping: bindings::address_space_operations,
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
    /// `file` is a file made by [`create`] for `T`; its last reference has gone.
    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> kernel::ffi::c_int {
        // SAFETY: By the caller's promise; freed only below.
        let attached = unsafe { Attached::<T>::from_file(file) };
        let pages = attached.mapping().size() / PAGE_SIZE;
        // No memslot has a reference, so no guest maps a page.
        attached.mapping().lock_exclusive().truncate(0..pages);

        // SAFETY: The inode and its mapping are still there, by the caller's promise. Somebody who
        // looks at the inode without a reference to the file (O_PATH) finds either set of
        // operations; `CallbackBarrier` waits for those who found ours.
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
    /// `file` is a file made by [`create`] for `T`, with a reference during the call.
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
    /// `file` is a file made by [`create`] for `T`, with a reference during the call.
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
    /// `file` is a file made by [`create`] for `T`, with a reference during the call; `m` is a
    /// valid `struct seq_file`.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: By the caller's promise.
        let file = unsafe { Attached::<T>::from_file(file) };
        // SAFETY: By the caller's promise.
        T::show_fdinfo(file, unsafe { SeqFile::from_raw(m) });
    }

    /// # Safety
    ///
    /// `path` is the path of a file made by [`create`]; `stat` can be written.
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
    /// As for `address_space_operations.migrate_folio`, for a mapping of a file made by [`create`]
    /// for `T`.
    unsafe extern "C" fn migrate(
        mapping: *mut bindings::address_space,
        dst: *mut bindings::folio,
        src: *mut bindings::folio,
    ) -> kernel::ffi::c_int {
        // SAFETY: mm has locked `src`, which is in `mapping`, and holds the lock over the call.
        let file = unsafe { Attached::<T>::from_mapping(mapping) };
        // SAFETY: mm has locked both folios and holds references; they are of order 0, since the
        // mapping does not take large ones.
        let (dst, src) = unsafe { (Locked::from_raw(dst), Locked::from_raw(src)) };
        from_result(|| T::migrate(file, dst, src).map(|()| 0))
    }

    /// # Safety
    ///
    /// As for `address_space_operations.error_remove_folio`, for a mapping of a file made by
    /// [`create`] for `T`.
    unsafe extern "C" fn error_remove_folio(
        mapping: *mut bindings::address_space,
        folio: *mut bindings::folio,
    ) -> kernel::ffi::c_int {
        // SAFETY: memory_failure() has locked `folio`, which is in `mapping`, over the call.
        let file = unsafe { Attached::<T>::from_mapping(mapping) };
        // SAFETY: memory_failure() has locked the folio and holds a reference; this reference ends
        // before the lock is dropped below.
        let locked = unsafe { Locked::from_raw(folio) };
        let index = locked.index();
        // None: the file is being released, and no VM maps a page.
        let kept = file.keep();
        T::failed(file, locked);
        if let Err(e) = file.mapping().expel(locked) {
            return e.to_errno();
        }
        let Some(kept) = kept else { return 0 };

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
        if folio.has_content() && !folio.is_unusable() {
            folio.clear();
        }
    }
}
