// SPDX-License-Identifier: GPL-2.0
//! The fault plan as text.

use std::ffi::{c_char, CStr};

use crate::module;

/// See `tdx_emu.h`.
///
/// # Safety
/// `line` is a string that ends with 0.
#[no_mangle]
pub unsafe extern "C" fn tdx_emu_faults_apply(line: *const c_char) -> bool {
    // SAFETY: The caller says so.
    let Ok(line) = unsafe { CStr::from_ptr(line) }.to_str() else {
        return false;
    };
    // There is nothing here that could spend the time.
    !line.contains("delay=") && module().faults.apply(line).is_ok()
}

/// See `tdx_emu.h`.
///
/// # Safety
/// There are `size` bytes to write to at `text`.
#[no_mangle]
pub unsafe extern "C" fn tdx_emu_faults_show(text: *mut c_char, size: usize) -> usize {
    let mut shown = String::new();
    if module().faults.write(&mut shown).is_err() || size == 0 {
        return 0;
    }
    let length = shown.len().min(size - 1);
    // SAFETY: `length` and one more are within `size`; a new string is nobody
    // else's memory.
    unsafe {
        text.copy_from_nonoverlapping(shown.as_ptr().cast(), length);
        text.add(length).write(0);
    }
    length
}
