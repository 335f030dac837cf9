// SPDX-License-Identifier: GPL-2.0
//! One object behind two files.
//! Expected: E0382

use kernel::prelude::*;
use privmemfd_kernel::{
    fs::private_file::{self, PrivateFile},
    mm::mapping::Mobility,
};

/// The second file has none left.
pub fn twins<T: PrivateFile>(object: impl PinInit<T, Error>) -> Result {
    private_file::create::<T>(c"one", object, 4096, Mobility::Movable)?;
    private_file::create::<T>(c"two", object, 4096, Mobility::Movable)?;
    Ok(())
}
