// SPDX-License-Identifier: GPL-2.0

//! A maple tree that many threads use.
//!
//! [`kernel::maple_tree`] has a lock in each tree, but does not say that threads may share it.

use core::ops::Deref;
use kernel::{
    maple_tree::MapleTree,
    prelude::*,
    types::ForeignOwnable, //
};

/// See the module documentation.
#[pin_data]
pub struct SharedTree<T: ForeignOwnable> {
    #[pin]
    tree: MapleTree<T>,
}

// SAFETY: A tree belongs to no thread; what is in it may go to another.
unsafe impl<T: ForeignOwnable + Send> Send for SharedTree<T> {}
// SAFETY: Each method of the tree takes its lock, or wants the guard that holds it; so one thread at
// a time has access to what is in the tree.
unsafe impl<T: ForeignOwnable + Send> Sync for SharedTree<T> {}

impl<T: ForeignOwnable> SharedTree<T> {
    /// An empty tree.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            tree <- MapleTree::new(),
        })
    }
}

impl<T: ForeignOwnable> Deref for SharedTree<T> {
    type Target = MapleTree<T>;

    fn deref(&self) -> &MapleTree<T> {
        &self.tree
    }
}
