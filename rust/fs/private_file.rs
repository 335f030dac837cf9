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
//! each of them holds the lock of a folio in the mapping, which release waits for. The folio may leave
//! the mapping in the callback, so a [`Kept`] is got first; without one, when the last reference has
//! gone and release is due, it does nothing that the object takes part in. The file pins
//! the module through `file_operations.owner`. The inode may outlive both, when somebody has opened
//! the file by `/proc` with `O_PATH`: release gives it back the operations it was made with, and a
//! [`Registration`] waits, when the module goes, for who was just calling ours.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

mod registration;
mod residents;
mod tables;
#[cfg(CONFIG_KUNIT = "y")]
mod test_file;

pub use registration::Registration;
pub use residents::{
    Residents,
    Sighting, //
};
pub use tables::FileTables;
#[cfg(CONFIG_KUNIT = "y")]
pub use test_file::TestFile;

#[cfg(CONFIG_KUNIT = "y")]
use crate::mm::folio::{
    LockedFolio,
    NewFolio, //
};
use crate::{
    ffi,
    kvm::Bindings,
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
    error::from_err_ptr,
    fs::File,
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

    /// mm asks to move a folio.
    ///
    /// On success the new one is in the place of the old. May sleep, but only for short; must not wait for
    /// a lock that a task in direct compaction may hold, or for memory.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: mm may try again at once. All others: not now.
    fn migrate(file: &Attached<Self>, migration: &mut Migration<'_>) -> Result;

    /// A memory block begins to go offline: what the files move out of it now, mm need not ask for
    /// one by one. May sleep and allocate, see [`Offline`](crate::mm::hotplug::Offline); must not wait
    /// for a lock under which somebody may do so.
    fn going_offline(block: &mut Residents<'_, Self>);

    /// The memory of `folio` has failed, and it is about to leave the file, whose release has not
    /// begun. Must not wait for the `invalidate_lock` or fail.
    fn failed(file: &Attached<Self>, folio: &Locked);

    /// The folio that was at page offset `index` has failed and left the file, but VMs may map it
    /// still. May sleep.
    fn unmap_failed(file: &Attached<Self>, index: usize);

    /// What [`Attached::defer`] was called for. Process context, no locks held.
    fn deferred(file: &Attached<Self>);

    /// Adds lines to `/proc/<pid>/fdinfo/<fd>`. May sleep.
    fn show_fdinfo(file: &Attached<Self>, m: &SeqFile);
}

/// A folio that mm has isolated and wants to move, and one to take its place.
pub struct Migration<'a> {
    src: &'a Locked,
    dst: &'a Locked,
}

impl<'a> Migration<'a> {
    /// The folio that is to make room.
    pub fn src(&self) -> &'a Locked {
        self.src
    }

    /// The folio that is to take its place.
    pub fn dst(&self) -> &'a Locked {
        self.dst
    }

    /// Speaks for mm.
    #[cfg(CONFIG_KUNIT = "y")]
    pub fn test_new(src: &'a mut LockedFolio, dst: &'a mut NewFolio) -> Self {
        Self { src, dst }
    }
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
    #[pin]
    bindings: Bindings,
    #[pin]
    object: T,
}

// SAFETY: The pointers are to objects of the kernel's that belong to no thread and have locks of
// their own; nothing here changes after create().
unsafe impl<T: PrivateFile> Send for Attached<T> {}
// SAFETY: As above.
unsafe impl<T: PrivateFile> Sync for Attached<T> {}

impl<T: PrivateFile> Attached<T> {
    /// The object behind the file.
    pub fn object(&self) -> &T {
        &self.object
    }

    /// Who uses the file.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The file's pages.
    pub fn mapping(&self) -> &Mapping {
        // SAFETY: By the type invariant.
        unsafe { Mapping::from_raw(self.mapping) }
    }

    /// Keeps the file from going away, unless its last reference has gone. Its release may be due in
    /// this very task, when it returns to user mode.
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
pub struct Kept<T: PrivateFile>(ARef<File>, PhantomData<Arc<Attached<T>>>);

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
/// `ENOMEM`. `ENODEV`: there is no [`Registration`].
pub fn create<T: PrivateFile>(
    name: &'static CStr,
    object: impl PinInit<T, Error>,
    size: u64,
    mobility: Mobility,
) -> Result<ARef<File>> {
    let bytes = bindings::loff_t::try_from(size).map_err(|_| EINVAL)?;
    if bytes == 0 || size % PAGE_SIZE as u64 != 0 {
        return Err(EINVAL);
    }
    let tables = T::tables();
    let attached = KBox::pin_init(
        try_pin_init!(Attached {
            hook: ffi::privmemfd_migrate_hook {
                migrate: Some(FileTables::<T>::migrate),
            },
            work <- new_work!("privmemfd::Attached::work"),
            file: core::ptr::null_mut(),
            mapping: core::ptr::null_mut(),
            inode_ops: core::ptr::null(),
            mapping_ops: core::ptr::null(),
            bindings <- Bindings::new(),
            object <- object,
        }),
        GFP_KERNEL,
    )?;
    // Not before: a registration that goes waits for the files that it can see.
    if !Registration::<T>::is_there() {
        return Err(ENODEV);
    }

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

/// Inode number of a file.
pub fn ino(file: &File) -> u64 {
    // SAFETY: An open file has an inode, whose number does not change.
    unsafe { (*(*file.as_ptr()).f_inode).i_ino }
}
