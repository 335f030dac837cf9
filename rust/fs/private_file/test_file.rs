// SPDX-License-Identifier: GPL-2.0

//! Private files for KUnit.

use super::{
    Attached,
    Kept,
    PrivateFile, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref, //
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

/// A private file that a test holds. Its release has ended when it is dropped.
pub struct TestFile<T: PrivateFile>(ManuallyDrop<Kept<T>>);

impl<T: PrivateFile> TestFile<T> {
    /// Takes over a file.
    ///
    /// # Errors
    ///
    /// `EBADF`: the file is no private file of this type.
    pub fn new(file: ARef<File>) -> Result<Self> {
        // SAFETY: An open file has operations, which do not change.
        let ops = unsafe { (*file.as_ptr()).f_op };
        if !core::ptr::eq(ops, &T::tables().file) {
            return Err(EBADF);
        }
        Ok(Self(ManuallyDrop::new(Kept(file, PhantomData))))
    }
}

impl<T: PrivateFile> Deref for TestFile<T> {
    type Target = Attached<T>;

    fn deref(&self) -> &Attached<T> {
        &self.0
    }
}

impl<T: PrivateFile> Drop for TestFile<T> {
    fn drop(&mut self) {
        // SAFETY: Dropped only here.
        unsafe { ManuallyDrop::drop(&mut self.0) };
        // Files that a kernel thread lets go are released later, and pin the module until then.
        // SAFETY: Process context, no locks held.
        unsafe { bindings::flush_delayed_fput() };
    }
}
